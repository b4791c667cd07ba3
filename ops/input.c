/* Planes of quantized activations, tile by tile.
 *
 * A tile is 16 tokens (the last one what is left); within it every plane holds, block by block,
 * the tile's tokens side by side, so that a kernel walks all planes forward with constant offsets
 * between tokens. Tile t therefore starts at token 16 t of each plane, whatever its own width. Scales
 * of 15 tokens more than there are may be read: another plane lies behind each plane of them. */
#include "ops/input.h"

#include "ops/arch/matmul_kernels.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FORM_FLOAT = 1, FORM_32 = 2, FORM_256 = 4 };

struct ops_input {
    size_t max_tokens;
    uint32_t max_cols;
    /* Of the last ops_input_set. */
    size_t n_tokens;
    uint32_t n_cols;
    unsigned forms;
    const float *source;
    size_t source_stride;
    const struct ops_matmul_kernels *kernels;
    /* Planes for max_tokens and max_cols; shapes as in struct ops_tile. */
    float *x;
    int8_t *q32;
    float *d32;
    float *ds32;
    int32_t *start32[OPS_N_START];
    int8_t *q256;
    float *d256;
    int32_t *sums256;
    bool *bad; /* (max_tokens) */
};

/* Carves one allocation: with base NULL only counts. */
struct carver {
    uint8_t *base;
    size_t used;
    bool overflow;
};

static void *carve(struct carver *carver, size_t count, size_t size)
{
    const size_t at = carver->used;
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes) || __builtin_add_overflow(bytes, 63, &bytes) ||
        __builtin_add_overflow(at, bytes & ~(size_t)63, &carver->used))
        carver->overflow = true;
    return carver->base ? carver->base + at : NULL;
}

static void carve_planes(struct ops_input *input, struct carver *carver, size_t max_tokens,
                         uint32_t max_cols)
{
    size_t cells;

    if (__builtin_mul_overflow(max_tokens, ((size_t)max_cols + 255) / 256 * 256, &cells))
        carver->overflow = true;
    input->x = carve(carver, cells, sizeof(float));
    input->q32 = carve(carver, cells, 1);
    input->d32 = carve(carver, cells / 32, sizeof(float));
    input->ds32 = carve(carver, cells / 32, sizeof(float));
    for (int i = 0; i < OPS_N_START; i++)
        input->start32[i] = carve(carver, cells / 32, sizeof(int32_t));
    input->q256 = carve(carver, cells, 1);
    input->d256 = carve(carver, cells / 256, sizeof(float));
    input->sums256 = carve(carver, cells / 256 * OPS_SUMS256_PAIRS, sizeof(int32_t));
    input->bad = carve(carver, max_tokens, sizeof(bool));
}

size_t ops_input_bytes(size_t max_tokens, uint32_t max_cols)
{
    struct ops_input planes;
    struct carver carver = {0};

    carve(&carver, 1, sizeof(planes));
    carve_planes(&planes, &carver, max_tokens, max_cols);
    return carver.overflow ? 0 : carver.used;
}

int ops_input_new(struct ops_input **ret, size_t max_tokens, uint32_t max_cols)
{
    const size_t bytes = ops_input_bytes(max_tokens, max_cols);

    if (!bytes)
        return -EOVERFLOW;
    struct carver carver = {.base = aligned_alloc(64, bytes)};
    if (!carver.base)
        return -ENOMEM;
    struct ops_input *input = carve(&carver, 1, sizeof(*input));
    memset(input, 0, sizeof(*input));
    carve_planes(input, &carver, max_tokens, max_cols);
    input->max_tokens = max_tokens;
    input->max_cols = max_cols;
    *ret = input;
    return 0;
}

void ops_input_free(struct ops_input *input)
{
    free(input);
}

static unsigned forms_of(const enum ops_type *types, size_t n_types)
{
    unsigned forms = 0;

    for (size_t i = 0; i < n_types; i++) {
        const uint32_t block_len = ops_type_info(types[i])->block_len;
        forms |= block_len == 1 ? FORM_FLOAT : block_len == 32 ? FORM_32 : FORM_256;
    }
    return forms;
}

