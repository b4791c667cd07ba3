/* Full tiles of 16 tokens on AMX: one TDPBSSD is 16 tokens × 16 rows × a run of inputs, exactly, in
 * int32; scales and float sums follow as everywhere else, so that the bits are the same. The packed
 * layout is AMX's: a word of 16 rows is a row of the second operand. Weights are made signed, once
 * for all tiles of a call. Part of ops/arch/matmul_kernel.h. */

/* Products run AMX_AHEAD before their sums are added: vector loads do not take what a tile store has
 * not yet brought to the cache, and whoever loads at once waits a hundred cycles for it. So there are
 * four sums on the way. Tile registers: 0 and 1 hold tokens × a run of inputs, 2 and 3 the run's words
 * × 16 rows, 4 to 7 the int32 products. */
#define AMX_SLOTS 4
#define AMX_AHEAD (AMX_SLOTS - 1)
enum { TILE_TOKENS = 0, TILE_WEIGHTS = 2, TILE_SUMS = 4 };

struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct amx_config) == 64, "the layout of LDTILECFG");

/* The tiles are configured at the start of a call and given back at its end: nothing is left in a
 * thread. run_len: inputs to a product, 16 or 32; n_tokens ≤ 16. */
OPS_INLINE void amx_begin(const int run_len, unsigned n_tokens)
{
    struct amx_config config = {.palette = 1};

    for (int i = 0; i < 2; i++) {
        config.rows[TILE_TOKENS + i] = (uint8_t)n_tokens;
        config.row_bytes[TILE_TOKENS + i] = (uint16_t)run_len;
        config.rows[TILE_WEIGHTS + i] = (uint8_t)(run_len / 4);
        config.row_bytes[TILE_WEIGHTS + i] = 64;
    }
    for (int i = 0; i < AMX_SLOTS; i++) {
        config.rows[TILE_SUMS + i] = (uint8_t)n_tokens;
        config.row_bytes[TILE_SUMS + i] = 64;
    }
    _tile_loadconfig(&config);
}

typedef int32_t amx_sums[OPS_TILE_TOKENS][OPS_GROUP_ROWS];

/* sums = the product of 16 tokens (32 bytes apart) and words of weights. The tile numbers are plain
 * literals, as the assembler wants; the compiler does not know that tile loads read memory. */
#define AMX_PRODUCT(A, B, C, tokens, weights, sums)                                                \
    do {                                                                                           \
        __asm__ volatile("" ::: "memory");                                                         \
        _tile_loadd(A, (tokens), 32);                                                              \
        _tile_loadd(B, (weights), 64);                                                             \
        _tile_zero(C);                                                                             \
        _tile_dpbssd(C, A, B);                                                                     \
        _tile_stored(C, (sums), 64);                                                               \
        __asm__ volatile("" ::: "memory");                                                         \
    } while (0)

OPS_INLINE void amx_product(const int slot, const int8_t *tokens, const uint8_t *weights,
                            amx_sums *sums)
{
    switch (slot) {
    case 0:
        AMX_PRODUCT(0, 2, 4, tokens, weights, sums[0]);
        break;
    case 1:
        AMX_PRODUCT(1, 3, 5, tokens, weights, sums[1]);
        break;
    case 2:
        AMX_PRODUCT(0, 2, 6, tokens, weights, sums[2]);
        break;
    default:
        AMX_PRODUCT(1, 3, 7, tokens, weights, sums[3]);
    }
}

/* The planes of tile k of a call: a full tile follows another at 16 tokens of each plane. */
OPS_INLINE struct ops_tile amx_tile(const struct ops_matmul_work *work, uint32_t k)
{
    const size_t tokens = (size_t)k * OPS_TILE_TOKENS, n_cols = work->n_cols;
    struct ops_tile tile = work->tile;

    tile.q32 += tokens * n_cols;
    tile.d32 += tokens * (n_cols / 32);
    tile.ds32 += tokens * (n_cols / 32);
    tile.q256 += tokens * n_cols;
    tile.d256 += tokens * (n_cols / 256);
    tile.sums256 += tokens * (n_cols / 256) * OPS_SUMS256_PAIRS;
    return tile;
}

typedef float amx_acc[OPS_TILE_TOKENS][OPS_GROUP_ROWS];

