/* See dequant.h. Field by field as the format's documentation lays the blocks out. */
#include "tests/support/dequant.h"

#include <math.h>
#include <string.h>

double dequant_f16(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;

    if (exponent == 31)
        return fraction ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, -24);
    return sign * ldexp(1024 + fraction, exponent - 25);
}

static double f16_at(const uint8_t *p)
{
    return dequant_f16((uint16_t)(p[0] | p[1] << 8));
}

static double float_at(enum ops_type type, const uint8_t *p)
{
    uint32_t bits;
    float f;

    if (type == OPS_F16)
        return f16_at(p);
    if (type == OPS_BF16)
        bits = (uint32_t)(p[0] | p[1] << 8) << 16;
    else
        memcpy(&bits, p, 4);
    memcpy(&f, &bits, 4);
    return f;
}

static const int iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

static void block_of_32(enum ops_type type, const uint8_t *p, struct dequant_block *ret)
{
    const int has_m = type == OPS_Q4_1 || type == OPS_Q5_1;
    const int has_fifth = type == OPS_Q5_0 || type == OPS_Q5_1;

    ret->len = ret->sub_len = 32;
    ret->scale[0] = 1;
    ret->minimum[0] = has_m ? -1 : 0;
    ret->d = f16_at(p);
    p += 2;
    if (has_m) {
        ret->dmin = f16_at(p);
        p += 2;
    }
    if (type == OPS_Q8_0) {
        for (int i = 0; i < 32; i++)
            ret->q[i] = (int8_t)p[i];
        return;
    }
    const uint8_t *fifth = p;
    if (has_fifth)
        p += 4;
    for (int i = 0; i < 16; i++) {
        ret->q[i] = p[i] & 15;
        ret->q[i + 16] = p[i] >> 4;
    }
    for (int i = 0; i < 32; i++) {
        if (has_fifth)
            ret->q[i] += (fifth[i / 8] >> i % 8 & 1) * 16;
        if (type == OPS_Q4_0)
            ret->q[i] -= 8;
        else if (type == OPS_Q5_0)
            ret->q[i] -= 16;
        else if (type == OPS_IQ4_NL)
            ret->q[i] = iq4_values[ret->q[i]];
    }
}

/* The 6-bit scales and minimums of Q4_K and Q5_K. */
static void scales_of_k4(const uint8_t *p, struct dequant_block *ret)
{
    for (int s = 0; s < 4; s++) {
        ret->scale[s] = p[s] & 63;
        ret->minimum[s] = p[4 + s] & 63;
        ret->scale[4 + s] = (p[8 + s] & 15) + (p[s] >> 6) * 16;
        ret->minimum[4 + s] = (p[8 + s] >> 4) + (p[4 + s] >> 6) * 16;
    }
}

static void block_q2_k(const uint8_t *p, struct dequant_block *ret)
{
    const uint8_t *qs = p + 16;

    ret->sub_len = 16;
    ret->d = f16_at(p + 80);
    ret->dmin = f16_at(p + 82);
    for (int s = 0; s < 16; s++) {
        ret->scale[s] = p[s] & 15;
        ret->minimum[s] = p[s] >> 4;
    }
    for (int half = 0; half < 2; half++)
        for (int field = 0; field < 4; field++)
            for (int i = 0; i < 32; i++)
                ret->q[128 * half + 32 * field + i] = qs[32 * half + i] >> 2 * field & 3;
}

static void block_q3_k(const uint8_t *p, struct dequant_block *ret)
{
    const uint8_t *third = p, *qs = p + 32, *scales = p + 96;

    ret->sub_len = 16;
    ret->d = f16_at(p + 108);
    for (int s = 0; s < 16; s++) {
        const int low = s < 8 ? scales[s] % 16 : scales[s - 8] / 16;
        const int high = scales[8 + s % 4] >> 2 * (s / 4) & 3;
        ret->scale[s] = low + 16 * high - 32;
    }
    for (int half = 0; half < 2; half++) {
        for (int field = 0; field < 4; field++) {
            for (int i = 0; i < 32; i++) {
                const int low = qs[32 * half + i] >> 2 * field & 3;
                const int set = third[i] >> (4 * half + field) & 1;
                ret->q[128 * half + 32 * field + i] = low - (set ? 0 : 4);
            }
        }
    }
}

