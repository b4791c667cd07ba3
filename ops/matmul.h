/* Matrix products y = W x (+ bias, + residual) over packed weights.
 *
 * What a product is, per type: an exact integer I for each block of inputs, then
 * acc = fma((float)I, d_w * d_a, acc), then the term of the minimum, blocks in increasing order;
 * for float weights acc = fma(w, x, acc), inputs ascending. The same bits on every instruction
 * set, for every thread count, for one token and for many (docs/design.md, "Arithmetic"). */
#ifndef QUERN_OPS_MATMUL_H
#define QUERN_OPS_MATMUL_H

#include "ops/matrix.h"
#include "ops/pool.h"

#include <stdbool.h>

/* Activations of up to max_tokens rows, with the quantized forms that the weight types need:
 * blocks of 32 (or 256) int8 with a float32 scale and the sums that offset weights start from. */
struct ops_input;

int ops_input_new(struct ops_input **ret, size_t max_tokens, uint32_t max_cols);
void ops_input_free(struct ops_input *input);
size_t ops_input_bytes(size_t max_tokens, uint32_t max_cols); /* for the memory budget */

/* Takes n_tokens rows of n_cols floats at x, x_stride floats apart (x is read later too: it stays
 * valid until the products are done) and makes the forms that `types` (n_types of them) read.
 * Runs on the pool. A row with NaN or infinity is marked bad and computed as zeros. */
void ops_input_set(struct ops_pool *pool, struct ops_input *input, const float *x, size_t x_stride,
                   size_t n_tokens, uint32_t n_cols, const enum ops_type *types, size_t n_types);

/* Whether row `token` held NaN or infinity in the last ops_input_set. */
bool ops_input_bad(const struct ops_input *input, size_t token);

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