/* Asks for the cache lines that tile k's results will fill, while they are computed. */
OPS_INLINE void amx_expect(const struct ops_matmul_work *work, uint32_t group, uint32_t k)
{
    const float *y =
        work->y + (size_t)k * OPS_TILE_TOKENS * work->y_stride + (size_t)group * OPS_GROUP_ROWS;

    for (unsigned t = 0; t < OPS_TILE_TOKENS; t++)
        __builtin_prefetch(y + t * work->y_stride, 1);
}

OPS_INLINE void amx_store(const struct ops_matmul_work *work, uint32_t group, const amx_acc *acc)
{
    for (uint32_t k = 0; k < work->n_tiles; k++) {
        for (unsigned t = 0; t < OPS_TILE_TOKENS; t++)
            store_part(work, group, 0, k * OPS_TILE_TOKENS + t, pf_load(acc[k][t]));
    }
}

/* ---- blocks of 32 ---- */

#define AMX_RUN_BYTES ((size_t)512) /* 8 words of 16 rows */
#define AMX_CHUNK     16u           /* blocks whose weights are made at a time: 8 KiB */

/* What is taken off the unsigned weights of a block to make them signed bytes, four times. */
OPS_INLINE int amx_offset32(const enum ops_type type)
{
    return type == OPS_Q4_0     ? 0x08080808
           : type == OPS_Q5_0   ? 0x10101010
           : type == OPS_IQ4_NL ? (int)0x80808080
                                : 0;
}

OPS_INLINE void amx_weights32(const enum ops_type type, const uint8_t *body, uint8_t *to)
{
    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        const part_i w = block32_load(type, body, j);
        pi_store(to + 64 * j, _mm512_sub_epi8(w, pi_set1(amx_offset32(type))));
    }
}

/* One block's products into the float sums of n_tokens tokens. */
OPS_INLINE void amx_add32(const enum ops_type type, const struct ops_tile *tile,
                          const uint8_t *halves, uint32_t b, const amx_sums sums,
                          const int n_tokens, part_f *acc)
{
    const float *d_a = tile->d32 + (size_t)b * tile->width;
    const float *ds_a = tile->ds32 + (size_t)b * tile->width;
    const part_f d = pf_load_f16(halves);
    const part_f m = pf_load_f16(halves + (block32_has_minimum(type) ? OPS_HALF_BYTES : 0));

    OPS_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = pf_fma(pf_of_i(pi_load(sums[t])), pf_mul(d, pf_bcast(d_a + t)), acc[t]);
        if (block32_has_minimum(type))
            acc[t] = pf_fma(m, pf_bcast(ds_a + t), acc[t]);
    }
}

/* The signed weights of block first + i: as packed, or what was made of them. */
OPS_INLINE const uint8_t *amx_signed32(const enum ops_type type, const uint8_t *group,
                                       const uint8_t *made, uint32_t first, uint32_t i)
{
    return type == OPS_Q8_0 ? group + ops_packed_body_at(type, first + i)
                            : made + i * AMX_RUN_BYTES;
}

/* Blocks first … first + n (n > 0) of one tile. */
OPS_INLINE void amx_blocks32(const enum ops_type type, const struct ops_tile *tile,
                             const uint8_t *group, const uint8_t *made, uint32_t first, uint32_t n,
                             float (*sums_of_tokens)[OPS_GROUP_ROWS])
{
    const int8_t *a = tile->q32 + (size_t)first * 32 * OPS_TILE_TOKENS;
    amx_sums sums[AMX_SLOTS] __attribute__((aligned(64)));
    part_f acc[OPS_TILE_TOKENS];

    OPS_UNROLL
    for (int t = 0; t < OPS_TILE_TOKENS; t++)
        acc[t] = pf_load(sums_of_tokens[t]);
    OPS_UNROLL
    for (uint32_t i = 0; i < AMX_AHEAD; i++) {
        if (i < n)
            amx_product((int)i, a + i * 32 * OPS_TILE_TOKENS,
                        amx_signed32(type, group, made, first, i), sums);
    }
    for (uint32_t i = 0; i < n; i += AMX_SLOTS) {
        OPS_UNROLL
        for (uint32_t slot = 0; slot < AMX_SLOTS; slot++) {
            const uint32_t now = i + slot, next = now + AMX_AHEAD;
            if (next < n)
                amx_product((slot + AMX_AHEAD) % AMX_SLOTS, a + next * 32 * OPS_TILE_TOKENS,
                            amx_signed32(type, group, made, first, next), sums);
            if (now < n)
                amx_add32(type, tile, group + ops_packed_halves_at(type, first + now), first + now,
                          sums[slot], OPS_TILE_TOKENS, acc);
        }
    }
    OPS_UNROLL
    for (int t = 0; t < OPS_TILE_TOKENS; t++)
        pf_store(sums_of_tokens[t], acc[t]);
}

