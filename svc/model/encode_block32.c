/* Owns: blocks of 32 values with a scale of their own. */
#include "svc/model/encode_block.h"

#include "svc/model/encode_fit.h"

#include "ops/arch/half.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { LENGTH = 32 };

const int8_t encode_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* To f16 and back: what is rounded with must be what a reader will multiply with. */
static float put_f16(uint8_t *dst, float f)
{
    uint16_t half = ops_f16_of_float(f);
    memcpy(dst, &half, sizeof half);
    return ops_float_of_f16(half);
}

/* Low nibbles hold values 0-15, high ones 16-31; bit i of `high` is the fifth bit of value i. */
static void put_codes(const int *codes, uint8_t *nibbles, uint8_t *high)
{
    for (int i = 0; i < LENGTH / 2; i++)
        nibbles[i] = (uint8_t)((codes[i] & 15) | (codes[i + LENGTH / 2] & 15) << 4);
    for (int i = 0; high && i < LENGTH; i++)
        high[i / 8] = (uint8_t)((i % 8 ? high[i / 8] : 0) | (codes[i] >> 4) << i % 8);
}

/* Q4_0, Q5_0, IQ4_NL: scale · level */
static void encode_levels(const float *x, const int8_t *levels, int n_levels, uint8_t *dst)
{
    const bool five = n_levels > 16;
    int codes[LENGTH];
    float d = put_f16(dst, encode_fit_levels(x, LENGTH, levels, n_levels));
    for (int i = 0; i < LENGTH; i++)
        codes[i] = encode_nearest(levels, n_levels, d != 0 ? x[i] / d : 0);
    put_codes(codes, dst + (five ? 6 : 2), five ? dst + 2 : NULL);
}

/* Q4_1, Q5_1: scale · q + minimum */
static void encode_affine(const float *x, int top, uint8_t *dst)
{
    const bool five = top > 15;
    float d, m;
    int codes[LENGTH];
    encode_fit_affine(x, LENGTH, top, false, &d, &m);
    d = put_f16(dst, d);
    m = put_f16(dst + 2, m);
    for (int i = 0; i < LENGTH; i++)
        codes[i] = encode_step(x[i], d, m, top);
    put_codes(codes, dst + (five ? 8 : 4), five ? dst + 4 : NULL);
}

/* d = amax / 127, and the values are divided by it before it is rounded to F16, as the format's
 * reference does it. */
static void encode_q8_0(const float *x, uint8_t *dst)
{
    float amax = 0;
    for (int i = 0; i < LENGTH; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    float d = amax / 127, inverse = d > 0 ? 1 / d : 0;
    put_f16(dst, d);
    for (int i = 0; i < LENGTH; i++) {
        float q = nearbyintf(x[i] * inverse);
        dst[2 + i] = (uint8_t)(int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
    }
}

void encode_block32(enum ops_type type, const float *x, uint8_t *dst)
{
    int8_t levels[32];
    for (int i = 0; i < 32; i++)
        levels[i] = (int8_t)(i - (type == OPS_Q4_0 ? 8 : 16));
    switch (type) {
    case OPS_Q4_0:
        encode_levels(x, levels, 16, dst);
        break;
    case OPS_Q5_0:
        encode_levels(x, levels, 32, dst);
        break;
    case OPS_IQ4_NL:
        encode_levels(x, encode_iq4_levels, 16, dst);
        break;
    case OPS_Q4_1:
        encode_affine(x, 15, dst);
        break;
    case OPS_Q5_1:
        encode_affine(x, 31, dst);
        break;
    default:
        assert(type == OPS_Q8_0);
        encode_q8_0(x, dst);
    }
}
