/* The vector interface in plain C: the twin that defines the bits, and the only one on a machine
 * without AVX2. See ops/arch/vec.h. */
#ifndef QUERN_OPS_ARCH_VEC_SCALAR_H
#define QUERN_OPS_ARCH_VEC_SCALAR_H

#include "ops/arch/half.h"

#include <math.h>

typedef struct {
    float v[16];
} vec_f32;

typedef struct {
    int32_t v[16];
} vec_i32;

typedef struct {
    uint32_t v[16]; /* 0 or 1 */
} vec_mask;

#define VEC_LANES(type, expression)                                                                \
    ({                                                                                             \
        type lanes_;                                                                               \
        for (int i = 0; i < 16; i++)                                                               \
            lanes_.v[i] = (expression);                                                            \
        lanes_;                                                                                    \
    })

OPS_INLINE vec_f32 vf_set1(float x)
{
    return VEC_LANES(vec_f32, x);
}
OPS_INLINE vec_f32 vf_zero(void)
{
    return vf_set1(0.0f);
}
OPS_INLINE vec_f32 vf_load(const float *p)
{
    return VEC_LANES(vec_f32, p[i]);
}
OPS_INLINE void vf_store(float *p, vec_f32 a)
{
    memcpy(p, a.v, sizeof(a.v));
}
OPS_INLINE vec_f32 vf_load_n(const float *p, unsigned n)
{
    return VEC_LANES(vec_f32, (unsigned)i < n ? p[i] : 0.0f);
}
OPS_INLINE void vf_store_n(float *p, vec_f32 a, unsigned n)
{
    memcpy(p, a.v, n * sizeof(float));
}
OPS_INLINE vec_f32 vf_load_f16(const uint16_t *p)
{
    return VEC_LANES(vec_f32, ops_float_of_f16(p[i]));
}
OPS_INLINE vec_f32 vf_load_bf16(const uint16_t *p)
{
    return VEC_LANES(vec_f32, ops_float_of_bf16(p[i]));
}
OPS_INLINE vec_f32 vf_load_i8(const int8_t *p)
{
    return VEC_LANES(vec_f32, (float)p[i]);
}
OPS_INLINE void vf_store_f16(uint16_t *p, vec_f32 a)
{
    for (int i = 0; i < 16; i++)
        p[i] = ops_f16_of_float(a.v[i]);
}
OPS_INLINE vec_f32 vf_add(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, a.v[i] + b.v[i]);
}
OPS_INLINE vec_f32 vf_sub(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, a.v[i] - b.v[i]);
}
OPS_INLINE vec_f32 vf_mul(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, a.v[i] * b.v[i]);
}
OPS_INLINE vec_f32 vf_div(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, a.v[i] / b.v[i]);
}
OPS_INLINE vec_f32 vf_sqrt(vec_f32 a)
{
    return VEC_LANES(vec_f32, sqrtf(a.v[i]));
}
OPS_INLINE vec_f32 vf_neg(vec_f32 a)
{
    return VEC_LANES(vec_f32, ops_float_of_bits(ops_bits_of_float(a.v[i]) ^ 0x80000000));
}
OPS_INLINE vec_f32 vf_abs(vec_f32 a)
{
    return VEC_LANES(vec_f32, ops_float_of_bits(ops_bits_of_float(a.v[i]) & 0x7fffffff));
}
OPS_INLINE vec_f32 vf_fma(vec_f32 a, vec_f32 b, vec_f32 c)
{
    return VEC_LANES(vec_f32, fmaf(a.v[i], b.v[i], c.v[i]));
}
OPS_INLINE vec_f32 vf_max(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
OPS_INLINE vec_f32 vf_min(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
OPS_INLINE vec_mask vf_lt(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_mask, a.v[i] < b.v[i]);
}
OPS_INLINE vec_mask vf_le(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_mask, a.v[i] <= b.v[i]);
}
OPS_INLINE vec_mask vf_eq(vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_mask, a.v[i] == b.v[i]);
}
OPS_INLINE uint32_t vf_bits(vec_mask m)
{
    uint32_t bits = 0;
    for (int i = 0; i < 16; i++)
        bits |= (uint32_t)(m.v[i] != 0) << i;
    return bits;
}
OPS_INLINE vec_f32 vf_select(vec_mask m, vec_f32 a, vec_f32 b)
{
    return VEC_LANES(vec_f32, m.v[i] ? a.v[i] : b.v[i]);
}
OPS_INLINE vec_f32 vf_round(vec_f32 a)
{
    return VEC_LANES(vec_f32, nearbyintf(a.v[i]));
}
OPS_INLINE vec_i32 vf_to_i32(vec_f32 a)
{
    return VEC_LANES(vec_i32, (int32_t)nearbyintf(a.v[i]));
}
OPS_INLINE vec_f32 vi_to_f32(vec_i32 a)
{
    return VEC_LANES(vec_f32, (float)a.v[i]);
}
OPS_INLINE vec_f32 vi_as_f32(vec_i32 a)
{
    return VEC_LANES(vec_f32, ops_float_of_bits((uint32_t)a.v[i]));
}
OPS_INLINE vec_i32 vf_as_i32(vec_f32 a)
{
    return VEC_LANES(vec_i32, (int32_t)ops_bits_of_float(a.v[i]));
}

