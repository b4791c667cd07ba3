/* Types with blocks of 32 inputs and one scale: for each block, in increasing order,
 *   acc = fma((float)I, d_w · d_a, acc),  I = Σ w a exactly,
 *   acc = fma(m_w, d_a · Σ a, acc)        (Q4_1, Q5_1).
 * Part of ops/arch/matmul_kernel.h. */

/* How a dot of the type is made in this set's form (ops/arch/dot.h). */
OPS_INLINE bool block32_is_split(const enum ops_type type)
{
    /* Weights of 8 bits as two nibbles, so that vpmaddubsw does not saturate: w = 16 high + low. */
    return !OPS_DOT_WIDE && (type == OPS_Q8_0 || type == OPS_IQ4_NL);
}

OPS_INLINE bool block32_in_halves(const enum ops_type type)
{
    /* 31 · 127 · 16 does not fit 16 bits, 31 · 127 · 8 does. */
    return !OPS_DOT_WIDE && type == OPS_Q5_1;
}

OPS_INLINE bool block32_has_minimum(const enum ops_type type)
{
    return type == OPS_Q4_1 || type == OPS_Q5_1;
}

OPS_INLINE enum ops_start block32_start(const enum ops_type type)
{
    if (type == OPS_Q5_0)
        return OPS_START_16;
    /* Split: the offset 128 is 8 in the high nibble. */
    return type == OPS_Q4_0 || block32_is_split(type) ? OPS_START_8 : OPS_START_128;
}

/* Inputs 4 j … 4 j + 3 as unsigned bytes; `body` is the block's, moved to the part's rows. */
OPS_INLINE part_i block32_load(const enum ops_type type, const uint8_t *body, const int j)
{
    const part_i nibble = pi_set1(0x0f0f0f0f), fifth = pi_set1(0x10101010);
    const bool five = type == OPS_Q5_0 || type == OPS_Q5_1;

    if (type == OPS_Q8_0)
        return pi_xor(pi_load(body + (size_t)j * OPS_WORD_BYTES), pi_set1((int)0x80808080));
    part_i w = pi_load(body + (size_t)(j % 4 + five) * OPS_WORD_BYTES);
    w = pi_and(j < 4 ? w : pi_shr(w, 4), nibble);
    if (five) {
        const part_i bits = pi_load(body);
        w = pi_or(w, pi_and(j < 4 ? pi_shl(bits, 4 - j) : pi_shr(bits, j - 4), fifth));
    }
    return type == OPS_IQ4_NL ? pi_table16(ops_iq4_values, w) : w;
}

/* One block of one part, and the float sums of its tokens. These live in memory: they are touched
 * once in 32 inputs, and no count of tokens needs code of its own. */
struct block32 {
    const uint8_t *body;
    part_f d, m;
    const struct ops_tile *tile;
    size_t at; /* of the block's first token in the planes */
    float (*acc)[OPS_PART_ROWS];
};

/* What token t adds. */
OPS_INLINE void block32_add(const enum ops_type type, const struct block32 *block, unsigned t,
                            part_i sum)
{
    const float *d_a = block->tile->d32 + block->at + t, *ds_a = block->tile->ds32 + block->at + t;
    part_f acc = pf_load(block->acc[t]);

    acc = pf_fma(pf_of_i(sum), pf_mul(block->d, pf_bcast(d_a)), acc);
    if (block32_has_minimum(type))
        acc = pf_fma(block->m, pf_bcast(ds_a), acc);
    pf_store(block->acc[t], acc);
}

OPS_INLINE part_i block32_first(const enum ops_type type, const struct block32 *block, unsigned t)
{
    if (block32_has_minimum(type))
        return pi_zero();
    return pi_bcast(block->tile->start32[block32_start(type)] + block->at + t);
}

/* The weights of a block as its dots take them: split types have a low part. */
struct block32_weights {
    part_i w, low;
};

OPS_INLINE struct block32_weights block32_step(const enum ops_type type,
                                               const struct block32 *block, const int j)
{
    const part_i nibble = pi_set1(0x0f0f0f0f);
    struct block32_weights step = {.w = block32_load(type, block->body, j)};

    step.low = pi_and(step.w, nibble);
    if (block32_is_split(type))
        step.w = pi_and(pi_shr(step.w, 4), nibble);
    return step;
}

