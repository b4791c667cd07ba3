/* Float weights: acc = fma(w, x, acc), inputs ascending. Part of ops/arch/matmul_kernel.h. */

#define OPS_FLOAT_GROUPS 4 /* groups in flight where one token alone has too few sums */

OPS_INLINE part_f float_load(const enum ops_type type, const uint8_t *p)
{
    if (type == OPS_F32)
        return pf_load(p);
    return type == OPS_F16 ? pf_load_f16(p) : pf_load_bf16(p);
}

/* n_groups groups at once (so that enough sums are in flight) times tokens first … first + n_tokens. */
OPS_INLINE void float_tokens(const enum ops_type type, const int n_groups, const int n_tokens,
                             const struct ops_matmul_work *work, uint32_t group, unsigned first)
{
    const size_t row_bytes = type == OPS_F32 ? 4 : 2, step = OPS_GROUP_ROWS * row_bytes;
    const uint8_t *w = work->groups + group * work->group_bytes;
    const float *x = work->tile.x + first;
    part_f acc[OPS_FLOAT_GROUPS * OPS_PARTS][OPS_TILE_TOKENS];

    OPS_UNROLL
    for (int p = 0; p < n_groups * OPS_PARTS; p++) {
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++)
            acc[p][t] = pf_zero();
    }
    for (uint32_t i = 0; i < work->n_cols; i++, w += step, x += work->tile.width) {
        OPS_UNROLL
        for (int p = 0; p < n_groups * OPS_PARTS; p++) {
            const uint8_t *at = w + (size_t)(p / OPS_PARTS) * work->group_bytes +
                                (size_t)(p % OPS_PARTS) * OPS_PART_ROWS * row_bytes;
            if (n_tokens == 1 && p % OPS_PARTS == 0)
                fetch_ahead(at);
            const part_f wi = float_load(type, at);
            OPS_UNROLL
            for (int t = 0; t < n_tokens; t++)
                acc[p][t] = pf_fma(wi, pf_bcast(x + t), acc[p][t]);
        }
    }
    OPS_UNROLL
    for (int p = 0; p < n_groups * OPS_PARTS; p++) {
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++)
            store_part(work, group + (uint32_t)(p / OPS_PARTS), p % OPS_PARTS, first + (unsigned)t,
                       acc[p][t]);
    }
}

OPS_INLINE void float_multiply(const enum ops_type type, const struct ops_matmul_work *work)
{
    const unsigned n_tokens = work->tile.n_tokens;
    uint32_t g = 0;

    if (n_tokens == 1) {
        for (; g + OPS_FLOAT_GROUPS <= work->n_groups; g += OPS_FLOAT_GROUPS)
            float_tokens(type, OPS_FLOAT_GROUPS, 1, work, g, 0);
    }
    for (; g < work->n_groups; g++) {
        unsigned first = 0;
        for (; OPS_PARTS == 1 && first + 16 <= n_tokens; first += 16)
            float_tokens(type, 1, 16, work, g, first);
        for (; first + 4 <= n_tokens; first += 4)
            float_tokens(type, 1, 4, work, g, first);
        for (; first < n_tokens; first++)
            float_tokens(type, 1, 1, work, g, first);
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
