/* Rows of float32 written in a weight type: what `quernd quantize` and the model generator write.
 * Every type that ops has a kernel for. */
#ifndef QUERN_SVC_MODEL_ENCODE_H
#define QUERN_SVC_MODEL_ENCODE_H

#include "ops/type.h"

#include <stdbool.h>
#include <stddef.h>

/* The type with this name in any case ("q8_0"). */
bool model_encode_type(const char *name, enum ops_type *ret);

/* Encodes n values (a whole number of blocks) at x into dst, n / block_len * block_bytes long. F16
 * and BF16 round to nearest even; Q8_0: d = amax / 127 rounded to F16, q = rne(x / (amax / 127)),
 * as the format's reference does it; the others search a scale of small squared error. Returns 0;
 * -EDOM where a value is not finite, -ERANGE where F16 cannot hold it, -EINVAL where n is no whole
 * number of blocks (dst is then not to be used). */
int model_encode_row(enum ops_type type, const float *x, size_t n, void *dst);

#endif
