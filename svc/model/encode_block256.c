/* Owns: super-blocks of 256 values: sub-blocks of 16 or 32 with small integer scales, which share
 * one or two F16 factors. The sub-blocks' scales are fitted first, then rounded to integers, then
 * the values are rounded with what a reader will multiply with. */
#include "svc/model/encode_block.h"

#include "svc/model/encode_fit.h"

#include "ops/arch/half.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { LENGTH = 256, SUBS_MAX = 16 };

struct super {
    int n_subs, length; /* sub-blocks, and values of one */
    float d, m;         /* the factors as F16 stores them */
    int scale[SUBS_MAX], min[SUBS_MAX];
    int codes[LENGTH]; /* from 0 */
};

static uint16_t round_f16(float *f)
{
    uint16_t half = ops_f16_of_float(*f);
    *f = ops_float_of_f16(half);
    return half;
}

static void put16(uint8_t *dst, uint16_t value)
{
    memcpy(dst, &value, sizeof value);
}

static int clamp(float f, int low, int high)
{
    f = nearbyintf(f);
    return f < (float)low ? low : f > (float)high ? high : (int)f;
}

/* Q3_K, Q6_K, IQ4_XS: d · scale · level, scales from -scale_top - 1 to scale_top. Puts d at dst_d. */
static void fit_signed(struct super *s, const float *x, const int8_t *levels, int n_levels,
                       int scale_top, uint8_t *dst_d)
{
    float fitted[SUBS_MAX], top = 0;
    for (int b = 0; b < s->n_subs; b++) {
        fitted[b] = encode_fit_levels(x + b * s->length, s->length, levels, n_levels);
        if (fabsf(fitted[b]) > fabsf(top))
            top = fitted[b];
    }
    s->d = -top / (float)(scale_top + 1); /* the largest scale becomes the most negative integer */
    put16(dst_d, round_f16(&s->d));
    for (int b = 0; b < s->n_subs; b++) {
        s->scale[b] = s->d != 0 ? clamp(fitted[b] / s->d, -scale_top - 1, scale_top) : 0;
        float step = s->d * (float)s->scale[b];
        for (int i = b * s->length; i < (b + 1) * s->length; i++)
            s->codes[i] = encode_nearest(levels, n_levels, step != 0 ? x[i] / step : 0);
    }
}

/* Q2_K, Q4_K, Q5_K: d · scale · q - m · min, scales and minima from 0 to scale_top. */
static void fit_affine(struct super *s, const float *x, int top, int scale_top, uint8_t *dst_d)
{
    float scales[SUBS_MAX], minima[SUBS_MAX];
    s->d = s->m = 0;
    for (int b = 0; b < s->n_subs; b++) {
        encode_fit_affine(x + b * s->length, s->length, top, true, &scales[b], &minima[b]);
        s->d = fmaxf(s->d, scales[b] / (float)scale_top);
        s->m = fmaxf(s->m, -minima[b] / (float)scale_top);
    }
    put16(dst_d, round_f16(&s->d));
    put16(dst_d + 2, round_f16(&s->m));
    for (int b = 0; b < s->n_subs; b++) {
        s->scale[b] = s->d > 0 ? clamp(scales[b] / s->d, 0, scale_top) : 0;
        s->min[b] = s->m > 0 ? clamp(-minima[b] / s->m, 0, scale_top) : 0;
        float step = s->d * (float)s->scale[b], low = -s->m * (float)s->min[b];
        for (int i = b * s->length; i < (b + 1) * s->length; i++)
            s->codes[i] = encode_step(x[i], step, low, top);
    }
}

/* The two bits from `shift` on of each code: 32 bytes for each half of 128 values, 32 values a
 * plane. */
static void put_two_bits(const struct super *s, int shift, uint8_t *dst)
{
    memset(dst, 0, LENGTH / 4);
    for (int i = 0; i < LENGTH; i++)
        dst[i / 128 * 32 + i % 32] |= (uint8_t)((s->codes[i] >> shift & 3) << i % 128 / 32 * 2);
}

/* One bit of each code: bit i / 32 of byte i % 32. */
static void put_one_bit(const struct super *s, int shift, uint8_t *dst)
{
    memset(dst, 0, LENGTH / 8);
    for (int i = 0; i < LENGTH; i++)
        dst[i % 32] |= (uint8_t)((s->codes[i] >> shift & 1) << i / 32);
}

