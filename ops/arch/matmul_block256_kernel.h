/* Types with blocks of 256 inputs and sub-scales: for each block, in increasing order,
 *   acc = fma((float)I, d_w · d_a, acc),       I = Σ_s scale_s Σ_{i in s} w_i a_i exactly,
 *   acc = fma(-(float)M, dmin_w · d_a, acc)    (Q2_K, Q4_K, Q5_K), M = Σ_s min_s Σ_{i in s} a_i.
 * Types whose weights are offset take them unsigned and give back offset · Σ_s scale_s Σ a, from the
 * sums kept beside the activations. Part of ops/arch/matmul_kernel.h. */

/* Everything about a block that its tokens share, decoded once. */
struct block256 {
    part_i scale[16];       /* by sub-block, as block256_accumulate wants it */
    part_i scale_pairs[8];  /* int16 pairs, as the activations' sums are paired */
    part_i offset_pairs[8]; /* what a dot of unsigned weights has too much: -offset · scale */
    part_i minimum_pairs[8];
};

OPS_INLINE bool block256_has_minimum(const enum ops_type type)
{
    return type == OPS_Q2_K || type == OPS_Q4_K || type == OPS_Q5_K;
}

/* Inputs to a sub-scale. */
OPS_INLINE int block256_sub_len(const enum ops_type type)
{
    return type == OPS_Q2_K || type == OPS_Q3_K || type == OPS_Q6_K ? 16 : 32;
}

/* Whether a dot of Q4_K takes a whole sub-block, 15 · 127 · 32, and a 32-bit product: one operation where
 * two of 16 bits are needed for shorter dots. With AMX, which is Intel's, that product costs two itself. */
#ifdef __AMX_INT8__
#define OPS_Q4_K_WIDE 0
#else
#define OPS_Q4_K_WIDE OPS_DOT_WIDE
#endif

/* Inputs to one dot: as many as its form holds exactly, and as dot_scaled takes. */
OPS_INLINE int block256_dot_len(const enum ops_type type)
{
    if (OPS_DOT_WIDE && !OPS_Q4_K_WIDE && type == OPS_Q4_K)
        return 16; /* 15 · 127 · 16 fits 16 bits */
    if (!OPS_DOT_WIDE && type == OPS_Q6_K)
        return 8; /* 63 · 127 · 4, in each half of a lane, does */
    if (!OPS_DOT_WIDE && type == OPS_Q5_K)
        return 16; /* 31 · 127 · 8 does */
    return block256_sub_len(type);
}

OPS_INLINE bool block256_is_split(const enum ops_type type)
{
    return !OPS_DOT_WIDE && type == OPS_IQ4_XS;
}

/* Whether a dot may leave 16 bits, so that its scale is applied by a 32-bit product. */
OPS_INLINE bool block256_is_wide(const enum ops_type type)
{
    if (type == OPS_Q4_K)
        return OPS_Q4_K_WIDE;
    return OPS_DOT_WIDE && (type == OPS_Q5_K || type == OPS_Q6_K || type == OPS_IQ4_XS);
}

/* log2 of what was added to the weights to make them unsigned, 0 for none. */
OPS_INLINE int block256_offset_log2(const enum ops_type type)
{
    return type == OPS_Q3_K ? 2 : type == OPS_Q6_K ? 5 : type == OPS_IQ4_XS ? 7 : 0;
}

/* An eighth of a body, rounded up to lines: what one run fetches of a block to come. */
OPS_INLINE size_t block256_run_bytes(const enum ops_type type)
{
    return (ops_packing(type).words + 7) / 8 * OPS_WORD_BYTES;
}

OPS_INLINE part_i block256_word(const uint8_t *body, const int word)
{
    return pi_load(body + (size_t)word * OPS_WORD_BYTES);
}

