/* Full tiles of 16 tokens on AMX: one TDPB… is 16 tokens × 16 rows × a run of inputs, exactly, in
 * int32; scales and float sums follow as everywhere else, so that the bits are the same. The packed
 * layout is AMX's: a word of 16 rows is a row of the second operand. Fewer tokens take the
 * AVX-512 VNNI path. Part of ops/arch/matmul_kernel.h. */

/* Tile registers in two sets, so that a product runs while the one before is summed: 0 and 1 hold 16
 * tokens × a run of inputs, 2 and 3 the run's words × 16 rows, 4 and 5 the int32 products. */
enum { TILE_TOKENS = 0, TILE_WEIGHTS = 2, TILE_SUMS = 4 };

struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct amx_config) == 64, "the layout of LDTILECFG");

/* The tiles are configured at the start of a call and given back at its end: nothing is left in a
 * thread. run_len: inputs to a product, 16 or 32. */
OPS_INLINE void amx_begin(const int run_len)
{
    struct amx_config config = {.palette = 1};

    for (int i = 0; i < 2; i++) {
        config.rows[TILE_TOKENS + i] = 16;
        config.row_bytes[TILE_TOKENS + i] = (uint16_t)run_len;
        config.rows[TILE_WEIGHTS + i] = (uint8_t)(run_len / 4);
        config.row_bytes[TILE_WEIGHTS + i] = 64;
        config.rows[TILE_SUMS + i] = 16;
        config.row_bytes[TILE_SUMS + i] = 64;
    }
    _tile_loadconfig(&config);
}

typedef int32_t amx_sums[OPS_TILE_TOKENS][OPS_GROUP_ROWS];

/* sums = the product of 16 tokens (32 bytes apart) and words of weights. The tile numbers are plain
 * literals, as the assembler wants; the compiler does not know that tile loads read memory. */
#define AMX_PRODUCT(A, B, C, product, tokens, weights, sums)                                       \
    do {                                                                                           \
        const uint8_t *weights_ = (weights);                                                       \
        __asm__ volatile("" ::: "memory");                                                         \
        _tile_loadd(A, (tokens), 32);                                                              \
        _tile_loadd(B, weights_, 64);                                                              \
        _tile_zero(C);                                                                             \
        product(C, A, B);                                                                          \
        _tile_stored(C, (sums), 64);                                                               \
        __asm__ volatile("" ::: "memory");                                                         \
    } while (0)
#define AMX_PRODUCT_0(...) AMX_PRODUCT(0, 2, 4, __VA_ARGS__)
#define AMX_PRODUCT_1(...) AMX_PRODUCT(1, 3, 5, __VA_ARGS__)

/* Weights of a block of 32 as signed words; Q8_0 is so already. */
OPS_INLINE const uint8_t *amx_weights32(const enum ops_type type, const uint8_t *body,
                                        uint8_t *scratch)
{
    const int offset = type == OPS_Q4_0     ? 0x08080808
                       : type == OPS_Q5_0   ? 0x10101010
                       : type == OPS_IQ4_NL ? (int)0x80808080
                                            : 0;

    if (type == OPS_Q8_0)
        return body;
    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        const part_i w = block32_load(type, body, j);
        pi_store(scratch + 64 * j, offset ? _mm512_sub_epi8(w, _mm512_set1_epi32(offset)) : w);
    }
    return scratch;
}

/* One block's sums into the float sums of 16 tokens. */
OPS_INLINE void amx_add32(const enum ops_type type, const struct ops_matmul_work *work,
                          const uint8_t *halves, uint32_t b, const amx_sums sums, part_f *acc)
{
    const float *d_a = work->tile.d32 + (size_t)b * OPS_TILE_TOKENS;
    const float *ds_a = work->tile.ds32 + (size_t)b * OPS_TILE_TOKENS;
    const part_f d = pf_load_f16(halves);
    const part_f m = pf_load_f16(halves + (block32_has_minimum(type) ? OPS_HALF_BYTES : 0));

    OPS_UNROLL
    for (int t = 0; t < OPS_TILE_TOKENS; t++) {
        acc[t] = pf_fma(pf_of_i(pi_load(sums[t])), pf_mul(d, pf_bcast(d_a + t)), acc[t]);
        if (block32_has_minimum(type))
            acc[t] = pf_fma(m, pf_bcast(ds_a + t), acc[t]);
    }
}

OPS_INLINE void amx_block32_group(const enum ops_type type, const struct ops_matmul_work *work,
                                  uint32_t group)
{
    const struct ops_packing packing = ops_packing(type);
    const size_t body_bytes = packing.words * OPS_WORD_BYTES;
    const size_t plane_bytes = packing.halves * OPS_HALF_BYTES;
    const uint32_t n_blocks = work->n_cols / 32;
    const uint8_t *body = work->groups + group * work->group_bytes;
    const uint8_t *plane = body + n_blocks * body_bytes;
    const int8_t *a = work->tile.q32;
    amx_sums sums[2] __attribute__((aligned(64)));
    uint8_t scratch[2][512] __attribute__((aligned(64)));
    part_f acc[OPS_TILE_TOKENS];
    uint32_t b = 0;

    if (work->tile.n_tokens < OPS_TILE_TOKENS) {
        block32_group(type, work, group);
        return;
    }
    OPS_UNROLL
    for (int t = 0; t < OPS_TILE_TOKENS; t++)
        acc[t] = pf_zero();
    AMX_PRODUCT_0(_tile_dpbssd, a, amx_weights32(type, body, scratch[0]), sums[0]);
    for (; b + 2 < n_blocks; b += 2) {
        body += body_bytes;
        a += 32 * OPS_TILE_TOKENS;
        AMX_PRODUCT_1(_tile_dpbssd, a, amx_weights32(type, body, scratch[1]), sums[1]);
        amx_add32(type, work, plane + b * plane_bytes, b, sums[0], acc);
        body += body_bytes;
        a += 32 * OPS_TILE_TOKENS;
        AMX_PRODUCT_0(_tile_dpbssd, a, amx_weights32(type, body, scratch[0]), sums[0]);
        amx_add32(type, work, plane + (b + 1) * plane_bytes, b + 1, sums[1], acc);
    }
    if (b + 1 < n_blocks) {
        body += body_bytes;
        a += 32 * OPS_TILE_TOKENS;
        AMX_PRODUCT_1(_tile_dpbssd, a, amx_weights32(type, body, scratch[1]), sums[1]);
    }
    amx_add32(type, work, plane + b * plane_bytes, b, sums[0], acc);
    if (b + 1 < n_blocks)
        amx_add32(type, work, plane + (b + 1) * plane_bytes, b + 1, sums[1], acc);
    OPS_UNROLL
    for (int t = 0; t < OPS_TILE_TOKENS; t++)
        store_part(work, group, 0, (unsigned)t, acc[t]);
}

#define MULTIPLY_BEGIN(work)                                                                       \
    const bool tiles = (work)->tile.n_tokens == OPS_TILE_TOKENS;                                   \
    if (tiles)                                                                                     \
    amx_begin(32)
#define MULTIPLY_END(work)                                                                         \
    if (tiles)                                                                                     \
    _tile_release()
#define MULTIPLY_BLOCK32  amx_block32_group
#define MULTIPLY_BLOCK256 block256_group
