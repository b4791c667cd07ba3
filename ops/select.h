/* The k greatest of many values, for sampling: logits of a whole vocabulary to a short list. */
#ifndef QUERN_OPS_SELECT_H
#define QUERN_OPS_SELECT_H

#include <stddef.h>
#include <stdint.h>

/* Writes the indices of the k greatest values of x[0 … n) to idx, greatest first, the lower index
 * first among equals (0 and -0 are equal); NaN is never chosen. Returns how many it wrote: k, or
 * fewer where x holds fewer numbers. k ≤ n. Allocates nothing; the time is that of one pass over x
 * and k log k for k well below n, and n log k at worst. */
size_t ops_top_k(const float *x, size_t n, size_t k, uint32_t *idx);

#endif