/* Inputs 4 j … 4 j + 3 of run r (32 inputs, r in 0 … 7, not a constant) as unsigned bytes. */
OPS_INLINE part_i block256_load(const enum ops_type type, const uint8_t *body, const int r,
                                const int j)
{
    const part_i nibble = pi_set1(0x0f0f0f0f), two_bits = pi_set1(0x03030303);
    const part_i one_bit = pi_set1(0x01010101);
    part_i w, bits;
    int word;

    switch (type) {
    case OPS_Q2_K: /* 2 bits: run r is field r % 4 of the words 8 (r / 4) + j */
        return pi_and(pi_shr(block256_word(body, 4 + r / 4 * 8 + j), r % 4 * 2), two_bits);
    case OPS_Q3_K: /* the same behind the scales, and bit r of the word j of third bits */
        w = pi_and(pi_shr(block256_word(body, 11 + r / 4 * 8 + j), r % 4 * 2), two_bits);
        bits = pi_and(pi_shr(block256_word(body, 3 + j), r), one_bit);
        return pi_or(w, pi_shl(bits, 2));
    case OPS_Q4_K: /* low nibbles are even runs, high nibbles odd ones */
    case OPS_Q5_K: /* the same, and bit r of the word j of fifth bits */
        word = (type == OPS_Q4_K ? 3 : 11) + r / 2 * 8 + j;
        w = pi_and(pi_shr(block256_word(body, word), r % 2 * 4), nibble);
        if (type == OPS_Q4_K)
            return w;
        bits = pi_and(pi_shr(block256_word(body, 3 + j), r), one_bit);
        return pi_or(w, pi_shl(bits, 4));
    case OPS_Q6_K: /* runs 0, 1 | 2, 3 of a half are low | high nibbles; field r % 4 of upper bits */
        word = 4 + r / 4 * 24 + 8 + r % 2 * 8 + j;
        w = pi_and(pi_shr(block256_word(body, word), r % 4 / 2 * 4), nibble);
        bits = pi_and(pi_shr(block256_word(body, 4 + r / 4 * 24 + j), r % 4 * 2), two_bits);
        return pi_or(w, pi_shl(bits, 4));
    default: /* IQ4_XS: as IQ4_NL within a run */
        w = block256_word(body, 1 + 4 * r + j % 4);
        return pi_table16(ops_iq4_values, pi_and(j < 4 ? w : pi_shr(w, 4), nibble));
    }
}

OPS_INLINE part_i pairs_even(part_i bytes)
{
    return pi_and(bytes, pi_set1(0x00ff00ff));
}

OPS_INLINE part_i pairs_odd(part_i bytes)
{
    return pi_and(pi_shr(bytes, 8), pi_set1(0x00ff00ff));
}

/* 6-bit scales and minimums of Q4_K and Q5_K, 4 to a word, from their 3 words. */
OPS_INLINE void block256_unpack_k4(const uint8_t *body, struct block256 *block)
{
    const part_i six = pi_set1(0x3f3f3f3f), two = pi_set1(0x30303030), four = pi_set1(0x0f0f0f0f);
    const part_i a = block256_word(body, 0), b = block256_word(body, 1);
    const part_i c = block256_word(body, 2);
    const part_i scales[2] = {pi_and(a, six), pi_or(pi_and(c, four), pi_and(pi_shr(a, 2), two))};
    const part_i minimums[2] = {pi_and(b, six),
                                pi_or(pi_and(pi_shr(c, 4), four), pi_and(pi_shr(b, 2), two))};

    OPS_UNROLL
    for (int v = 0; v < 2; v++) {
        block->scale_pairs[2 * v] = pairs_even(scales[v]);
        block->scale_pairs[2 * v + 1] = pairs_odd(scales[v]);
        block->minimum_pairs[2 * v] = pairs_even(minimums[v]);
        block->minimum_pairs[2 * v + 1] = pairs_odd(minimums[v]);
    }
}

OPS_INLINE void block256_unpack_q2_k(const uint8_t *body, struct block256 *block)
{
    const part_i four = pi_set1(0x0f0f0f0f);

    OPS_UNROLL
    for (int v = 0; v < 4; v++) {
        const part_i both = block256_word(body, v), scales = pi_and(both, four);
        const part_i minimums = pi_and(pi_shr(both, 4), four);
        block->scale_pairs[2 * v] = pairs_even(scales);
        block->scale_pairs[2 * v + 1] = pairs_odd(scales);
        block->minimum_pairs[2 * v] = pairs_even(minimums);
        block->minimum_pairs[2 * v + 1] = pairs_odd(minimums);
    }
}

