/* The small vector interface that every kernel is written against: 16 float lanes (vec_f32) and
 * 16 int32 lanes (vec_i32), in plain C, AVX2 (two halves) and AVX-512.
 *
 * A kernel is a header, ops/arch/<subject>_kernel.h, whose functions are static and use only what
 * is declared here. Each instruction set compiles it in a unit of its own,
 * ops/arch/<subject>_<set>.c, that defines OPS_SET and includes the kernel; the kernel ends with
 * its table of function pointers, named OPS_SET_NAME(ops_<subject>_kernels). ops/<subject>.c calls
 * table[ops_isa()].
 *
 * Every function gives the same bits in every implementation. So there is no approximate
 * reciprocal, no horizontal sum but vf_sum (tree 8, 4, 2, 1), and no multiply-add but vf_fma.
 *
 *   vf_zero vf_set1 vf_load vf_store                 float lanes; loads need no alignment
 *   vf_load_n vf_store_n                             the first n lanes; the others 0 / untouched
 *   vf_load_f16 vf_load_bf16 vf_load_i8              16 values converted exactly
 *   vf_store_f16                                     round to nearest even, overflow to infinity
 *   vf_add vf_sub vf_mul vf_div vf_sqrt vf_neg vf_abs
 *   vf_fma(a, b, c)                                  a * b + c, one rounding
 *   vf_max(a, b) vf_min(a, b)                        a > b ? a : b (so b if either is NaN)
 *   vf_lt vf_le vf_eq                                masks; false for NaN
 *   vf_select(m, a, b)                               m ? a : b
 *   vf_bits(m)                                       bit i is lane i
 *   vf_round                                         to a whole number, ties to even
 *   vf_to_i32                                        ties to even; |x| < 2^31
 *   vi_to_f32 vi_as_f32 vf_as_i32
 *   vi_zero vi_set1 vi_load vi_store vi_add vi_sub vi_mul vi_and vi_or vi_xor
 *   vi_shl vi_shr vi_sar                             by a constant
 *   vi_store_i8                                      16 lanes within -128 … 127 to 16 bytes
 *   vi_dot4(acc, u, s)                               acc + Σ of 4 products u8 × s8 in each lane; every
 *                                                    byte of u ≤ 129, so that pairs fit 16 bits
 *   vf_sum                                           Σ of 16 lanes: partials i and i + 8, then 4, 2, 1
 *   vf_hmax                                          the greatest lane by vf_max, the same tree
 */
#ifndef QUERN_OPS_ARCH_VEC_H
#define QUERN_OPS_ARCH_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(QUERN_SANITIZE) && !defined(__AVX2__)
/* Plain C with a check at every lane, inlined everywhere, would take minutes to compile. */
#define OPS_INLINE static inline __attribute__((unused))
#else
#define OPS_INLINE static inline __attribute__((always_inline, unused))
#endif

/* Before a loop with a constant trip count whose arrays must live in registers. Plain C has no use
 * for it and would only grow. */
#ifndef __AVX2__
#define OPS_UNROLL
#elif defined(__clang__)
#define OPS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define OPS_UNROLL _Pragma("GCC unroll 32")
#endif
/* What must stay a loop. */
#ifdef __clang__
#define OPS_ROLL _Pragma("clang loop unroll(disable)")
#else
#define OPS_ROLL _Pragma("GCC unroll 1")
#endif

#define OPS_SET_PASTE2(name, set) name##_##set
#define OPS_SET_PASTE(name, set)  OPS_SET_PASTE2(name, set)
#define OPS_SET_NAME(name)        OPS_SET_PASTE(name, OPS_SET)

#if defined(__AVX512F__)
#include "ops/arch/vec_avx512.h"
#elif defined(__AVX2__)
#include "ops/arch/vec_avx2.h"
#else
#include "ops/arch/vec_scalar.h"
#endif

#endif