OPS_INLINE void amx_group32(const enum ops_type type, const struct ops_matmul_work *work,
                            uint32_t group)
{
    const uint32_t n_blocks = work->n_cols / 32;
    const uint8_t *from = work->groups + group * work->group_bytes;
    uint8_t made[AMX_CHUNK * AMX_RUN_BYTES] __attribute__((aligned(64)));
    amx_acc acc[OPS_TILES_MAX] __attribute__((aligned(64)));
    uint32_t n;

    memset(acc, 0, work->n_tiles * sizeof(acc[0]));
    for (uint32_t b = 0; b < n_blocks; b += n) {
        const bool signed_already = type == OPS_Q8_0;
        n = n_blocks - b < AMX_CHUNK ? n_blocks - b : AMX_CHUNK;
        for (uint32_t i = 0; !signed_already && i < n; i++)
            amx_weights32(type, from + ops_packed_body_at(type, b + i), made + i * AMX_RUN_BYTES);
        for (uint32_t k = 0; k < work->n_tiles; k++) {
            const struct ops_tile tile = amx_tile(work, k);
            if (b + n == n_blocks)
                amx_expect(work, group, k);
            amx_blocks32(type, &tile, from, made, b, n, acc[k]);
        }
    }
    amx_store(work, group, (const amx_acc *)acc);
}

/* One tile of at most n_most tokens, the weights going by once: they are made signed a few blocks
 * before their product, and asked for long before that, so that memory never pauses. Tokens that the
 * tile does not have take part with sums of nothing, times scales of what lies behind (every plane has
 * another behind it, ops/input.c), and are never stored. */
#define AMX_MADE 8u /* blocks: those on the way to a product */

OPS_INLINE void amx_only32(const enum ops_type type, const struct ops_matmul_work *work,
                           uint32_t group, const int n_most)
{
    const uint32_t n_blocks = work->n_cols / 32, made_ahead = AMX_MADE - 2;
    const struct ops_tile *tile = &work->tile;
    const size_t token_bytes = (size_t)tile->width * 32;
    const uint8_t *from = work->groups + group * work->group_bytes;
    const bool signed_already = type == OPS_Q8_0;
    uint8_t made[AMX_MADE][AMX_RUN_BYTES] __attribute__((aligned(64)));
    amx_sums sums[AMX_SLOTS] __attribute__((aligned(64)));
    part_f acc[OPS_TILE_TOKENS];

    memset(sums, 0, sizeof(sums));
    OPS_UNROLL
    for (int t = 0; t < n_most; t++)
        acc[t] = pf_zero();
#define AMX_MAKE(b)                                                                                \
    do {                                                                                           \
        const uint8_t *body = from + ops_packed_body_at(type, b);                                  \
        if (ops_packed_begins_line(type, b))                                                       \
            fetch_ahead(from + ops_packed_halves_at(type, b));                                     \
        OPS_UNROLL                                                                                 \
        for (int word = 0; word < ops_packing(type).words; word++)                                 \
            fetch_ahead(body + (size_t)word * OPS_WORD_BYTES);                                     \
        if (!signed_already)                                                                       \
            amx_weights32(type, body, made[(b) % AMX_MADE]);                                       \
    } while (0)
#define AMX_MULTIPLY_BLOCK(b, slot)                                                                \
    amx_product((int)(slot), tile->q32 + (b)*token_bytes,                                          \
                signed_already ? from + ops_packed_body_at(type, b) : made[(b) % AMX_MADE], sums)
    for (uint32_t b = 0; b < made_ahead && b < n_blocks; b++)
        AMX_MAKE(b);
    OPS_UNROLL
    for (uint32_t b = 0; b < AMX_AHEAD; b++) {
        if (b < n_blocks)
            AMX_MULTIPLY_BLOCK(b, b);
    }
    for (uint32_t b = 0; b < n_blocks; b += AMX_SLOTS) {
        OPS_UNROLL
        for (uint32_t slot = 0; slot < AMX_SLOTS; slot++) {
            const uint32_t now = b + slot;
            if (now + made_ahead < n_blocks)
                AMX_MAKE(now + made_ahead);
            if (now + AMX_AHEAD < n_blocks)
                AMX_MULTIPLY_BLOCK(now + AMX_AHEAD, (slot + AMX_AHEAD) % AMX_SLOTS);
            if (now < n_blocks)
                amx_add32(type, tile, from + ops_packed_halves_at(type, now), now, sums[slot],
                          n_most, acc);
        }
    }
#undef AMX_MAKE
#undef AMX_MULTIPLY_BLOCK
    OPS_UNROLL
    for (int t = 0; t < n_most; t++) {
        if ((unsigned)t < tile->n_tokens)
            store_part(work, group, 0, (unsigned)t, acc[t]);
    }
}