/* Tokens first … first + n_tokens, side by side so that enough sums are in flight. The weights are
 * in registers already (`held`), or are made as they are needed. */
OPS_INLINE void block32_tokens(const enum ops_type type, const struct block32 *block,
                               const struct block32_weights *held, unsigned first,
                               const int n_tokens)
{
    const int8_t *a = block->tile->q32 + (block->at + first) * 32;
    part_i dot[OPS_TOKENS_MAX], dot_low[OPS_TOKENS_MAX], first_half[OPS_TOKENS_MAX];

    OPS_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        dot[t] = block32_first(type, block, first + (unsigned)t);
        dot_low[t] = pi_zero();
        first_half[t] = pi_zero();
    }
    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        const struct block32_weights step =
            OPS_WEIGHTS_HELD ? held[j] : block32_step(type, block, j);
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const part_i aj = pi_bcast(a + 32 * t + 4 * j);
            dot[t] = dot_step(dot[t], step.w, aj);
            if (block32_is_split(type))
                dot_low[t] = dot_step(dot_low[t], step.low, aj);
            if (block32_in_halves(type) && j == 3) {
                first_half[t] = dot_value(dot[t]);
                dot[t] = pi_zero();
            }
        }
    }
    OPS_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        part_i sum;
        if (block32_is_split(type))
            sum = pi_madd16_add(dot_value(dot_low[t]), dot[t], pi_set1(0x00100010));
        else if (block32_in_halves(type))
            sum = pi_add(first_half[t], dot_value(dot[t]));
        else
            sum = dot_value(dot[t]);
        block32_add(type, block, first + (unsigned)t, sum);
    }
}

OPS_INLINE void block32_part(const enum ops_type type, const struct block32 *block,
                             unsigned n_tokens)
{
    const unsigned most = block32_is_split(type) ? OPS_TOKENS_MAX / 2 : OPS_TOKENS_MAX;
    struct block32_weights held[8];
    unsigned t = 0;

    OPS_UNROLL
    for (int j = 0; OPS_WEIGHTS_HELD && j < 8; j++)
        held[j] = block32_step(type, block, j);
    for (; t + most <= n_tokens; t += most)
        block32_tokens(type, block, held, t, (int)most);
    for (; t + 2 <= n_tokens; t += 2)
        block32_tokens(type, block, held, t, 2);
    if (t < n_tokens)
        block32_tokens(type, block, held, t, 1);
}

OPS_INLINE void block32_group(const enum ops_type type, const struct ops_matmul_work *work,
                              uint32_t group)
{
    const struct ops_packing packing = ops_packing(type);
    const size_t body_bytes = packing.words * OPS_WORD_BYTES;
    const size_t plane_bytes = packing.halves * OPS_HALF_BYTES;
    const uint32_t n_blocks = work->n_cols / 32;
    const unsigned n_tokens = work->tile.n_tokens;
    const uint8_t *body = work->groups + group * work->group_bytes;
    const uint8_t *plane = body + n_blocks * body_bytes;
    float acc[OPS_PARTS][OPS_TILE_TOKENS][OPS_PART_ROWS] __attribute__((aligned(64)));

    memset(acc, 0, sizeof(acc));
    for (uint32_t b = 0; b < n_blocks; b++, body += body_bytes, plane += plane_bytes) {
        if (work->is_only_tile) {
            fetch_lines_ahead(body, body_bytes);
            fetch_lines_ahead(plane, plane_bytes);
        }
        for (size_t part = 0; part < OPS_PARTS; part++) {
            const uint8_t *halves = plane + part * OPS_PART_ROWS * 2;
            const struct block32 block = {
                .body = body + part * OPS_PART_ROWS * 4,
                .d = pf_load_f16(halves),
                .m = pf_load_f16(halves + (block32_has_minimum(type) ? OPS_HALF_BYTES : 0)),
                .tile = &work->tile,
                .at = (size_t)b * work->tile.width,
                .acc = acc[part],
            };
            block32_part(type, &block, n_tokens);
        }
    }
    for (int part = 0; part < OPS_PARTS; part++) {
        for (unsigned t = 0; t < n_tokens; t++)
            store_part(work, group, part, t, pf_load(acc[part][t]));
    }
}
