/* The right-hand side of matrix products: rows of floats, and the forms of them that packed
 * weights multiply. */
#ifndef QUERN_OPS_INPUT_H
#define QUERN_OPS_INPUT_H

#include "ops/pool.h"
#include "ops/type.h"

#include <stdbool.h>
#include <stddef.h>

/* Activations of up to max_tokens rows, with the quantized forms that the weight types need:
 * blocks of 32 (or 256) int8 with a float32 scale and the sums that offset weights start from. The
 * forms are the instruction set's own: after ops_isa_select an input is set again before use. */
struct ops_input;

int ops_input_new(struct ops_input **ret, size_t max_tokens, uint32_t max_cols);
void ops_input_free(struct ops_input *input);
size_t ops_input_bytes(size_t max_tokens, uint32_t max_cols); /* for the memory budget */

/* Takes n_tokens rows of n_cols floats at x, x_stride floats apart (copied: x may change after) and
 * makes the forms that `types` (n_types of them) read. Runs on the pool. A row with NaN or infinity
 * is marked bad and computed as zeros. */
void ops_input_set(struct ops_pool *pool, struct ops_input *input, const float *x, size_t x_stride,
                   size_t n_tokens, uint32_t n_cols, const enum ops_type *types, size_t n_types);

/* Whether row `token` held NaN or infinity in the last ops_input_set. */
bool ops_input_bad(const struct ops_input *input, size_t token);

size_t ops_input_n_tokens(const struct ops_input *input);
uint32_t ops_input_n_cols(const struct ops_input *input);

struct ops_tile; /* ops/arch/matmul_kernels.h */

/* The n_tokens tokens from `first` on, all of one tile of 16, as the kernels read them. */
void ops_input_tile(const struct ops_input *input, size_t first, unsigned n_tokens,
                    struct ops_tile *ret);

#endif