/* ---- blocks of 256 ---- */

/* What is taken off the unsigned weights: their offset, or the middle where that lets a product fit
 * 16 bits (Q4_K: 8 · 127 · 32), which is given back by the sums. */
OPS_INLINE int amx_offset256(const enum ops_type type)
{
    return type == OPS_Q3_K     ? 0x04040404
           : type == OPS_Q4_K   ? 0x08080808
           : type == OPS_Q6_K   ? 0x20202020
           : type == OPS_IQ4_XS ? (int)0x80808080
                                : 0;
}

/* Everything about a block that all tokens share. */
struct amx_block256 {
    struct block256 shared;
    uint8_t weights[8 * AMX_RUN_BYTES] __attribute__((aligned(64)));
    part_f d, dmin;
};

/* Run r of a block, made signed. */
OPS_INLINE void amx_make256(const enum ops_type type, const uint8_t *body, const int r,
                            struct amx_block256 *block)
{
    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        const part_i w = block256_load(type, body, r, j);
        pi_store(block->weights + (size_t)r * AMX_RUN_BYTES + 64 * j,
                 _mm512_sub_epi8(w, pi_set1(amx_offset256(type))));
    }
}

OPS_INLINE void amx_scales256(const enum ops_type type, const uint8_t *body, const uint8_t *halves,
                              struct amx_block256 *block)
{
    block256_unpack(type, body, halves, &block->shared);
    block->d = pf_load_f16(halves);
    block->dmin = pf_load_f16(halves + (block256_has_minimum(type) ? OPS_HALF_BYTES : 0));
}

/* The products of sub-block s, or of run s, times its scale. */
OPS_INLINE void amx_scale256(const enum ops_type type, const amx_sums sums, part_i scale,
                             const int n_tokens, part_i *total)
{
    OPS_UNROLL
    for (int t = 0; t < n_tokens; t++)
        total[t] = block256_accumulate(type, total[t], pi_load(sums[t]), pi_zero(), scale);
}

/* The next block of the only tile, made while this one is multiplied; NULL where there is none. */
struct amx_next256 {
    const uint8_t *body;
    struct amx_block256 *block;
};