OPS_INLINE void block256_unpack_q3_k(const uint8_t *body, struct block256 *block)
{
    const part_i four = pi_set1(0x0f0f0f0f), two = pi_set1(0x30303030);
    const part_i offset = pi_set1(0x00200020), upper = block256_word(body, 2);

    OPS_UNROLL
    for (int v = 0; v < 4; v++) {
        const part_i lower = block256_word(body, v % 2);
        const part_i high = v < 2 ? pi_shl(upper, 4 - 2 * v) : pi_shr(upper, 2 * v - 4);
        const part_i scales =
            pi_or(pi_and(v < 2 ? lower : pi_shr(lower, 4), four), pi_and(high, two));
        block->scale_pairs[2 * v] = pi_sub16(pairs_even(scales), offset);
        block->scale_pairs[2 * v + 1] = pi_sub16(pairs_odd(scales), offset);
    }
}

OPS_INLINE void block256_unpack_q6_k(const uint8_t *body, struct block256 *block)
{
    OPS_UNROLL
    for (int v = 0; v < 4; v++) {
        const part_i scales = block256_word(body, v);
        block->scale_pairs[2 * v] = pi_even_s8(scales);
        block->scale_pairs[2 * v + 1] = pi_odd_s8(scales);
    }
}

/* Lower 4 bits: nibbles of a word, sub-block s at bit 4 s; upper 2 bits: at bit 2 s of 16. */
OPS_INLINE void block256_unpack_iq4_xs(const uint8_t *body, const uint8_t *upper_rows,
                                       struct block256 *block)
{
    const part_i four = pi_set1(0x000f000f), two = pi_set1(0x00300030);
    const part_i offset = pi_set1(0x00200020);
    const part_i lower = block256_word(body, 0), upper16 = pi_of_u16(upper_rows);
    const part_i upper = pi_or(upper16, pi_shl(upper16, 16 - 4)); /* s + 2 in the high half */

    OPS_UNROLL
    for (int p = 0; p < 4; p++) {
        const int s = p / 2 * 4 + p % 2;
        /* The pair (s, s + 2): 8 bits apart below, 16 apart in the pair. */
        const part_i low = pi_shr(lower, 4 * s);
        const part_i lows = pi_and(pi_or(pi_and(low, pi_set1(0xf)), pi_shl(low, 8)), four);
        const part_i highs = pi_and(pi_shl(pi_shr(upper, 2 * s), 4), two);
        block->scale_pairs[p] = pi_sub16(pi_or(lows, highs), offset);
    }
}

OPS_INLINE void block256_unpack(const enum ops_type type, const uint8_t *body,
                                const uint8_t *halves, struct block256 *block)
{
    if (type == OPS_Q4_K || type == OPS_Q5_K)
        block256_unpack_k4(body, block);
    else if (type == OPS_Q2_K)
        block256_unpack_q2_k(body, block);
    else if (type == OPS_Q3_K)
        block256_unpack_q3_k(body, block);
    else if (type == OPS_Q6_K)
        block256_unpack_q6_k(body, block);
    else
        block256_unpack_iq4_xs(body, halves + OPS_HALF_BYTES, block);

    const int n_subs = 256 / block256_sub_len(type);
    const unsigned offset = -(1u << block256_offset_log2(type)); /* of 16 bits */
    OPS_UNROLL
    for (int p = 0; p < n_subs / 2; p++)
        block->offset_pairs[p] =
            pi_mul16(block->scale_pairs[p], pi_set1((int)((offset & 0xffff) * 0x10001u)));
    OPS_UNROLL
    for (int s = 0; s < n_subs; s++) {
        /* Pair 2 v holds sub-blocks 4 v and 4 v + 2, pair 2 v + 1 those after them. */
        const part_i pairs = block->scale_pairs[s / 4 * 2 + s % 2];
        if (block256_is_wide(type))
            block->scale[s] = s & 2 ? pi_sar(pairs, 16) : pi_sar(pi_shl(pairs, 16), 16);
        else
            block->scale[s] = dot_scale(pairs, (s & 2) / 2);
    }
}

/* acc + dot · scale in the form of the type; `low` is the low nibbles' dot of a split type. */
OPS_INLINE part_i block256_accumulate(const enum ops_type type, part_i acc, part_i dot, part_i low,
                                      part_i scale)
{
    if (block256_is_wide(type))
        return pi_add(acc, pi_mul(dot, scale));
    if (block256_is_split(type)) {
        return dot_scaled(dot_scaled(acc, low, scale), dot, pi_mul16(scale, pi_set1(0x00100010)));
    }
    return dot_scaled(acc, dot, scale);
}

