/* The inner products of the integer kernels, at the width of one register.
 *
 * A part is as many rows as a register has 32-bit lanes: 16 with AVX-512 and in plain C, 8 with
 * AVX2 (OPS_PARTS to a group). Weights are unsigned bytes, 4 inputs of a row in a lane;
 * activations are signed bytes within ±127, the same 4 of one token in every lane.
 *
 * A dot is a running sum in one of two forms (docs/design.md, "Arithmetic"; both exact):
 *   OPS_DOT_WIDE 1   32-bit lanes (VNNI, plain C)
 *   OPS_DOT_WIDE 0   pairs of 16-bit sums in a lane (vpmaddubsw, vpaddw), which may wrap on the way as
 *                    long as each true sum fits 16 bits. No byte of a weight may exceed 127 · 2 / 2,
 *                    so that vpmaddubsw never saturates: wider weights are split into nibbles.
 *
 * A pass is OPS_TOKENS_MAX tokens and OPS_SIDE groups: as many as leave their sums, in two forms, in the
 * registers. With AVX-512 two groups need half the loads of activations and give eight chains of sums. */
#ifndef QUERN_OPS_ARCH_DOT_H
#define QUERN_OPS_ARCH_DOT_H

#include "ops/arch/vec.h"

#if defined(__AVX512F__)

#define OPS_PARTS     1
#define OPS_PART_ROWS 16
#ifdef __AVX512VNNI__
#define OPS_DOT_WIDE 1
#else
#define OPS_DOT_WIDE 0
#endif
#ifdef __AMX_INT8__ /* tiles take over before two groups pay */
#define OPS_SIDE 1
#else
#define OPS_SIDE 2
#endif
#define OPS_TOKENS_MAX 4

typedef __m512i part_i;
typedef __m512 part_f;

#define PI(name) _mm512_##name
#define PI_AND   _mm512_and_si512
#define PI_OR    _mm512_or_si512
#define PI_XOR   _mm512_xor_si512
#define PI_LOAD  _mm512_loadu_si512
#define PI_STORE _mm512_storeu_si512
#define PI_ZERO  _mm512_setzero_si512
#define PI_SHUF  _mm512_shuffle_epi8

OPS_INLINE part_i pi_bytes16(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}
OPS_INLINE part_i pi_of_u16(const uint8_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
OPS_INLINE part_f pf_load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
OPS_INLINE part_f pf_load_bf16(const uint8_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pi_of_u16(p), 16));
}
OPS_INLINE part_f pf_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
OPS_INLINE void pf_store(float *p, part_f a)
{
    _mm512_storeu_ps(p, a);
}
OPS_INLINE part_f pf_load_n(const float *p, int n)
{
    return vf_load_n(p, (unsigned)n);
}
OPS_INLINE void pf_store_n(float *p, part_f a, int n)
{
    vf_store_n(p, a, (unsigned)n);
}

#elif defined(__AVX2__)

#define OPS_PARTS      2
#define OPS_PART_ROWS  8
#define OPS_SIDE       1
#define OPS_DOT_WIDE   0
#define OPS_TOKENS_MAX 4

typedef __m256i part_i;
typedef __m256 part_f;

#define PI(name) _mm256_##name
#define PI_AND   _mm256_and_si256
#define PI_OR    _mm256_or_si256
#define PI_XOR   _mm256_xor_si256
#define PI_LOAD  _mm256_loadu_si256
#define PI_STORE _mm256_storeu_si256
#define PI_ZERO  _mm256_setzero_si256
#define PI_SHUF  _mm256_shuffle_epi8

OPS_INLINE part_i pi_bytes16(const uint8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}
OPS_INLINE part_i pi_of_u16(const uint8_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
}
OPS_INLINE part_f pf_load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
OPS_INLINE part_f pf_load_bf16(const uint8_t *p)
{
    return vec_half_of_bf16((const uint16_t *)p);
}
OPS_INLINE part_f pf_load(const void *p)
{
    return _mm256_loadu_ps(p);
}
OPS_INLINE void pf_store(float *p, part_f a)
{
    _mm256_storeu_ps(p, a);
}
OPS_INLINE part_f pf_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, vec_first_lanes(n));
}
OPS_INLINE void pf_store_n(float *p, part_f a, int n)
{
    _mm256_maskstore_ps(p, vec_first_lanes(n), a);
}

#else

#define OPS_PARTS      1
#define OPS_PART_ROWS  16
#define OPS_SIDE       1
#define OPS_DOT_WIDE   1
#define OPS_TOKENS_MAX 2

typedef vec_i32 part_i;
typedef vec_f32 part_f;