/* Block b of one tile of at most n_most tokens. */
OPS_INLINE void amx_block256_tile(const enum ops_type type, const struct ops_tile *tile, uint32_t b,
                                  const struct amx_block256 *block, const int n_most,
                                  const struct amx_next256 *next, float (*acc)[OPS_GROUP_ROWS])
{
    const int sub_len = block256_sub_len(type), n_subs = 256 / sub_len, n_pairs = n_subs / 2;
    const int run_subs = 32 / sub_len;
    const size_t at = (size_t)b * tile->width, sub_bytes = (size_t)sub_len * 16;
    const int8_t *a = tile->q256 + 8 * at * 32;
    const int32_t *sums_a = tile->sums256 + at * OPS_SUMS256_PAIRS + (n_pairs == 8 ? 0 : 8);
    const part_i *scale = block->shared.scale;
    amx_sums sums[AMX_SLOTS] __attribute__((aligned(64)));
    part_i total[OPS_TILE_TOKENS];

    if (tile->n_tokens < (unsigned)n_most)
        memset(sums, 0, sizeof(sums));
    OPS_UNROLL
    for (int t = 0; t < n_most; t++)
        total[t] = pi_zero();
#define AMX_SUB_TOKENS(s)  (a + (size_t)((s)*sub_len / 32) * 32 * tile->width + (s)*sub_len % 32)
#define AMX_SUB_WEIGHTS(s) (block->weights + (size_t)(s)*sub_bytes)
    OPS_UNROLL
    for (int i = 0; i < AMX_AHEAD; i++)
        amx_product(i, AMX_SUB_TOKENS(i), AMX_SUB_WEIGHTS(i), sums);
    for (int s = 0; s < n_subs; s += AMX_SLOTS) {
        OPS_UNROLL
        for (int slot = 0; slot < AMX_SLOTS; slot++) {
            const int ahead = s + slot + AMX_AHEAD;
            if (next->body && slot % run_subs == 0)
                amx_make256(type, next->body, (s + slot) / run_subs, next->block);
            if (ahead < n_subs)
                amx_product((slot + AMX_AHEAD) % AMX_SLOTS, AMX_SUB_TOKENS(ahead),
                            AMX_SUB_WEIGHTS(ahead), sums);
            amx_scale256(type, sums[slot], scale[s + slot], n_most, total);
        }
    }
#undef AMX_SUB_TOKENS
#undef AMX_SUB_WEIGHTS
    OPS_UNROLL
    for (int t = 0; t < n_most; t++) {
        const part_f d_a = pf_bcast(tile->d256 + at + t);
        const int32_t *pairs = sums_a + t * OPS_SUMS256_PAIRS;
        part_f value = pf_load(acc[t]);
        if ((unsigned)t >= tile->n_tokens)
            break;
        if (type == OPS_Q4_K) {
            const part_i extra = block256_pairs(block->shared.scale_pairs, pairs, n_pairs);
            total[t] = pi_add(total[t], pi_shl(extra, 3));
        }
        value = pf_fma(pf_of_i(total[t]), pf_mul(block->d, d_a), value);
        if (block256_has_minimum(type)) {
            const part_i m = block256_pairs(block->shared.minimum_pairs, pairs, n_pairs);
            value = pf_fma(pf_of_i(pi_sub(pi_zero(), m)), pf_mul(block->dmin, d_a), value);
        }
        pf_store(acc[t], value);
    }
}

OPS_INLINE void fetch_lines_ahead(const uint8_t *p, size_t n_bytes)
{
    for (size_t line = 0; line < n_bytes; line += 64)
        fetch_ahead(p + line);
}

/* One tile of at most n_most tokens, the weights going by once. */
OPS_INLINE void amx_only256(const enum ops_type type, const struct ops_matmul_work *work,
                            uint32_t group, const int n_most)
{
    const size_t body_bytes = ops_packing(type).words * OPS_WORD_BYTES;
    const uint32_t n_blocks = work->n_cols / 256;
    const uint8_t *from = work->groups + group * work->group_bytes;
    struct amx_block256 blocks[2];
    amx_acc acc __attribute__((aligned(64)));

    memset(acc, 0, sizeof(acc));
    for (int r = 0; r < 8; r++)
        amx_make256(type, from + ops_packed_body_at(type, 0), r, &blocks[0]);
    for (uint32_t b = 0; b < n_blocks; b++) {
        const uint8_t *now = from + ops_packed_body_at(type, b);
        const uint8_t *halves = from + ops_packed_halves_at(type, b);
        const struct amx_next256 next = {
            b + 1 < n_blocks ? from + ops_packed_body_at(type, b + 1) : NULL, &blocks[(b + 1) % 2]};
        if (work->is_only_tile) {
            fetch_lines_ahead(now, body_bytes);
            if (ops_packed_begins_line(type, b))
                fetch_ahead(halves);
        }
        amx_scales256(type, now, halves, &blocks[b % 2]);
        amx_block256_tile(type, &work->tile, b, &blocks[b % 2], n_most, &next, acc);
    }
    for (unsigned t = 0; t < work->tile.n_tokens; t++)
        store_part(work, group, 0, t, pf_load(acc[t]));
}