/* One run (32 inputs) of one part of a block. */
struct block256_run {
    const uint8_t *body;
    int r;
};

/* Four inputs of a run as its dots take them: split types have a low part. */
struct block256_weights {
    part_i w, low;
};

OPS_INLINE struct block256_weights block256_split(const enum ops_type type, part_i w)
{
    const part_i nibble = pi_set1(0x0f0f0f0f);
    struct block256_weights step = {.w = w, .low = pi_and(w, nibble)};

    if (block256_is_split(type))
        step.w = pi_and(pi_shr(w, 4), nibble);
    return step;
}

OPS_INLINE struct block256_weights block256_step(const enum ops_type type,
                                                 const struct block256_run *run, const int j)
{
    return block256_split(type, block256_load(type, run->body, run->r, j));
}

/* Σ of n_pairs products of int16 pairs: the rows' scales or minimums, one token's sums. */
OPS_INLINE part_i block256_pairs(const part_i *rows, const int32_t *sums, const int n_pairs)
{
    part_i total = pi_zero();

    OPS_UNROLL
    for (int p = 0; p < n_pairs; p++)
        total = pi_madd16_add(total, rows[p], pi_bcast(sums + p));
    return total;
}

/* The weights of a block, unpacked once for all tokens of a tile. */
struct block256_bytes {
    part_i w[64];
};

OPS_INLINE void block256_unpack_bytes(const enum ops_type type, const uint8_t *body,
                                      struct block256_bytes *bytes)
{
    OPS_ROLL
    for (int r = 0; r < 8; r++) {
        OPS_UNROLL
        for (int j = 0; j < 8; j++)
            bytes->w[8 * r + j] = block256_load(type, body, r, j);
    }
}

/* A block of the same part of OPS_SIDE groups, and the float sums of each with all tokens. */
struct block256_side {
    const struct ops_matmul_work *work;
    uint32_t group, b;
    size_t part;
    const uint8_t *halves;                                   /* of the first group */
    size_t body_at;                                          /* in the group */
    const struct block256 *shared;                           /* by group */
    const struct block256_bytes *bytes;                      /* by group */
    float (*acc)[OPS_PARTS][OPS_TILE_TOKENS][OPS_PART_ROWS]; /* by group */
};

/* Adds the products of run r, n_side groups and n_tokens tokens side by side, times their scales. */
OPS_INLINE void block256_add_run(const enum ops_type type, const struct block256_side *block,
                                 const int r, const int n_side, const int8_t *a, const int n_tokens,
                                 part_i (*total)[OPS_TOKENS_MAX])
{
    const int steps = block256_dot_len(type) / 4, sub_steps = block256_sub_len(type) / 4;
    const int first_scale = r * (8 / sub_steps);
    part_i dot[OPS_SIDE][OPS_TOKENS_MAX], low[OPS_SIDE][OPS_TOKENS_MAX];

    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        struct block256_weights step[OPS_SIDE];
        const bool begins = j % steps == 0;
        OPS_UNROLL
        for (int s = 0; s < n_side; s++)
            step[s] = block256_split(type, block->bytes[s].w[8 * r + j]);
        OPS_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const part_i aj = pi_bcast(a + 32 * t + 4 * j);
            OPS_UNROLL
            for (int s = 0; s < n_side; s++) {
                dot[s][t] = dot_step(begins ? pi_zero() : dot[s][t], step[s].w, aj);
                if (block256_is_split(type))
                    low[s][t] = dot_step(begins ? pi_zero() : low[s][t], step[s].low, aj);
            }
        }
        if ((j + 1) % steps)
            continue;
        OPS_UNROLL
        for (int i = 0; i < n_side * n_tokens; i++) {
            const int s = i / n_tokens, t = i % n_tokens;
            total[s][t] = block256_accumulate(type, total[s][t], dot[s][t],
                                              block256_is_split(type) ? low[s][t] : dot[s][t],
                                              block->shared[s].scale[first_scale + j / sub_steps]);
        }
    }
}