OPS_INLINE vec_i32 vi_set1(int32_t x)
{
    return VEC_LANES(vec_i32, x);
}
OPS_INLINE vec_i32 vi_zero(void)
{
    return vi_set1(0);
}
OPS_INLINE vec_i32 vi_load(const void *p)
{
    vec_i32 a;
    memcpy(a.v, p, sizeof(a.v));
    return a;
}
OPS_INLINE void vi_store(void *p, vec_i32 a)
{
    memcpy(p, a.v, sizeof(a.v));
}
OPS_INLINE vec_i32 vi_add(vec_i32 a, vec_i32 b)
{
    return VEC_LANES(vec_i32, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]));
}
OPS_INLINE vec_i32 vi_sub(vec_i32 a, vec_i32 b)
{
    return VEC_LANES(vec_i32, (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i]));
}
OPS_INLINE vec_i32 vi_mul(vec_i32 a, vec_i32 b)
{
    return VEC_LANES(vec_i32, (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i]));
}
OPS_INLINE vec_i32 vi_and(vec_i32 a, vec_i32 b)
{
    return VEC_LANES(vec_i32, a.v[i] & b.v[i]);
}
OPS_INLINE vec_i32 vi_or(vec_i32 a, vec_i32 b)
{
    return VEC_LANES(vec_i32, a.v[i] | b.v[i]);
}
OPS_INLINE vec_i32 vi_xor(vec_i32 a, vec_i32 b)
{
    return VEC_LANES(vec_i32, a.v[i] ^ b.v[i]);
}
OPS_INLINE vec_i32 vi_shl(vec_i32 a, const unsigned n)
{
    return VEC_LANES(vec_i32, (int32_t)((uint32_t)a.v[i] << n));
}
OPS_INLINE vec_i32 vi_shr(vec_i32 a, const unsigned n)
{
    return VEC_LANES(vec_i32, (int32_t)((uint32_t)a.v[i] >> n));
}
OPS_INLINE vec_i32 vi_sar(vec_i32 a, const unsigned n)
{
    return VEC_LANES(vec_i32, a.v[i] >> n);
}
OPS_INLINE void vi_store_i8(int8_t *p, vec_i32 a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)a.v[i];
}
OPS_INLINE vec_i32 vi_dot4(vec_i32 acc, vec_i32 u, vec_i32 s)
{
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 4; k++)
            acc.v[i] += (uint8_t)((uint32_t)u.v[i] >> 8 * k) * (int8_t)((uint32_t)s.v[i] >> 8 * k);
    }
    return acc;
}

OPS_INLINE float vf_sum(vec_f32 a)
{
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++)
            a.v[i] += a.v[i + half];
    }
    return a.v[0];
}
OPS_INLINE float vf_hmax(vec_f32 a)
{
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++)
            a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
}

#endif