/* Interleaves a row (NULL: zeros) among the tile's. */
static void set_floats(float *x, unsigned width, const float *row, uint32_t n_cols)
{
    if (width == 1 && row) {
        memcpy(x, row, n_cols * sizeof(*x));
        return;
    }
    for (size_t i = 0; i < n_cols; i++)
        x[i * width] = row ? row[i] : 0.0f;
}

static void set_token(struct ops_input *input, size_t token)
{
    const float *row = input->source + token * input->source_stride;
    const bool bad = !input->kernels->finite(row, input->n_cols);
    struct ops_tile tile;

    input->bad[token] = bad;
    ops_input_tile(input, token, 1, &tile);
    if (input->forms & FORM_FLOAT)
        set_floats((float *)tile.x, tile.width, bad ? NULL : row, input->n_cols);
    if (input->forms & FORM_32) {
        const struct ops_quantized to = {
            .width = tile.width,
            .q = (int8_t *)tile.q32,
            .d = (float *)tile.d32,
            .ds = (float *)tile.ds32,
            .start = {(int32_t *)tile.start32[0], (int32_t *)tile.start32[1],
                      (int32_t *)tile.start32[2]},
        };
        input->kernels->quantize32(bad ? NULL : row, input->n_cols, &to);
    }
    if (input->forms & FORM_256) {
        const struct ops_quantized to = {
            .width = tile.width,
            .q = (int8_t *)tile.q256,
            .d = (float *)tile.d256,
            .sums = (int32_t *)tile.sums256,
        };
        input->kernels->quantize256(bad ? NULL : row, input->n_cols, &to);
    }
}

static void set_tokens(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;

    for (size_t token = begin; token < end; token++)
        set_token(arg, token);
}

void ops_input_set(struct ops_pool *pool, struct ops_input *input, const float *x, size_t x_stride,
                   size_t n_tokens, uint32_t n_cols, const enum ops_type *types, size_t n_types)
{
    assert(n_tokens <= input->max_tokens && n_cols <= input->max_cols);
    input->n_tokens = n_tokens;
    input->n_cols = n_cols;
    input->forms = forms_of(types, n_types);
    input->source = x;
    input->source_stride = x_stride;
    input->kernels = ops_matmul_kernels();
    /* Half a tile at least: neighbours in a tile share cache lines. */
    ops_pool_run(pool, n_tokens, OPS_TILE_TOKENS / 2, set_tokens, input);
}

bool ops_input_bad(const struct ops_input *input, size_t token)
{
    return input->bad[token];
}

size_t ops_input_n_tokens(const struct ops_input *input)
{
    return input->n_tokens;
}

uint32_t ops_input_n_cols(const struct ops_input *input)
{
    return input->n_cols;
}

void ops_input_tile(const struct ops_input *input, size_t first, unsigned n_tokens,
                    struct ops_tile *ret)
{
    const size_t tile = first / OPS_TILE_TOKENS * OPS_TILE_TOKENS, t = first % OPS_TILE_TOKENS;
    const size_t left = input->n_tokens - tile, n_cols = input->n_cols;
    const size_t blocks32 = tile * (n_cols / 32) + t, blocks256 = tile * (n_cols / 256) + t;

    *ret = (struct ops_tile){
        .width = left < OPS_TILE_TOKENS ? (unsigned)left : OPS_TILE_TOKENS,
        .n_tokens = n_tokens,
        .x = input->x + tile * n_cols + t,
        .q32 = input->q32 + blocks32 * 32,
        .d32 = input->d32 + blocks32,
        .ds32 = input->ds32 + blocks32,
        .q256 = input->q256 + (tile * (n_cols / 32) + t) * 32,
        .d256 = input->d256 + blocks256,
        .sums256 = input->sums256 + blocks256 * OPS_SUMS256_PAIRS,
    };
    for (int i = 0; i < OPS_N_START; i++)
        ret->start32[i] = input->start32[i] + blocks32;
}