static void block_q4_k(const uint8_t *p, struct dequant_block *ret)
{
    ret->sub_len = 32;
    ret->d = f16_at(p);
    ret->dmin = f16_at(p + 2);
    scales_of_k4(p + 4, ret);
    for (int pair = 0; pair < 4; pair++) {
        for (int i = 0; i < 32; i++) {
            ret->q[64 * pair + i] = p[16 + 32 * pair + i] & 15;
            ret->q[64 * pair + 32 + i] = p[16 + 32 * pair + i] >> 4;
        }
    }
}

static void block_q5_k(const uint8_t *p, struct dequant_block *ret)
{
    const uint8_t *fifth = p + 16, *qs = p + 48;

    ret->sub_len = 32;
    ret->d = f16_at(p);
    ret->dmin = f16_at(p + 2);
    scales_of_k4(p + 4, ret);
    for (int pair = 0; pair < 4; pair++) {
        for (int i = 0; i < 32; i++) {
            const int low = qs[32 * pair + i] & 15, high = qs[32 * pair + i] >> 4;
            ret->q[64 * pair + i] = low + (fifth[i] >> 2 * pair & 1) * 16;
            ret->q[64 * pair + 32 + i] = high + (fifth[i] >> (2 * pair + 1) & 1) * 16;
        }
    }
}

static void block_q6_k(const uint8_t *p, struct dequant_block *ret)
{
    ret->sub_len = 16;
    ret->d = f16_at(p + 208);
    for (int s = 0; s < 16; s++)
        ret->scale[s] = (int8_t)p[192 + s];
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = p + 64 * half, *upper = p + 128 + 32 * half;
        int *q = ret->q + 128 * half;
        for (int i = 0; i < 32; i++) {
            q[i] = (low[i] & 15) + (upper[i] & 3) * 16 - 32;
            q[i + 32] = (low[i + 32] & 15) + (upper[i] >> 2 & 3) * 16 - 32;
            q[i + 64] = (low[i] >> 4) + (upper[i] >> 4 & 3) * 16 - 32;
            q[i + 96] = (low[i + 32] >> 4) + (upper[i] >> 6) * 16 - 32;
        }
    }
}

static void block_iq4_xs(const uint8_t *p, struct dequant_block *ret)
{
    const int upper = p[2] | p[3] << 8;

    ret->sub_len = 32;
    ret->d = f16_at(p);
    for (int s = 0; s < 8; s++) {
        const int low = p[4 + s / 2] >> 4 * (s % 2) & 15;
        ret->scale[s] = low + (upper >> 2 * s & 3) * 16 - 32;
        for (int i = 0; i < 16; i++) {
            ret->q[32 * s + i] = iq4_values[p[8 + 16 * s + i] & 15];
            ret->q[32 * s + 16 + i] = iq4_values[p[8 + 16 * s + i] >> 4];
        }
    }
}

void dequant_block(enum ops_type type, const void *block, struct dequant_block *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->len = 256;
    switch (type) {
    case OPS_F32:
    case OPS_F16:
    case OPS_BF16:
        ret->len = ret->sub_len = 1;
        ret->value = float_at(type, block);
        break;
    case OPS_Q2_K:
        block_q2_k(block, ret);
        break;
    case OPS_Q3_K:
        block_q3_k(block, ret);
        break;
    case OPS_Q4_K:
        block_q4_k(block, ret);
        break;
    case OPS_Q5_K:
        block_q5_k(block, ret);
        break;
    case OPS_Q6_K:
        block_q6_k(block, ret);
        break;
    case OPS_IQ4_XS:
        block_iq4_xs(block, ret);
        break;
    default:
        block_of_32(type, block, ret);
    }
}

void dequant_row(enum ops_type type, const void *row, size_t n_cols, double *dst)
{
    const struct ops_type_info *info = ops_type_info(type);
    struct dequant_block block;

    for (size_t b = 0; b < n_cols / info->block_len; b++, dst += info->block_len) {
        dequant_block(type, (const uint8_t *)row + b * info->block_bytes, &block);
        for (int i = 0; i < block.len; i++) {
            const int s = i / block.sub_len;
            dst[i] = block.len == 1
                         ? block.value
                         : block.d * block.scale[s] * block.q[i] - block.dmin * block.minimum[s];
        }
    }
}

size_t dequant_row_bytes(enum ops_type type, size_t n_cols)
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

void dequant_random_rows(enum ops_type type, size_t n_rows, size_t n_cols, uint64_t *state,
                         void *dst)
{
    const struct ops_type_info *info = ops_type_info(type);
    const size_t n_blocks = n_rows * (n_cols / info->block_len);

    for (size_t b = 0; b < n_blocks; b++)
        random_block(type, state, (uint8_t *)dst + b * info->block_bytes);
}
