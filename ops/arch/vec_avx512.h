/* The vector interface on AVX-512 (F, BW, DQ, VL), with VNNI where the unit is compiled for it.
 * See ops/arch/vec.h. */
#ifndef QUERN_OPS_ARCH_VEC_AVX512_H
#define QUERN_OPS_ARCH_VEC_AVX512_H

#include <immintrin.h>

typedef __m512 vec_f32;
typedef __m512i vec_i32;
typedef __mmask16 vec_mask;

OPS_INLINE vec_f32 vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
OPS_INLINE vec_f32 vf_zero(void)
{
    return _mm512_setzero_ps();
}
OPS_INLINE vec_f32 vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
OPS_INLINE void vf_store(float *p, vec_f32 a)
{
    _mm512_storeu_ps(p, a);
}
OPS_INLINE vec_f32 vf_load_n(const float *p, unsigned n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
OPS_INLINE void vf_store_n(float *p, vec_f32 a, unsigned n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
OPS_INLINE vec_f32 vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
OPS_INLINE vec_f32 vf_load_bf16(const uint16_t *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
OPS_INLINE vec_f32 vf_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
OPS_INLINE void vf_store_f16(uint16_t *p, vec_f32 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
OPS_INLINE vec_f32 vf_add(vec_f32 a, vec_f32 b)
{
    return _mm512_add_ps(a, b);
}
OPS_INLINE vec_f32 vf_sub(vec_f32 a, vec_f32 b)
{
    return _mm512_sub_ps(a, b);
}
OPS_INLINE vec_f32 vf_mul(vec_f32 a, vec_f32 b)
{
    return _mm512_mul_ps(a, b);
}
OPS_INLINE vec_f32 vf_div(vec_f32 a, vec_f32 b)
{
    return _mm512_div_ps(a, b);
}
OPS_INLINE vec_f32 vf_sqrt(vec_f32 a)
{
    return _mm512_sqrt_ps(a);
}
OPS_INLINE vec_f32 vf_neg(vec_f32 a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
OPS_INLINE vec_f32 vf_abs(vec_f32 a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
OPS_INLINE vec_f32 vf_fma(vec_f32 a, vec_f32 b, vec_f32 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
OPS_INLINE vec_f32 vf_max(vec_f32 a, vec_f32 b)
{
    return _mm512_max_ps(a, b);
}
OPS_INLINE vec_f32 vf_min(vec_f32 a, vec_f32 b)
{
    return _mm512_min_ps(a, b);
}
OPS_INLINE vec_mask vf_lt(vec_f32 a, vec_f32 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
OPS_INLINE vec_mask vf_le(vec_f32 a, vec_f32 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
OPS_INLINE vec_mask vf_eq(vec_f32 a, vec_f32 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
OPS_INLINE uint32_t vf_bits(vec_mask m)
{
    return m;
}
OPS_INLINE vec_f32 vf_select(vec_mask m, vec_f32 a, vec_f32 b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
OPS_INLINE vec_f32 vf_round(vec_f32 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
OPS_INLINE vec_i32 vf_to_i32(vec_f32 a)
{
    return _mm512_cvtps_epi32(a);
}
OPS_INLINE vec_f32 vi_to_f32(vec_i32 a)
{
    return _mm512_cvtepi32_ps(a);
}
OPS_INLINE vec_f32 vi_as_f32(vec_i32 a)
{
    return _mm512_castsi512_ps(a);
}
OPS_INLINE vec_i32 vf_as_i32(vec_f32 a)
{
    return _mm512_castps_si512(a);
}

OPS_INLINE vec_i32 vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
OPS_INLINE vec_i32 vi_zero(void)
{
    return _mm512_setzero_si512();
}
OPS_INLINE vec_i32 vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
OPS_INLINE void vi_store(void *p, vec_i32 a)
{
    _mm512_storeu_si512(p, a);
}
OPS_INLINE vec_i32 vi_add(vec_i32 a, vec_i32 b)
{
    return _mm512_add_epi32(a, b);
}
OPS_INLINE vec_i32 vi_sub(vec_i32 a, vec_i32 b)
{
    return _mm512_sub_epi32(a, b);
}
OPS_INLINE vec_i32 vi_mul(vec_i32 a, vec_i32 b)
{
    return _mm512_mullo_epi32(a, b);
}
OPS_INLINE vec_i32 vi_and(vec_i32 a, vec_i32 b)
{
    return _mm512_and_si512(a, b);
}
OPS_INLINE vec_i32 vi_or(vec_i32 a, vec_i32 b)
{
    return _mm512_or_si512(a, b);
}
OPS_INLINE vec_i32 vi_xor(vec_i32 a, vec_i32 b)
{
    return _mm512_xor_si512(a, b);
}
OPS_INLINE vec_i32 vi_shl(vec_i32 a, const unsigned n)
{
    return _mm512_slli_epi32(a, n);
}
OPS_INLINE vec_i32 vi_shr(vec_i32 a, const unsigned n)
{
    return _mm512_srli_epi32(a, n);
}
OPS_INLINE vec_i32 vi_sar(vec_i32 a, const unsigned n)
{
    return _mm512_srai_epi32(a, n);
}
OPS_INLINE void vi_store_i8(int8_t *p, vec_i32 a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}
OPS_INLINE vec_i32 vi_dot4(vec_i32 acc, vec_i32 u, vec_i32 s)
{
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(acc, u, s);
#else
    const __m512i pairs = _mm512_maddubs_epi16(u, s);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

OPS_INLINE float vf_sum(vec_f32 a)
{
    const __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
    return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}
OPS_INLINE float vf_hmax(vec_f32 a)
{
    const __m256 by8 = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
    return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

#endif