OPS_INLINE uint32_t ops_load_u32(const void *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

OPS_INLINE part_i pi_load(const void *p)
{
    return vi_load(p);
}
OPS_INLINE void pi_store(void *p, part_i a)
{
    vi_store(p, a);
}
OPS_INLINE part_i pi_zero(void)
{
    return vi_zero();
}
OPS_INLINE part_i pi_set1(int32_t x)
{
    return vi_set1(x);
}
OPS_INLINE part_i pi_bcast(const void *p)
{
    return vi_set1((int32_t)ops_load_u32(p));
}
OPS_INLINE part_i pi_and(part_i a, part_i b)
{
    return vi_and(a, b);
}
OPS_INLINE part_i pi_or(part_i a, part_i b)
{
    return vi_or(a, b);
}
OPS_INLINE part_i pi_xor(part_i a, part_i b)
{
    return vi_xor(a, b);
}
OPS_INLINE part_i pi_add(part_i a, part_i b)
{
    return vi_add(a, b);
}
OPS_INLINE part_i pi_sub(part_i a, part_i b)
{
    return vi_sub(a, b);
}
OPS_INLINE part_i pi_mul(part_i a, part_i b)
{
    return vi_mul(a, b);
}
OPS_INLINE part_i pi_shl(part_i a, const int n)
{
    return vi_shl(a, (unsigned)n);
}
OPS_INLINE part_i pi_shr(part_i a, const int n)
{
    return vi_shr(a, (unsigned)n);
}
OPS_INLINE part_i pi_sar(part_i a, const int n)
{
    return vi_sar(a, (unsigned)n);
}
OPS_INLINE part_i pi_of_u16(const uint8_t *p)
{
    return VEC_LANES(part_i, p[2 * i] | p[2 * i + 1] << 8);
}
/* Pairs of 16-bit lanes. */
OPS_INLINE part_i pi_sub16(part_i a, part_i b)
{
    return VEC_LANES(part_i,
                     (int32_t)((((uint32_t)a.v[i] - (uint32_t)b.v[i]) & 0xffff) |
                               ((uint32_t)(a.v[i] >> 16) - (uint32_t)(b.v[i] >> 16)) << 16));
}
OPS_INLINE part_i pi_mul16(part_i a, part_i b)
{
    return VEC_LANES(part_i, (int32_t)(((uint32_t)a.v[i] * (uint32_t)b.v[i] & 0xffff) |
                                       (uint32_t)((a.v[i] >> 16) * (b.v[i] >> 16)) << 16));
}
OPS_INLINE part_i pi_even_s8(part_i a)
{
    return VEC_LANES(part_i, (int32_t)((uint16_t)(int8_t)a.v[i] |
                                       (uint32_t)(uint16_t)(int8_t)(a.v[i] >> 16) << 16));
}
OPS_INLINE part_i pi_odd_s8(part_i a)
{
    return pi_even_s8(pi_shr(a, 8));
}
OPS_INLINE part_i pi_madd16(part_i a, part_i b)
{
    return VEC_LANES(part_i, (int16_t)a.v[i] * (int16_t)b.v[i] +
                                 (int16_t)(a.v[i] >> 16) * (int16_t)(b.v[i] >> 16));
}
OPS_INLINE part_i pi_table16(const uint8_t *table, part_i index)
{
    return VEC_LANES(part_i, (int32_t)((uint32_t)table[index.v[i] & 15] |
                                       (uint32_t)table[index.v[i] >> 8 & 15] << 8 |
                                       (uint32_t)table[index.v[i] >> 16 & 15] << 16 |
                                       (uint32_t)table[index.v[i] >> 24 & 15] << 24));
}
OPS_INLINE part_i pi_madd16_add(part_i acc, part_i a, part_i b)
{
    return vi_add(acc, pi_madd16(a, b));
}
OPS_INLINE part_i dot_step(part_i acc, part_i u, part_i s)
{
    return vi_dot4(acc, u, s);
}

OPS_INLINE part_f pf_zero(void)
{
    return vf_zero();
}
OPS_INLINE part_f pf_bcast(const float *p)
{
    return vf_set1(*p);
}
OPS_INLINE part_f pf_of_i(part_i a)
{
    return vi_to_f32(a);
}
OPS_INLINE part_f pf_add(part_f a, part_f b)
{
    return vf_add(a, b);
}
OPS_INLINE part_f pf_mul(part_f a, part_f b)
{
    return vf_mul(a, b);
}
OPS_INLINE part_f pf_fma(part_f a, part_f b, part_f c)
{
    return vf_fma(a, b, c);
}
OPS_INLINE part_f pf_load_f16(const uint8_t *p)
{
    return VEC_LANES(part_f, ops_float_of_f16((uint16_t)(p[2 * i] | p[2 * i + 1] << 8)));
}
OPS_INLINE part_f pf_load_bf16(const uint8_t *p)
{
    return VEC_LANES(part_f, ops_float_of_bf16((uint16_t)(p[2 * i] | p[2 * i + 1] << 8)));
}
OPS_INLINE part_f pf_load(const void *p)
{
    return vf_load(p);
}
OPS_INLINE void pf_store(float *p, part_f a)
{
    vf_store(p, a);
}
OPS_INLINE part_f pf_load_n(const float *p, int n)
{
    return vf_load_n(p, (unsigned)n);
}
OPS_INLINE void pf_store_n(float *p, part_f a, int n)
{
    vf_store_n(p, a, (unsigned)n);
}

#endif

#ifdef PI

/* AVX2 and AVX-512 differ here in the prefix alone. */

OPS_INLINE part_i pi_load(const void *p)
{
    return PI_LOAD(p);
}
OPS_INLINE void pi_store(void *p, part_i a)
{
    PI_STORE(p, a);
}
OPS_INLINE part_i pi_zero(void)
{
    return PI_ZERO();
}
OPS_INLINE part_i pi_set1(int32_t x)
{
    return PI(set1_epi32)(x);
}
OPS_INLINE part_i pi_bcast(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof(x));
    return PI(set1_epi32)(x);
}
OPS_INLINE part_i pi_and(part_i a, part_i b)
{
    return PI_AND(a, b);
}
OPS_INLINE part_i pi_or(part_i a, part_i b)
{
    return PI_OR(a, b);
}
OPS_INLINE part_i pi_xor(part_i a, part_i b)
{
    return PI_XOR(a, b);
}
OPS_INLINE part_i pi_add(part_i a, part_i b)
{
    return PI(add_epi32)(a, b);
}
OPS_INLINE part_i pi_sub(part_i a, part_i b)
{
    return PI(sub_epi32)(a, b);
}
OPS_INLINE part_i pi_mul(part_i a, part_i b)
{
    return PI(mullo_epi32)(a, b);
}
OPS_INLINE part_i pi_shl(part_i a, const int n)
{
    return PI(slli_epi32)(a, (unsigned)n);
}
OPS_INLINE part_i pi_shr(part_i a, const int n)
{
    return PI(srli_epi32)(a, (unsigned)n);
}
OPS_INLINE part_i pi_sar(part_i a, const int n)
{
    return PI(srai_epi32)(a, (unsigned)n);
}
OPS_INLINE part_i pi_sub16(part_i a, part_i b)
{
    return PI(sub_epi16)(a, b);
}
OPS_INLINE part_i pi_mul16(part_i a, part_i b)
{
    return PI(mullo_epi16)(a, b);
}
OPS_INLINE part_i pi_even_s8(part_i a)
{
    return PI(srai_epi16)(PI(slli_epi16)(a, 8), 8);
}
OPS_INLINE part_i pi_odd_s8(part_i a)
{
    return PI(srai_epi16)(a, 8);
}
OPS_INLINE part_i pi_madd16(part_i a, part_i b)
{
    return PI(madd_epi16)(a, b);
}
OPS_INLINE part_i pi_table16(const uint8_t *table, part_i index)
{
    return PI_SHUF(pi_bytes16(table), index);
}
OPS_INLINE part_i pi_madd16_add(part_i acc, part_i a, part_i b)
{
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return pi_add(acc, pi_madd16(a, b));
#endif
}
OPS_INLINE part_i dot_step(part_i acc, part_i u, part_i s)
{
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(acc, u, s);
#else
    return PI(add_epi16)(acc, PI(maddubs_epi16)(u, s));
#endif
}

