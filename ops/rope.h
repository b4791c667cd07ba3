/* Rotary position embedding, NeoX style (half-split: element i turns with element i + dim / 2).
 *
 * The tables of cos and sin are made once in double precision and rounded once to float32, so
 * that every instruction set multiplies by the same numbers. YaRN follows Peng et al., "YaRN:
 * Efficient Context Window Extension of Large Language Models" (2023), as Hugging Face computes
 * it: interpolated and plain frequencies are blended along a ramp over the dimensions between
 * floor and ceil of the correction range, and the attention factor multiplies cos and sin. */
#ifndef QUERN_OPS_ROPE_H
#define QUERN_OPS_ROPE_H

#include <stddef.h>
#include <stdint.h>

struct ops_rope; /* tables of cos and sin, made once in double precision */

enum ops_rope_scaling { OPS_ROPE_NONE, OPS_ROPE_LINEAR, OPS_ROPE_YARN };

struct ops_rope_options {
    uint32_t head_dim;
    uint32_t n_positions; /* table length */
    double theta;         /* base */
    enum ops_rope_scaling scaling;
    double factor;               /* YaRN, linear: context extension, ≥ 1 */
    uint32_t original_context;   /* YaRN: trained length */
    double beta_fast, beta_slow; /* YaRN: 0 takes 32 and 1 */
    double attention_factor;     /* YaRN: 0 takes 0.1 ln(factor) + 1; multiplies cos and sin */
};

/* Returns 0, -ENOMEM, or -EINVAL for options out of range. */
int ops_rope_new(struct ops_rope **ret, const struct ops_rope_options *options);
void ops_rope_free(struct ops_rope *rope);
size_t ops_rope_bytes(const struct ops_rope_options *options);

/* Rotates n_heads heads of head_dim floats at x in place for `position` < n_positions. */
void ops_rope_apply(const struct ops_rope *rope, float *x, uint32_t n_heads, uint32_t position);

/* The table's row: cos[head_dim / 2] then sin[head_dim / 2], for tests. */
const float *ops_rope_row(const struct ops_rope *rope, uint32_t position);

#endif
