/* exp and 2^x on 16 lanes, from fma alone, so that every instruction set gives the same bits.
 *
 * x = n ln 2 + r with n whole and |r| ≤ ln 2 / 2 (for 2^x: x = n + r, exact), then a polynomial of
 * degree 6 in r (minimax of the relative error, its constant term fixed to 1 so that exp(0) is 1
 * exactly: 3.1e-9 and 2.6e-9), then n added to the exponent. n comes from adding 1.5 · 2^23, which
 * leaves it in the low bits of the sum. ops_expf in ops/vector.c is the scalar twin of vf_exp. */
#ifndef QUERN_OPS_ARCH_EXP_H
#define QUERN_OPS_ARCH_EXP_H

#include "ops/arch/vec.h"

#define OPS_EXP_MAGIC    0x1.8p23f
#define OPS_EXP_LOG2E    0x1.715476p0f
#define OPS_EXP_LN2_HI   0x1.62e43p-1f
#define OPS_EXP_LN2_LO   (-0x1.05c61p-29f)
#define OPS_EXP_C2       0x1.fffffcp-2f
#define OPS_EXP_C3       0x1.555492p-3f
#define OPS_EXP_C4       0x1.5558f2p-5f
#define OPS_EXP_C5       0x1.1239d4p-7f
#define OPS_EXP_C6       0x1.6a244cp-10f
#define OPS_EXP_LEAST    (-87.336544f) /* below: 0; 2^-126, the least normal number, is exp of this */
#define OPS_EXP_GREATEST 88.722839f    /* above: infinity */

/* exp(x): 0 below OPS_EXP_LEAST, infinity above OPS_EXP_GREATEST, NaN for NaN; about 1 ulp. */
OPS_INLINE vec_f32 vf_exp(vec_f32 x)
{
    const vec_f32 magic = vf_set1(OPS_EXP_MAGIC), one = vf_set1(1.0f);
    const vec_f32 t = vf_fma(x, vf_set1(OPS_EXP_LOG2E), magic);
    const vec_f32 n = vf_sub(t, magic);
    vec_f32 r = vf_fma(n, vf_set1(-OPS_EXP_LN2_HI), x);
    r = vf_fma(n, vf_set1(-OPS_EXP_LN2_LO), r);

    vec_f32 p = vf_fma(vf_set1(OPS_EXP_C6), r, vf_set1(OPS_EXP_C5));
    p = vf_fma(p, r, vf_set1(OPS_EXP_C4));
    p = vf_fma(p, r, vf_set1(OPS_EXP_C3));
    p = vf_fma(p, r, vf_set1(OPS_EXP_C2));
    p = vf_fma(p, r, one);
    p = vf_fma(p, r, one);

    vec_f32 y = vi_as_f32(vi_add(vf_as_i32(p), vi_shl(vf_as_i32(t), 23)));
    y = vf_select(vf_lt(x, vf_set1(OPS_EXP_LEAST)), vf_zero(), y);
    y = vf_select(vf_lt(vf_set1(OPS_EXP_GREATEST), x), vf_set1(__builtin_inff()), y);
    return vf_select(vf_eq(x, x), y, x);
}

/* 2^x for x ≤ 0: 0 below -126, 1 exactly at 0, NaN for NaN. */
OPS_INLINE vec_f32 vf_exp2_negative(vec_f32 x)
{
    const vec_f32 magic = vf_set1(OPS_EXP_MAGIC);
    const vec_f32 t = vf_add(x, magic);
    const vec_f32 r = vf_sub(x, vf_sub(t, magic));

    vec_f32 p = vf_fma(vf_set1(0x1.470b4ap-13f), r, vf_set1(0x1.5f7276p-10f));
    p = vf_fma(p, r, vf_set1(0x1.3b270ep-7f));
    p = vf_fma(p, r, vf_set1(0x1.c6ae72p-5f));
    p = vf_fma(p, r, vf_set1(0x1.ebfbe2p-3f));
    p = vf_fma(p, r, vf_set1(0x1.62e432p-1f));
    p = vf_fma(p, r, vf_set1(1.0f));

    const vec_f32 y = vi_as_f32(vi_add(vf_as_i32(p), vi_shl(vf_as_i32(t), 23)));
    /* 0 > x is false for NaN, and vf_max then gives its second argument. */
    return vf_select(vf_le(vf_set1(-126.0f), x), y, vf_max(vf_zero(), x));
}

#endif