OPS_INLINE void block256_tokens(const enum ops_type type, const struct block256_side *block,
                                const int n_side, size_t first, const int n_tokens)
{
    const struct ops_matmul_work *work = block->work;
    const struct ops_tile *tile = &work->tile;
    const size_t at = (size_t)block->b * tile->width + first, run_bytes = block256_run_bytes(type);
    const int n_pairs = 128 / block256_sub_len(type);
    const int32_t *sums = tile->sums256 + at * OPS_SUMS256_PAIRS + (n_pairs == 8 ? 0 : 8);
    const int8_t *a = tile->q256 + (8 * (size_t)block->b * tile->width + first) * 32;
    const size_t n_turns = fetch_turns(tile->n_tokens);
    size_t turn = first * n_turns / tile->n_tokens;
    part_i total[OPS_SIDE][OPS_TOKENS_MAX];

    OPS_UNROLL
    for (int i = 0; i < n_side * n_tokens; i++)
        total[i / n_tokens][i % n_tokens] =
            block256_offset_log2(type)
                ? block256_pairs(block->shared[i / n_tokens].offset_pairs,
                                 sums + i % n_tokens * OPS_SUMS256_PAIRS, n_pairs)
                : pi_zero();
    for (int r = 0; r < 8; r++, a += (size_t)tile->width * 32) {
        if (work->is_only_tile && block->part == 0 && turn-- == 0) {
            turn = n_turns - 1;
            fetch_groups_ahead(work, block->group, n_side, block->body_at + (size_t)r * run_bytes,
                               run_bytes);
        }
        block256_add_run(type, block, r, n_side, a, n_tokens, total);
    }
    OPS_UNROLL
    for (int i = 0; i < n_side * n_tokens; i++) {
        const int s = i / n_tokens, t = i % n_tokens;
        const struct block256 *shared = &block->shared[s];
        const uint8_t *halves = block->halves + (size_t)s * work->group_bytes;
        const part_f d_a = pf_bcast(tile->d256 + at + t);
        const int32_t *sums_t = sums + t * OPS_SUMS256_PAIRS;
        float *acc = block->acc[s][block->part][first + (size_t)t];
        part_f value = pf_load(acc);
        value = pf_fma(pf_of_i(total[s][t]), pf_mul(pf_load_f16(halves), d_a), value);
        if (block256_has_minimum(type)) {
            const part_i m = block256_pairs(shared->minimum_pairs, sums_t, n_pairs);
            const part_f dmin = pf_load_f16(halves + OPS_HALF_BYTES);
            value = pf_fma(pf_of_i(pi_sub(pi_zero(), m)), pf_mul(dmin, d_a), value);
        }
        pf_store(acc, value);
    }
}

OPS_INLINE void block256_groups(const enum ops_type type, const struct ops_matmul_work *work,
                                uint32_t group, const int n_side)
{
    const uint32_t n_blocks = work->n_cols / 256;
    const unsigned n_tokens = work->tile.n_tokens;
    const uint8_t *from = work->groups + group * work->group_bytes;
    float acc[OPS_SIDE][OPS_PARTS][OPS_TILE_TOKENS][OPS_PART_ROWS] __attribute__((aligned(64)));
    struct block256 shared[OPS_SIDE];
    struct block256_bytes bytes[OPS_SIDE];
    struct block256_side block = {
        .work = work, .group = group, .shared = shared, .bytes = bytes, .acc = acc};

    memset(acc, 0, sizeof(acc));
    for (; block.b < n_blocks; block.b++) {
        const size_t halves_at = ops_packed_halves_at(type, block.b);
        if (work->is_only_tile && ops_packed_begins_line(type, block.b))
            fetch_groups_ahead(work, group, n_side, halves_at, 2 * OPS_HALF_BYTES);
        block.body_at = ops_packed_body_at(type, block.b);
        for (block.part = 0; block.part < OPS_PARTS; block.part++) {
            const uint8_t *part_body = from + block.body_at + block.part * OPS_PART_ROWS * 4;
            block.halves = from + halves_at + block.part * OPS_PART_ROWS * 2;
            for (int s = 0; s < n_side; s++) {
                const size_t at = (size_t)s * work->group_bytes;
                block256_unpack(type, part_body + at, block.halves + at, &shared[s]);
                block256_unpack_bytes(type, part_body + at, &bytes[s]);
            }
            OPS_EACH_TOKENS(block256_tokens, type, &block, n_side, n_tokens)
        }
    }
    for (int s = 0; s < n_side; s++) {
        for (int part = 0; part < OPS_PARTS; part++) {
            for (unsigned t = 0; t < n_tokens; t++)
                store_part(work, group + (uint32_t)s, part, t, pf_load(acc[s][part][t]));
        }
    }
}
