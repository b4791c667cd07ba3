/* Weight blocks to double precision, each type from the definition of its block: independent of the
 * kernels, slow and plain. */
#ifndef QUERN_TESTS_SUPPORT_DEQUANTIZE_H
#define QUERN_TESTS_SUPPORT_DEQUANTIZE_H

#include <stddef.h>
#include <stdint.h>

/* A row of n values of GGUF type `type` (ops_type_info knows it) at src, to dst[n]. */
void dequantize_row(uint32_t type, const void *src, size_t n, double *dst);

/* IEEE half precision, exact. */
double dequantize_f16(const void *src);

#endif
