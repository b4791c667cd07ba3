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

/* One block of one part. */
struct block32 {
    const uint8_t *body;
    const struct ops_tile *tile;
    size_t at; /* of the block's first token in the planes */
};

OPS_INLINE part_i block32_first(const enum ops_type type, const struct block32 *block, size_t t)
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

/* The integer of a block from its sums: those of a split type's low part, and of its first half. */
OPS_INLINE part_i block32_value(const enum ops_type type, part_i dot, part_i low, part_i first_half)
{
    if (block32_is_split(type))
        return pi_madd16_add(dot_value(low), dot, pi_set1(0x00100010));
    return block32_in_halves(type) ? pi_add(first_half, dot_value(dot)) : dot_value(dot);
}

/* Some blocks of a part of one group, or of the same part of OPS_SIDE groups, and the float sums of
 * each with all tokens. */
struct block32_run {
    const struct ops_matmul_work *work;
    uint32_t group, begin, end; /* blocks */
    size_t part;
    float (*acc)[OPS_PARTS][OPS_TILE_TOKENS][OPS_PART_ROWS]; /* by group */
};

/* Adds what tokens first … first + n_tokens have in a run. They and n_side groups stand side by side, so
 * that enough sums are in flight and what is loaded of the activations serves all groups. */
OPS_INLINE void block32_tokens(const enum ops_type type, const struct block32_run *run,
                               const int n_side, size_t first, const int n_tokens)
{
    const struct ops_matmul_work *work = run->work;
    const struct ops_tile *tile = &work->tile;
    const uint8_t *group = work->groups + run->group * work->group_bytes;
    const size_t n_turns = fetch_turns(tile->n_tokens);
    size_t turn = first * n_turns / tile->n_tokens;
    part_f acc[OPS_SIDE][OPS_TOKENS_MAX];

    OPS_UNROLL
    for (int i = 0; i < n_side * n_tokens; i++)
        acc[i / n_tokens][i % n_tokens] =
            pf_load(run->acc[i / n_tokens][run->part][first + (size_t)(i % n_tokens)]);
    for (size_t b = run->begin; b < run->end; b++) {
        const uint8_t *body = group + ops_packed_body_at(type, b);
        const uint8_t *numbers = group + ops_packed_halves_at(type, b);
        part_i dot[OPS_SIDE][OPS_TOKENS_MAX], low[OPS_SIDE][OPS_TOKENS_MAX];
        part_i half[OPS_SIDE][OPS_TOKENS_MAX];
        struct block32 block[OPS_SIDE];
        const size_t at = b * tile->width + first;
        const int8_t *a = tile->q32 + at * 32;
        if (work->is_only_tile && run->part == 0 && turn-- == 0) {
            turn = n_turns - 1;
            fetch_block_ahead(type, work, run->group, n_side, b);
        }
        OPS_UNROLL
        for (int s = 0; s < n_side; s++) {
            block[s] = (struct block32){
                body + (size_t)s * work->group_bytes + run->part * OPS_PART_ROWS * 4, tile, at};
            OPS_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                dot[s][t] = block32_first(type, &block[s], (size_t)t);
                low[s][t] = half[s][t] = pi_zero();
            }
        }
        OPS_UNROLL
        for (int j = 0; j < 8; j++) {
            struct block32_weights step[OPS_SIDE];
            OPS_UNROLL
            for (int s = 0; s < n_side; s++) {
                block[s].body = load_anew(block[s].body);
                step[s] = block32_step(type, &block[s], j);
            }
            OPS_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                const part_i aj = pi_bcast(a + 32 * t + 4 * j);
                OPS_UNROLL
                for (int s = 0; s < n_side; s++) {
                    dot[s][t] = dot_step(dot[s][t], step[s].w, aj);
                    if (block32_is_split(type))
                        low[s][t] = dot_step(low[s][t], step[s].low, aj);
                    if (block32_in_halves(type) && j == 3) {
                        half[s][t] = dot_value(dot[s][t]);
                        dot[s][t] = pi_zero();
                    }
                }
            }
        }
        OPS_UNROLL
        for (int s = 0; s < n_side; s++) {
            const uint8_t *halves =
                numbers + (size_t)s * work->group_bytes + run->part * OPS_PART_ROWS * 2;
            const part_f d = pf_load_f16(halves);
            OPS_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                const part_i sum = block32_value(type, dot[s][t], low[s][t], half[s][t]);
                acc[s][t] =
                    pf_fma(pf_of_i(sum), pf_mul(d, pf_bcast(tile->d32 + at + t)), acc[s][t]);
                if (block32_has_minimum(type))
                    acc[s][t] = pf_fma(pf_load_f16(halves + OPS_HALF_BYTES),
                                       pf_bcast(tile->ds32 + at + t), acc[s][t]);
            }
        }
    }
    OPS_UNROLL
    for (int i = 0; i < n_side * n_tokens; i++)
        pf_store(run->acc[i / n_tokens][run->part][first + (size_t)(i % n_tokens)],
                 acc[i / n_tokens][i % n_tokens]);
}

OPS_INLINE void block32_groups(const enum ops_type type, const struct ops_matmul_work *work,
                               uint32_t group, const int n_side)
{
    const unsigned n_tokens = work->tile.n_tokens;
    const uint32_t n_blocks = work->n_cols / 32;
    float acc[OPS_SIDE][OPS_PARTS][OPS_TILE_TOKENS][OPS_PART_ROWS] __attribute__((aligned(64)));
    struct block32_run run = {.work = work, .group = group, .acc = acc};

    memset(acc, 0, sizeof(acc));
    for (; run.begin < n_blocks; run.begin = run.end) {
        run.end = n_blocks - run.begin < OPS_RUN_BLOCKS ? n_blocks : run.begin + OPS_RUN_BLOCKS;
        for (run.part = 0; run.part < OPS_PARTS; run.part++)
            OPS_EACH_TOKENS(block32_tokens, type, &run, n_side, n_tokens);
    }
    for (int s = 0; s < n_side; s++) {
        for (int part = 0; part < OPS_PARTS; part++) {
            for (unsigned t = 0; t < n_tokens; t++)
                store_part(work, group + (uint32_t)s, part, t, pf_load(acc[s][part][t]));
        }
    }
}
