/* Reference dequantization, written from the block definitions of the GGUF format and shared with
 * no code of ops: what the tests hold the kernels against. */
#ifndef QUERN_TESTS_SUPPORT_DEQUANT_H
#define QUERN_TESTS_SUPPORT_DEQUANT_H

#include "ops/type.h"

#include <stddef.h>
#include <stdint.h>

/* A block's number in parts: weight i is d * scale[i / sub_len] * q[i] - dmin * minimum[i / sub_len],
 * or d * q[i] + m for types without sub-scales (scale 1, minimum -1, dmin = m). */
struct dequant_block {
    int len;     /* elements: 1, 32 or 256 */
    int sub_len; /* elements to a sub-scale */
    double d, dmin;
    int scale[16], minimum[16];
    int q[256];
    double value; /* of a float type */
};

void dequant_block(enum ops_type type, const void *block, struct dequant_block *ret);

/* A row of n_cols elements in double precision. */
void dequant_row(enum ops_type type, const void *row, size_t n_cols, double *dst);

double dequant_f16(uint16_t bits);

/* Fills n_rows * row_bytes with random blocks whose f16 numbers are finite and of ordinary size, so
 * that every bit pattern of the quantized part occurs. state is an xorshift state, not 0. */
void dequant_random_rows(enum ops_type type, size_t n_rows, size_t n_cols, uint64_t *state,
                         void *dst);

/* Bytes of a row in the file. */
size_t dequant_row_bytes(enum ops_type type, size_t n_cols);

#endif
