/* Tables of cos and sin for rotary position embedding, and the rotation itself.
 *
 * Angles are computed in double precision: position × frequency in float32 would be off by 1e-3
 * radians near position 131,071. Frequencies come from libm's pow and log in double, whose last
 * bit is far below what the float32 tables keep. */
#include "ops/rope.h"

#include "ops/arch/vector_kernels.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define ALIGNMENT 64

struct ops_rope {
    uint32_t head_dim;
    uint32_t n_positions;
    float *table; /* (n_positions, 2, head_dim / 2): cos, then sin */
};

static int options_ok(const struct ops_rope_options *o)
{
    if (o->head_dim < 2 || o->head_dim % 2 || o->head_dim > 4096 || o->n_positions == 0)
        return 0;
    if (!(o->theta > 1.0) || !isfinite(o->theta))
        return 0;
    if (o->scaling == OPS_ROPE_NONE)
        return 1;
    if (!(o->factor >= 1.0) || !isfinite(o->factor))
        return 0;
    if (o->scaling == OPS_ROPE_LINEAR)
        return 1;
    return o->scaling == OPS_ROPE_YARN && o->original_context > 0 && o->beta_fast >= 0 &&
           isfinite(o->beta_fast) && o->beta_slow >= 0 && isfinite(o->beta_slow) &&
           o->attention_factor >= 0 && isfinite(o->attention_factor);
}

size_t ops_rope_bytes(const struct ops_rope_options *options)
{
    size_t bytes;

    if (!options_ok(options) ||
        __builtin_mul_overflow((size_t)options->n_positions * sizeof(float), options->head_dim,
                               &bytes) ||
        __builtin_add_overflow(bytes, (size_t)ALIGNMENT - 1, &bytes))
        return 0;
    return bytes / ALIGNMENT * ALIGNMENT;
}

/* The dimension that turns `rotations` times within the trained context (YaRN, section 3.2). */
static double correction_dim(const struct ops_rope_options *o, double rotations)
{
    return o->head_dim * log(o->original_context / (rotations * 2.0 * M_PI)) /
           (2.0 * log(o->theta));
}

/* The share of plain (extrapolated) frequency that each of head_dim / 2 dimensions keeps: 1 below
 * the correction range, 0 above it, a ramp between. */
static void yarn_keep(const struct ops_rope_options *o, double *keep)
{
    double fast = o->beta_fast > 0 ? o->beta_fast : 32.0;
    double slow = o->beta_slow > 0 ? o->beta_slow : 1.0;
    double low = fmax(floor(correction_dim(o, fast)), 0.0);
    double high = fmin(ceil(correction_dim(o, slow)), o->head_dim - 1.0);

    if (low == high)
        high += 0.001; /* as published: no division by zero */
    for (uint32_t i = 0; i < o->head_dim / 2; i++)
        keep[i] = 1.0 - fmin(fmax((i - low) / (high - low), 0.0), 1.0);
}

/* Radians per position of each of head_dim / 2 pairs; `keep` is scratch of that length. */
static void frequencies(const struct ops_rope_options *o, double *keep, double *frequency)
{
    uint32_t half = o->head_dim / 2;

    for (uint32_t i = 0; i < half; i++)
        frequency[i] = 1.0 / pow(o->theta, 2.0 * i / o->head_dim);
    if (o->scaling == OPS_ROPE_LINEAR) {
        for (uint32_t i = 0; i < half; i++)
            frequency[i] /= o->factor;
    } else if (o->scaling == OPS_ROPE_YARN) {
        yarn_keep(o, keep);
        for (uint32_t i = 0; i < half; i++)
            frequency[i] = frequency[i] / o->factor * (1.0 - keep[i]) + frequency[i] * keep[i];
    }
}

static double attention_factor(const struct ops_rope_options *o)
{
    if (o->scaling != OPS_ROPE_YARN)
        return 1.0;
    return o->attention_factor > 0 ? o->attention_factor : 0.1 * log(o->factor) + 1.0;
}

int ops_rope_new(struct ops_rope **ret, const struct ops_rope_options *options)
{
    size_t bytes = ops_rope_bytes(options);
    uint32_t half = options->head_dim / 2;
    struct ops_rope *rope = NULL;
    double *frequency = NULL;

    if (bytes == 0)
        return -EINVAL;
    rope = calloc(1, sizeof(*rope));
    frequency = calloc(options->head_dim, sizeof(*frequency));
    if (!rope || !frequency)
        goto free_both;
    rope->head_dim = options->head_dim;
    rope->n_positions = options->n_positions;
    rope->table = aligned_alloc(ALIGNMENT, bytes);
    if (!rope->table)
        goto free_both;

    frequencies(options, frequency + half, frequency);
    double scale = attention_factor(options);
    for (size_t p = 0; p < options->n_positions; p++) {
        float *row = rope->table + p * options->head_dim;
        for (uint32_t i = 0; i < half; i++) {
            double angle = (double)p * frequency[i];
            row[i] = (float)(cos(angle) * scale);
            row[half + i] = (float)(sin(angle) * scale);
        }
    }
    free(frequency);
    *ret = rope;
    return 0;

free_both:
    free(frequency);
    free(rope);
    return -ENOMEM;
}

void ops_rope_free(struct ops_rope *rope)
{
    if (!rope)
        return;
    free(rope->table);
    free(rope);
}

const float *ops_rope_row(const struct ops_rope *rope, uint32_t position)
{
    return rope->table + (size_t)position * rope->head_dim;
}

void ops_rope_apply(const struct ops_rope *rope, float *x, uint32_t n_heads, uint32_t position)
{
    const float *row = ops_rope_row(rope, position);
    uint32_t half = rope->head_dim / 2;

    for (uint32_t h = 0; h < n_heads; h++)
        ops_vector_kernels()->rotate(x + (size_t)h * rope->head_dim, row, row + half, half);
}
