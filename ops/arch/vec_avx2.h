/* The vector interface on AVX2, FMA and F16C: 16 lanes are two halves of 8. See ops/arch/vec.h. */
#ifndef QUERN_OPS_ARCH_VEC_AVX2_H
#define QUERN_OPS_ARCH_VEC_AVX2_H

#include <immintrin.h>

typedef struct {
    __m256 lo, hi; /* lanes 0 … 7 and 8 … 15 */
} vec_f32;

typedef struct {
    __m256i lo, hi;
} vec_i32;

typedef struct {
    __m256 lo, hi; /* all bits or none */
} vec_mask;

OPS_INLINE vec_f32 vf_set1(float x)
{
    return (vec_f32){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
OPS_INLINE vec_f32 vf_zero(void)
{
    return (vec_f32){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
OPS_INLINE vec_f32 vf_load(const float *p)
{
    return (vec_f32){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
OPS_INLINE void vf_store(float *p, vec_f32 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
OPS_INLINE __m256i vec_first_lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
OPS_INLINE vec_f32 vf_load_n(const float *p, unsigned n)
{
    return (vec_f32){_mm256_maskload_ps(p, vec_first_lanes((int)n)),
                     _mm256_maskload_ps(p + 8, vec_first_lanes((int)n - 8))};
}
OPS_INLINE void vf_store_n(float *p, vec_f32 a, unsigned n)
{
    _mm256_maskstore_ps(p, vec_first_lanes((int)n), a.lo);
    _mm256_maskstore_ps(p + 8, vec_first_lanes((int)n - 8), a.hi);
}
OPS_INLINE vec_f32 vf_load_f16(const uint16_t *p)
{
    return (vec_f32){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                     _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
OPS_INLINE __m256 vec_half_of_bf16(const uint16_t *p)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
OPS_INLINE vec_f32 vf_load_bf16(const uint16_t *p)
{
    return (vec_f32){vec_half_of_bf16(p), vec_half_of_bf16(p + 8)};
}
OPS_INLINE vec_f32 vf_load_i8(const int8_t *p)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    return (vec_f32){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                     _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
OPS_INLINE void vf_store_f16(uint16_t *p, vec_f32 a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
OPS_INLINE vec_f32 vf_add(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
OPS_INLINE vec_f32 vf_sub(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
OPS_INLINE vec_f32 vf_mul(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
OPS_INLINE vec_f32 vf_div(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
OPS_INLINE vec_f32 vf_sqrt(vec_f32 a)
{
    return (vec_f32){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
OPS_INLINE vec_f32 vf_neg(vec_f32 a)
{
    return (vec_f32){_mm256_xor_ps(a.lo, _mm256_set1_ps(-0.0f)),
                     _mm256_xor_ps(a.hi, _mm256_set1_ps(-0.0f))};
}
OPS_INLINE vec_f32 vf_abs(vec_f32 a)
{
    return (vec_f32){_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.lo),
                     _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.hi)};
}
OPS_INLINE vec_f32 vf_fma(vec_f32 a, vec_f32 b, vec_f32 c)
{
    return (vec_f32){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
OPS_INLINE vec_f32 vf_max(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
OPS_INLINE vec_f32 vf_min(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
OPS_INLINE vec_mask vf_lt(vec_f32 a, vec_f32 b)
{
    return (vec_mask){_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
OPS_INLINE vec_mask vf_le(vec_f32 a, vec_f32 b)
{
    return (vec_mask){_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}
OPS_INLINE vec_mask vf_eq(vec_f32 a, vec_f32 b)
{
    return (vec_mask){_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
OPS_INLINE uint32_t vf_bits(vec_mask m)
{
    return (uint32_t)_mm256_movemask_ps(m.lo) | (uint32_t)_mm256_movemask_ps(m.hi) << 8;
}
OPS_INLINE vec_f32 vf_select(vec_mask m, vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
OPS_INLINE vec_f32 vf_round(vec_f32 a)
{
    return (vec_f32){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                     _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
OPS_INLINE vec_i32 vf_to_i32(vec_f32 a)
{
    return (vec_i32){_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
OPS_INLINE vec_f32 vi_to_f32(vec_i32 a)
{
    return (vec_f32){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
OPS_INLINE vec_f32 vi_as_f32(vec_i32 a)
{
    return (vec_f32){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
OPS_INLINE vec_i32 vf_as_i32(vec_f32 a)
{
    return (vec_i32){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}

OPS_INLINE vec_i32 vi_set1(int32_t x)
{
    return (vec_i32){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
OPS_INLINE vec_i32 vi_zero(void)
{
    return (vec_i32){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
OPS_INLINE vec_i32 vi_load(const void *p)
{
    return (vec_i32){_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
OPS_INLINE void vi_store(void *p, vec_i32 a)
{
    _mm256_storeu_si256(p, a.lo);
    _mm256_storeu_si256((__m256i *)p + 1, a.hi);
}
OPS_INLINE vec_i32 vi_add(vec_i32 a, vec_i32 b)
{
    return (vec_i32){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
OPS_INLINE vec_i32 vi_sub(vec_i32 a, vec_i32 b)
{
    return (vec_i32){_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
OPS_INLINE vec_i32 vi_mul(vec_i32 a, vec_i32 b)
{
    return (vec_i32){_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
OPS_INLINE vec_i32 vi_and(vec_i32 a, vec_i32 b)
{
    return (vec_i32){_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
OPS_INLINE vec_i32 vi_or(vec_i32 a, vec_i32 b)
{
    return (vec_i32){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
OPS_INLINE vec_i32 vi_xor(vec_i32 a, vec_i32 b)
{
    return (vec_i32){_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
OPS_INLINE vec_i32 vi_shl(vec_i32 a, const unsigned n)
{
    return (vec_i32){_mm256_slli_epi32(a.lo, (int)n), _mm256_slli_epi32(a.hi, (int)n)};
}
OPS_INLINE vec_i32 vi_shr(vec_i32 a, const unsigned n)
{
    return (vec_i32){_mm256_srli_epi32(a.lo, (int)n), _mm256_srli_epi32(a.hi, (int)n)};
}
OPS_INLINE vec_i32 vi_sar(vec_i32 a, const unsigned n)
{
    return (vec_i32){_mm256_srai_epi32(a.lo, (int)n), _mm256_srai_epi32(a.hi, (int)n)};
}
OPS_INLINE void vi_store_i8(int8_t *p, vec_i32 a)
{
    /* packs works within 128-bit halves: 0-3 8-11 | 4-7 12-15, put in order by the permute. */
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)p, bytes);
}
OPS_INLINE vec_i32 vi_dot4(vec_i32 acc, vec_i32 u, vec_i32 s)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i lo = _mm256_madd_epi16(_mm256_maddubs_epi16(u.lo, s.lo), ones);
    const __m256i hi = _mm256_madd_epi16(_mm256_maddubs_epi16(u.hi, s.hi), ones);
    return (vec_i32){_mm256_add_epi32(acc.lo, lo), _mm256_add_epi32(acc.hi, hi)};
}

OPS_INLINE float vf_sum(vec_f32 a)
{
    const __m256 by8 = _mm256_add_ps(a.lo, a.hi);
    const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
    return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}
OPS_INLINE float vf_hmax(vec_f32 a)
{
    const __m256 by8 = _mm256_max_ps(a.lo, a.hi);
    const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
    return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

#endif