OPS_INLINE void amx_group256(const enum ops_type type, const struct ops_matmul_work *work,
                             uint32_t group)
{
    const uint32_t n_blocks = work->n_cols / 256;
    const uint8_t *from = work->groups + group * work->group_bytes;
    amx_acc acc[OPS_TILES_MAX] __attribute__((aligned(64)));

    memset(acc, 0, work->n_tiles * sizeof(acc[0]));
    for (uint32_t b = 0; b < n_blocks; b++) {
        const struct amx_next256 none = {NULL, NULL};
        struct amx_block256 block;
        const uint8_t *body = from + ops_packed_body_at(type, b);
        amx_scales256(type, body, from + ops_packed_halves_at(type, b), &block);
        for (int r = 0; r < 8; r++)
            amx_make256(type, body, r, &block);
        for (uint32_t k = 0; k < work->n_tiles; k++) {
            const struct ops_tile tile = amx_tile(work, k);
            if (b + 1 == n_blocks)
                amx_expect(work, group, k);
            amx_block256_tile(type, &tile, b, &block, OPS_TILE_TOKENS, &none, acc[k]);
        }
    }
    amx_store(work, group, (const amx_acc *)acc);
}

/* Fewer tokens than this are not worth a tile, by block and by inputs to a product: a block of 256 has
 * sub-scales to multiply by, and the more of them the shorter its products. */
#define AMX_TOKENS_MIN_32_32  3u
#define AMX_TOKENS_MIN_256_32 7u
#define AMX_TOKENS_MIN_256_16 9u

#define AMX_MULTIPLY(suffix, block_len, run_len, type)                                             \
    static void amx_multiply_##suffix(const struct ops_matmul_work *work)                          \
    {                                                                                              \
        amx_begin(run_len, OPS_TILE_TOKENS);                                                       \
        for (uint32_t g = 0; g < work->n_groups; g++) {                                            \
            if (work->n_tiles == 1)                                                                \
                amx_only##block_len(type, work, g, OPS_TILE_TOKENS);                               \
            else                                                                                   \
                amx_group##block_len(type, work, g);                                               \
        }                                                                                          \
        _tile_release();                                                                           \
    }                                                                                              \
    static void amx_part_##suffix(const struct ops_matmul_work *work)                              \
    {                                                                                              \
        if (work->tile.n_tokens < AMX_TOKENS_MIN_##block_len##_##run_len) {                        \
            multiply_##suffix(work);                                                               \
            return;                                                                                \
        }                                                                                          \
        amx_begin(run_len, work->tile.n_tokens);                                                   \
        for (uint32_t g = 0; g < work->n_groups; g++) {                                            \
            if (work->tile.n_tokens <= OPS_TILE_TOKENS / 2)                                        \
                amx_only##block_len(type, work, g, OPS_TILE_TOKENS / 2);                           \
            else                                                                                   \
                amx_only##block_len(type, work, g, OPS_TILE_TOKENS);                               \
        }                                                                                          \
        _tile_release();                                                                           \
    }
AMX_MULTIPLY(q4_0, 32, 32, OPS_Q4_0)
AMX_MULTIPLY(q4_1, 32, 32, OPS_Q4_1)
AMX_MULTIPLY(q5_0, 32, 32, OPS_Q5_0)
AMX_MULTIPLY(q5_1, 32, 32, OPS_Q5_1)
AMX_MULTIPLY(q8_0, 32, 32, OPS_Q8_0)
AMX_MULTIPLY(iq4_nl, 32, 32, OPS_IQ4_NL)
AMX_MULTIPLY(q2_k, 256, 16, OPS_Q2_K)
AMX_MULTIPLY(q3_k, 256, 16, OPS_Q3_K)
AMX_MULTIPLY(q4_k, 256, 32, OPS_Q4_K)
AMX_MULTIPLY(q5_k, 256, 32, OPS_Q5_K)
AMX_MULTIPLY(q6_k, 256, 16, OPS_Q6_K)
AMX_MULTIPLY(iq4_xs, 256, 32, OPS_IQ4_XS)
