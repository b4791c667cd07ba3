/* Rows of float32 written in a weight type: what `quernd quantize` and the model generator write.
 * Types: F32, F16, BF16 and Q8_0. */
#ifndef QUERN_SVC_MODEL_ENCODE_H
#define QUERN_SVC_MODEL_ENCODE_H

#include "ops/type.h"

#include <stdbool.h>
#include <stddef.h>

/* The type with this name in any case ("q8_0"), if rows can be encoded in it. */
bool model_encode_type(const char *name, enum ops_type *ret);

/* Encodes n values (a whole number of blocks) at x into dst, n / block_len * block_bytes long. F16
 * and BF16 round to nearest even; Q8_0: d = amax / 127 rounded to F16, q = rne(x / (amax / 127)),
 * as the format's reference does it. Returns 0; -ENOTSUP for another type; -EDOM where a value is not finite (dst is then
 * not to be used). */
int model_encode_row(enum ops_type type, const float *x, size_t n, void *dst);

#endif
