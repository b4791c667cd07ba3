/* See random_weights.h. */
#include "tests/support/random_weights.h"

#include "ops/arch/half.h"
#include "tests/support/dequantize.h"

#include <math.h>
#include <string.h>

size_t random_weights_row_bytes(enum ops_type type, size_t n_cols)
{
    const struct ops_type_info *info = ops_type_info(type);

    return n_cols / info->block_len * info->block_bytes;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1du >> 11;
}

/* A half between about 2^-8 and 2^1, of either sign. */
static uint16_t random_f16(uint64_t *state)
{
    const uint64_t r = next_random(state);

    return (uint16_t)((r & 0x83ff) | (7 + (r >> 20) % 9) << 10);
}

static void put_f16(uint8_t *p, uint64_t *state)
{
    const uint16_t h = random_f16(state);

    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void random_block(enum ops_type type, uint64_t *state, uint8_t *p)
{
    const uint32_t bytes = ops_type_info(type)->block_bytes;
    float f;

    for (uint32_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)next_random(state);
    switch (type) {
    case OPS_F32:
        f = (float)((double)next_random(state) / 0x1p52 - 1.0);
        memcpy(p, &f, 4);
        break;
    case OPS_BF16:
        p[1] = (uint8_t)((p[1] & 0x80) | 0x3c | (p[0] & 3)); /* 2^-7 … 2^0 */
        break;
    case OPS_Q2_K:
        put_f16(p + 80, state);
        put_f16(p + 82, state);
        break;
    case OPS_Q3_K:
        put_f16(p + 108, state);
        break;
    case OPS_Q6_K:
        put_f16(p + 208, state);
        break;
    case OPS_Q4_1:
    case OPS_Q5_1:
    case OPS_Q4_K:
    case OPS_Q5_K:
        put_f16(p + 2, state);
        put_f16(p, state);
        break;
    default: /* F16 and types that begin with d */
        put_f16(p, state);
    }
}

void random_weights_fill(enum ops_type type, size_t n_rows, size_t n_cols, uint64_t *state,
                         void *dst)
{
    const struct ops_type_info *info = ops_type_info(type);
    const size_t n_blocks = n_rows * (n_cols / info->block_len);

    for (size_t b = 0; b < n_blocks; b++)
        random_block(type, state, (uint8_t *)dst + b * info->block_bytes);
}

/* ---- weights of a model ------------------------------------------------------------------- */

/* Where a block keeps d, and the factor that makes the minimum (or the offset) cancel the mean of
 * the quantized values; 0: the type has none. It stands right behind d. */
static void scale_place(enum ops_type type, size_t *at, double *ratio)
{
    *at = type == OPS_Q2_K ? 80 : type == OPS_Q3_K ? 108 : type == OPS_Q6_K ? 208 : 0;
    *ratio = type == OPS_Q4_1   ? -7.5
             : type == OPS_Q5_1 ? -15.5
             : type == OPS_Q4_K ? 7.5
             : type == OPS_Q5_K ? 15.5
             : type == OPS_Q2_K ? 1.5
                                : 0.0;
}

static void set_scales(enum ops_type type, double d, uint8_t *block)
{
    size_t at;
    double ratio;

    scale_place(type, &at, &ratio);
    const uint16_t halves[2] = {ops_f16_of_float((float)d), ops_f16_of_float((float)(d * ratio))};
    memcpy(block + at, halves, ratio == 0.0 ? 2 : 4);
}

/* The standard deviation of values whose d is 1, from a sample taken once. */
static double unit_std(enum ops_type type)
{
    enum { N_SAMPLE = 256 };
    static double known[OPS_BF16 + 1];
    if (known[type] > 0)
        return known[type];
    const uint32_t len = ops_type_info(type)->block_len;
    uint64_t state = 1;
    double sum = 0, x[256];
    uint8_t block[256];

    for (int i = 0; i < N_SAMPLE; i++) {
        random_block(type, &state, block);
        set_scales(type, 1.0, block);
        dequantize_row(type, block, len, x);
        for (uint32_t k = 0; k < len; k++)
            sum += x[k] * x[k];
    }
    known[type] = sqrt(sum / (N_SAMPLE * (double)len));
    return known[type];
}

void random_weights_fill_std(enum ops_type type, size_t n_rows, size_t n_cols, double std,
                             uint64_t *state, void *dst)
{
    const struct ops_type_info *info = ops_type_info(type);
    const size_t n_blocks = n_rows * (n_cols / info->block_len);
    const double d = std / unit_std(type);

    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = (uint8_t *)dst + b * info->block_bytes;
        const double jitter = 0.75 + (double)(next_random(state) & 0xff) / 512;
        random_block(type, state, block);
        set_scales(type, d * jitter, block);
    }
}