/* Low nibbles: of the first `half` values of every 2 · half in the low half of the bytes. */
static void put_nibbles(const struct super *s, int half, uint8_t *dst)
{
    memset(dst, 0, LENGTH / 2);
    for (int i = 0; i < LENGTH; i++)
        dst[i / (2 * half) * half + i % half] |=
            (uint8_t)((s->codes[i] & 15) << (i % (2 * half) < half ? 0 : 4));
}

/* Scales and minima of Q4_K and Q5_K, 6 bits each in 12 bytes. */
static void put_scales_and_minima(const struct super *s, uint8_t *dst)
{
    for (int b = 0; b < 4; b++) {
        dst[b] = (uint8_t)(s->scale[b] | (s->scale[b + 4] >> 4) << 6);
        dst[b + 4] = (uint8_t)(s->min[b] | (s->min[b + 4] >> 4) << 6);
        dst[b + 8] = (uint8_t)((s->scale[b + 4] & 15) | (s->min[b + 4] & 15) << 4);
    }
}

static void encode_q2_k(struct super *s, const float *x, uint8_t *dst)
{
    fit_affine(s, x, 3, 15, dst + 80);
    for (int b = 0; b < 16; b++)
        dst[b] = (uint8_t)(s->scale[b] | s->min[b] << 4);
    put_two_bits(s, 0, dst + 16);
}

static void encode_q3_k(struct super *s, const float *x, uint8_t *dst)
{
    static const int8_t levels[8] = {-4, -3, -2, -1, 0, 1, 2, 3};
    fit_signed(s, x, levels, 8, 31, dst + 108);
    put_one_bit(s, 2, dst); /* set: nothing is subtracted */
    put_two_bits(s, 0, dst + 32);
    memset(dst + 96, 0, 12);
    for (int b = 0; b < 16; b++) {
        int scale = s->scale[b] + 32;
        dst[96 + b % 8] |= (uint8_t)((scale & 15) << b / 8 * 4);
        dst[104 + b % 4] |= (uint8_t)((scale >> 4) << b / 4 * 2);
    }
}

static void encode_q6_k(struct super *s, const float *x, uint8_t *dst)
{
    int8_t levels[64];
    for (int i = 0; i < 64; i++)
        levels[i] = (int8_t)(i - 32);
    fit_signed(s, x, levels, 64, 127, dst + 208);
    put_nibbles(s, 64, dst);
    put_two_bits(s, 4, dst + 128);
    for (int b = 0; b < 16; b++)
        dst[192 + b] = (uint8_t)(int8_t)s->scale[b];
}

static void encode_iq4_xs(struct super *s, const float *x, uint8_t *dst)
{
    unsigned high = 0;
    fit_signed(s, x, encode_iq4_levels, 16, 31, dst);
    memset(dst + 4, 0, 4);
    for (int b = 0; b < 8; b++) {
        int scale = s->scale[b] + 32;
        high |= (unsigned)(scale >> 4) << 2 * b;
        dst[4 + b / 2] |= (uint8_t)((scale & 15) << b % 2 * 4);
    }
    put16(dst + 2, (uint16_t)high);
    put_nibbles(s, 16, dst + 8);
}

void encode_block256(enum ops_type type, const float *x, uint8_t *dst)
{
    const bool thirty_twos = type == OPS_Q4_K || type == OPS_Q5_K || type == OPS_IQ4_XS;
    struct super s = {.n_subs = thirty_twos ? 8 : 16, .length = thirty_twos ? 32 : 16};
    switch (type) {
    case OPS_Q2_K:
        encode_q2_k(&s, x, dst);
        break;
    case OPS_Q3_K:
        encode_q3_k(&s, x, dst);
        break;
    case OPS_Q4_K:
        fit_affine(&s, x, 15, 63, dst);
        put_scales_and_minima(&s, dst + 4);
        put_nibbles(&s, 32, dst + 16);
        break;
    case OPS_Q5_K:
        fit_affine(&s, x, 31, 63, dst);
        put_scales_and_minima(&s, dst + 4);
        put_one_bit(&s, 4, dst + 16);
        put_nibbles(&s, 32, dst + 48);
        break;
    case OPS_Q6_K:
        encode_q6_k(&s, x, dst);
        break;
    default:
        assert(type == OPS_IQ4_XS);
        encode_iq4_xs(&s, x, dst);
    }
}
