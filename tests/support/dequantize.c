/* Owns: the meaning of every weight block, as the format defines it:
 * https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h has the layouts. */
#include "tests/support/dequantize.h"

#include "ops/type.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static unsigned half_bits(const uint8_t *src)
{
    return src[0] | (unsigned)src[1] << 8;
}

double dequantize_f16(const void *src)
{
    unsigned bits = half_bits(src);
    double sign = bits & 0x8000 ? -1 : 1;
    int exponent = bits >> 10 & 31;
    double fraction = bits & 1023;
    if (exponent == 31)
        return fraction > 0 ? (double)NAN : sign * (double)INFINITY;
    return exponent ? sign * ldexp(1024 + fraction, exponent - 25) : sign * ldexp(fraction, -24);
}

static double bf16(const uint8_t *src)
{
    uint32_t bits = half_bits(src) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double f32(const uint8_t *src)
{
    float value;
    memcpy(&value, src, sizeof value);
    return value;
}

/* ---- blocks of 32 ------------------------------------------------------------------------- */

/* Value i of 32: low nibbles first, then high nibbles. */
static int nibble(const uint8_t *quants, int i)
{
    return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
}

static void q4_0(const uint8_t *b, double *x)
{
    for (int i = 0; i < 32; i++)
        x[i] = dequantize_f16(b) * (nibble(b + 2, i) - 8);
}

static void q4_1(const uint8_t *b, double *x)
{
    for (int i = 0; i < 32; i++)
        x[i] = dequantize_f16(b) * nibble(b + 4, i) + dequantize_f16(b + 2);
}

/* The fifth bits are 32 bits, little-endian, value i at bit i. */
static int fifth_bit(const uint8_t *high, int i)
{
    return (high[i / 8] >> i % 8 & 1) << 4;
}

static void q5_0(const uint8_t *b, double *x)
{
    for (int i = 0; i < 32; i++)
        x[i] = dequantize_f16(b) * ((nibble(b + 6, i) | fifth_bit(b + 2, i)) - 16);
}

static void q5_1(const uint8_t *b, double *x)
{
    for (int i = 0; i < 32; i++)
        x[i] = dequantize_f16(b) * (nibble(b + 8, i) | fifth_bit(b + 4, i)) + dequantize_f16(b + 2);
}

static void q8_0(const uint8_t *b, double *x)
{
    for (int i = 0; i < 32; i++)
        x[i] = dequantize_f16(b) * (int8_t)b[2 + i];
}

static const int iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_nl(const uint8_t *b, double *x)
{
    for (int i = 0; i < 32; i++)
        x[i] = dequantize_f16(b) * iq4_values[nibble(b + 2, i)];
}

/* ---- blocks of 256 ------------------------------------------------------------------------ */

/* Two-bit value i of 256: 64 bytes, each half of 128 values uses 32 of them, 32 values a plane. */
static int two_bits(const uint8_t *quants, int i)
{
    return quants[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

static void q2_k(const uint8_t *b, double *x)
{
    const uint8_t *scales = b, *quants = b + 16;
    double d = dequantize_f16(b + 80), dmin = dequantize_f16(b + 82);
    for (int i = 0; i < 256; i++)
        x[i] = d * (scales[i / 16] & 15) * two_bits(quants, i) - dmin * (scales[i / 16] >> 4);
}

static void q3_k(const uint8_t *b, double *x)
{
    const uint8_t *high = b, *quants = b + 32, *packed = b + 96;
    double d = dequantize_f16(b + 108);
    for (int i = 0; i < 256; i++) {
        int s = i / 16; /* scale: 4 bits in 8 bytes, then 2 bits in 4 bytes */
        int scale = (s < 8 ? packed[s] & 15 : packed[s - 8] >> 4) |
                    (packed[8 + s % 4] >> s / 4 * 2 & 3) << 4;
        int quant = two_bits(quants, i) - (high[i % 32] >> i / 32 & 1 ? 0 : 4);
        x[i] = d * (scale - 32) * quant;
    }
}

/* Scale and minimum of the eight sub-blocks of Q4_K and Q5_K: 6 bits each in 12 bytes. */
static void scale_and_min(const uint8_t *packed, int s, int *scale, int *min)
{
    if (s < 4) {
        *scale = packed[s] & 63;
        *min = packed[s + 4] & 63;
    } else {
        *scale = (packed[s + 4] & 15) | packed[s - 4] >> 6 << 4;
        *min = packed[s + 4] >> 4 | packed[s] >> 6 << 4;
    }
}

/* Nibble i of 256: 32 bytes for each 64 values, low nibbles first. */
static int k_nibble(const uint8_t *quants, int i)
{
    int byte = quants[i / 64 * 32 + i % 32];
    return i % 64 < 32 ? byte & 15 : byte >> 4;
}

static void q4_k(const uint8_t *b, double *x)
{
    double d = dequantize_f16(b), dmin = dequantize_f16(b + 2);
    for (int i = 0; i < 256; i++) {
        int scale, min;
        scale_and_min(b + 4, i / 32, &scale, &min);
        x[i] = d * scale * k_nibble(b + 16, i) - dmin * min;
    }
}

static void q5_k(const uint8_t *b, double *x)
{
    double d = dequantize_f16(b), dmin = dequantize_f16(b + 2);
    for (int i = 0; i < 256; i++) {
        int scale, min;
        scale_and_min(b + 4, i / 32, &scale, &min);
        int quant = k_nibble(b + 48, i) | (b[16 + i % 32] >> i / 32 & 1) << 4;
        x[i] = d * scale * quant - dmin * min;
    }
}

/* Low nibbles: each half of 128 values has 64 bytes, values 0-63 in the low nibbles, 64-127 in the
 * high ones; the two high bits: 32 bytes a half, 32 values a plane. */
static void q6_k(const uint8_t *b, double *x)
{
    double d = dequantize_f16(b + 208);
    const int8_t *scales = (const int8_t *)b + 192;
    for (int i = 0; i < 256; i++) {
        int byte = b[i / 128 * 64 + i % 64];
        int low = i % 128 < 64 ? byte & 15 : byte >> 4;
        int quant = (low | two_bits(b + 128, i) << 4) - 32;
        x[i] = d * scales[i / 16] * quant;
    }
}

static void iq4_xs(const uint8_t *b, double *x)
{
    double d = dequantize_f16(b);
    unsigned high = half_bits(b + 2);
    for (int i = 0; i < 256; i++) {
        int s = i / 32; /* scale: 4 bits in 4 bytes, and 2 bits */
        int scale = (b[4 + s / 2] >> s % 2 * 4 & 15) | (int)(high >> 2 * s & 3) << 4;
        int byte = b[8 + 16 * s + i % 16];
        x[i] = d * (scale - 32) * iq4_values[i % 32 < 16 ? byte & 15 : byte >> 4];
    }
}

void dequantize_row(uint32_t type, const void *src, size_t n, double *dst)
{
    const uint8_t *at = src;
    const struct ops_type_info *info = ops_type_info(type);
    assert(info && n % info->block_len == 0);
    for (size_t i = 0; i < n; i += info->block_len, at += info->block_bytes) {
        switch ((enum ops_type)type) {
        case OPS_F32:
            dst[i] = f32(at);
            break;
        case OPS_F16:
            dst[i] = dequantize_f16(at);
            break;
        case OPS_BF16:
            dst[i] = bf16(at);
            break;
        case OPS_Q4_0:
            q4_0(at, dst + i);
            break;
        case OPS_Q4_1:
            q4_1(at, dst + i);
            break;
        case OPS_Q5_0:
            q5_0(at, dst + i);
            break;
        case OPS_Q5_1:
            q5_1(at, dst + i);
            break;
        case OPS_Q8_0:
            q8_0(at, dst + i);
            break;
        case OPS_Q2_K:
            q2_k(at, dst + i);
            break;
        case OPS_Q3_K:
            q3_k(at, dst + i);
            break;
        case OPS_Q4_K:
            q4_k(at, dst + i);
            break;
        case OPS_Q5_K:
            q5_k(at, dst + i);
            break;
        case OPS_Q6_K:
            q6_k(at, dst + i);
            break;
        case OPS_IQ4_NL:
            iq4_nl(at, dst + i);
            break;
        case OPS_IQ4_XS:
            iq4_xs(at, dst + i);
            break;
        }
    }
}
