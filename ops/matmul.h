/* Matrix products y = W x (+ bias, + residual) over packed weights.
 *
 * What a product is, per type: an exact integer I for each block of inputs, then
 * acc = fma((float)I, d_w * d_a, acc), then the term of the minimum, blocks in increasing order;
 * for float weights acc = fma(w, x, acc), inputs ascending. The same bits on every instruction
 * set, for every thread count, for one token and for many (docs/design.md, "Arithmetic"). */
#ifndef QUERN_OPS_MATMUL_H
#define QUERN_OPS_MATMUL_H

#include "ops/input.h"
#include "ops/matrix.h"
#include "ops/pool.h"

#include <stdbool.h>

struct ops_matmul_job {
    const struct ops_matrix *w;
    const float *bias; /* (n_rows), or NULL; added after the sum */
    float *y;          /* (n_tokens, n_rows), y_stride floats between tokens */
    size_t y_stride;
    bool add; /* y += the product (residual) in place of y = */
};

/* Computes all jobs (same input, different matrices: q, k, v or gate, up) in one parallel region. */
void ops_matmul(struct ops_pool *pool, const struct ops_input *input,
                const struct ops_matmul_job *jobs, size_t n_jobs);

/* One product of one token with the given rows of w only, on the calling thread; for the head when
 * few rows are asked for, and for tests. Same bits. y[i] is row rows[i]. */
void ops_matmul_rows(const struct ops_input *input, size_t token, const struct ops_matrix *w,
                     const uint32_t *rows, size_t n_rows, float *y);

#endif
