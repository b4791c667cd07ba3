/* Random rows of any weight type, as a file holds them. */
#ifndef QUERN_TESTS_SUPPORT_RANDOM_WEIGHTS_H
#define QUERN_TESTS_SUPPORT_RANDOM_WEIGHTS_H

#include "ops/type.h"

#include <stddef.h>
#include <stdint.h>

/* Bytes of a row of n_cols elements. */
size_t random_weights_row_bytes(enum ops_type type, size_t n_cols);

/* Fills n_rows rows with random blocks whose f16 numbers are finite and of ordinary size, so that
 * every bit pattern of the quantized part occurs. state is an xorshift state, not 0. */
void random_weights_fill(enum ops_type type, size_t n_rows, size_t n_cols, uint64_t *state,
                         void *dst);

/* The same with values of mean near 0 and this standard deviation, for weights of a model: the
 * quantized parts stay random, all scales are nearly equal. Only quantized types. */
void random_weights_fill_std(enum ops_type type, size_t n_rows, size_t n_cols, double std,
                             uint64_t *state, void *dst);

#endif
