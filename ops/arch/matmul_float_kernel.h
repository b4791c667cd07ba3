/* Float weights: acc = fma(w, x, acc), inputs ascending. Part of ops/arch/matmul_kernel.h. */

#define OPS_FLOAT_GROUPS 4  /* groups in flight where few tokens alone have too few sums */
#define OPS_FLOAT_RUN    64 /* inputs between two looks at what to fetch */

OPS_INLINE part_f float_load(const enum ops_type type, const uint8_t *p)
{
    if (type == OPS_F32)
        return pf_load(p);
    return type == OPS_F16 ? pf_load_f16(p) : pf_load_bf16(p);
}

/* How lines to come are asked for: once, into the first level, is for one token (matmul_one_kernel.h). */
enum float_fetch { FLOAT_FETCH_NONE, FLOAT_FETCH_FAR, FLOAT_FETCH_ONCE };

typedef part_f float_sums[OPS_FLOAT_GROUPS * OPS_PARTS][OPS_TILE_TOKENS];

/* Adds the products of one input: w, of the first group's rows; x, of the first token. */
OPS_INLINE void float_input(const enum ops_type type, const int n_groups, const int n_tokens,
                            size_t group_bytes, const uint8_t *w, const float *x, float_sums acc)
{
    const size_t row_bytes = type == OPS_F32 ? 4 : 2;

    OPS_UNROLL
    for (int p = 0; p < n_groups * OPS_PARTS; p++) {
        const uint8_t *at = w + (size_t)(p / OPS_PARTS) * group_bytes +
                            (size_t)(p % OPS_PARTS) * OPS_PART_ROWS * row_bytes;
        const part_f wi = float_load(type, at);
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++)
            acc[p][t] = pf_fma(wi, pf_bcast(x + t), acc[p][t]);
    }
}

/* n_groups groups at once (so that enough sums are in flight) times tokens first … first + n_tokens. */
OPS_INLINE void float_tokens(const enum ops_type type, const int n_groups, const int n_tokens,
                             const enum float_fetch fetch, const struct ops_matmul_work *work,
                             uint32_t group, unsigned first)
{
    const size_t step = OPS_GROUP_ROWS * (type == OPS_F32 ? 4 : 2), width = work->tile.width;
    const int line = type == OPS_F32 ? 1 : 2; /* inputs of a line, which is asked for once */
    const uint8_t *w = work->groups + group * work->group_bytes;
    const float *x = work->tile.x + first;
    float_sums acc;

    OPS_UNROLL
    for (int p = 0; p < n_groups * OPS_PARTS; p++) {
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++)
            acc[p][t] = pf_zero();
    }
    for (uint32_t i = 0, end; i < work->n_cols; i = end) {
        const size_t far = fetch == FLOAT_FETCH_ONCE ? OPS_ONCE_BYTES / (size_t)n_groups
                                                     : far_bytes(work, i * step, n_groups);
        end = work->n_cols - i < OPS_FLOAT_RUN ? work->n_cols : i + OPS_FLOAT_RUN;
        uint32_t k = i;
        for (; k + (uint32_t)line <= end; k += (uint32_t)line) {
            OPS_UNROLL
            for (int g = 0; fetch && g < n_groups; g++) {
                const uint8_t *ahead = w + (size_t)g * work->group_bytes + far;
                if (fetch == FLOAT_FETCH_ONCE)
                    __builtin_prefetch(ahead);
                else
                    __builtin_prefetch(ahead, 0, 2);
            }
            OPS_UNROLL
            for (int c = 0; c < line; c++, w += step, x += width)
                float_input(type, n_groups, n_tokens, work->group_bytes, w, x, acc);
        }
        for (; k < end; k++, w += step, x += width)
            float_input(type, n_groups, n_tokens, work->group_bytes, w, x, acc);
    }
    OPS_UNROLL
    for (int p = 0; p < n_groups * OPS_PARTS; p++) {
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++)
            store_part(work, group + (uint32_t)(p / OPS_PARTS), p % OPS_PARTS, first + (unsigned)t,
                       acc[p][t]);
    }
}

/* n groups, OPS_FLOAT_GROUPS at most: n_side of them at once, what is left one by one. */
OPS_INLINE void float_groups(const enum ops_type type, const int n_side, const int n_tokens,
                             const struct ops_matmul_work *work, uint32_t group, uint32_t n,
                             unsigned first)
{
    const uint32_t end = group + n;
    const bool goes_by = work->is_only_tile && first == 0; /* the weights, for the first time */

    if (n_tokens == 1 && goes_by && work->fetch_once) {
        for (; group + (uint32_t)n_side <= end; group += (uint32_t)n_side)
            float_tokens(type, n_side, n_tokens, FLOAT_FETCH_ONCE, work, group, first);
    } else if (goes_by) {
        for (; group + (uint32_t)n_side <= end; group += (uint32_t)n_side)
            float_tokens(type, n_side, n_tokens, FLOAT_FETCH_FAR, work, group, first);
    } else {
        for (; group + (uint32_t)n_side <= end; group += (uint32_t)n_side)
            float_tokens(type, n_side, n_tokens, FLOAT_FETCH_NONE, work, group, first);
    }
    for (; n_side > 1 && group < end; group++)
        float_tokens(type, 1, n_tokens, FLOAT_FETCH_NONE, work, group, first);
}

/* The registers of AVX-512 hold 16 sums of 16 rows beside the weights, those of AVX2 half of it. */
OPS_INLINE void float_multiply(const enum ops_type type, const struct ops_matmul_work *work)
{
    const unsigned n_tokens = work->tile.n_tokens;
    uint32_t n;

    for (uint32_t g = 0; g < work->n_groups; g += n) {
        unsigned first = 0;
        n = work->n_groups - g < OPS_FLOAT_GROUPS ? work->n_groups - g : OPS_FLOAT_GROUPS;
        for (; OPS_PARTS == 1 && first + 16 <= n_tokens; first += 16)
            float_groups(type, 1, 16, work, g, n, first);
        for (; OPS_PARTS == 1 && first + 8 <= n_tokens; first += 8)
            float_groups(type, 2, 8, work, g, n, first);
        for (; first + 4 <= n_tokens; first += 4)
            float_groups(type, OPS_PARTS == 1 ? 4 : 1, 4, work, g, n, first);
        for (; first + 2 <= n_tokens; first += 2)
            float_groups(type, OPS_PARTS == 1 ? 4 : 2, 2, work, g, n, first);
        if (first < n_tokens)
            float_groups(type, 4, 1, work, g, n, first);
    }
}

static void multiply_f32(const struct ops_matmul_work *work)
{
    float_multiply(OPS_F32, work);
}

static void multiply_f16(const struct ops_matmul_work *work)
{
    float_multiply(OPS_F16, work);
}

static void multiply_bf16(const struct ops_matmul_work *work)
{
    float_multiply(OPS_BF16, work);
}