OPS_INLINE part_f pf_zero(void)
{
    return PI(setzero_ps)();
}
OPS_INLINE part_f pf_bcast(const float *p)
{
    return PI(set1_ps)(*p);
}
OPS_INLINE part_f pf_of_i(part_i a)
{
    return PI(cvtepi32_ps)(a);
}
OPS_INLINE part_f pf_add(part_f a, part_f b)
{
    return PI(add_ps)(a, b);
}
OPS_INLINE part_f pf_mul(part_f a, part_f b)
{
    return PI(mul_ps)(a, b);
}
OPS_INLINE part_f pf_fma(part_f a, part_f b, part_f c)
{
    return PI(fmadd_ps)(a, b, c);
}

#endif

/* The same address, but the compiler does not know: what is read from it is not taken for what was read
 * before, and so not kept in a register that sums need. */
OPS_INLINE const uint8_t *load_anew(const uint8_t *p)
{
#ifdef PI
    __asm__("" : "+r"(p));
#endif
    return p;
}

/* The 32-bit value of a dot. */
OPS_INLINE part_i dot_value(part_i dot)
{
#if OPS_DOT_WIDE
    return dot;
#else
    return pi_madd16(dot, pi_set1(0x00010001));
#endif
}

/* A scale for dot_scaled from the low (which 0) or high (1) half of lanes of int16 pairs. */
OPS_INLINE part_i dot_scale(part_i pairs, const int which)
{
#if OPS_DOT_WIDE
    return which ? pi_shr(pairs, 16) : pi_and(pairs, pi_set1(0xffff));
#else
    const part_i low = pi_and(pairs, pi_set1(0xffff)), high = pi_shr(pairs, 16);
    return which ? pi_or(high, pi_shl(high, 16)) : pi_or(low, pi_shl(low, 16));
#endif
}

/* acc + dot · scale, |dot| ≤ 32,767. */
OPS_INLINE part_i dot_scaled(part_i acc, part_i dot, part_i scale)
{
    return pi_madd16_add(acc, dot, scale);
}

#endif
