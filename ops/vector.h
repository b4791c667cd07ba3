/* Operations along a vector, each with the same bits on every instruction set.
 *
 * Sums: element i goes to partial i mod 16, then the tree 8, 4, 2, 1. exp and what is made of it
 * are our own polynomials on fma. One call works on one row, on the calling thread. */
#ifndef QUERN_OPS_VECTOR_H
#define QUERN_OPS_VECTOR_H

#include <stddef.h>
#include <stdint.h>

/* out[i] = x[i] / sqrt(mean(x²) + eps) * w[i]; out may be x. RMSNorm of Qwen2. */
void ops_rmsnorm(const float *x, const float *w, float eps, size_t n, float *out);

/* out[i] = silu(gate[i]) * up[i]; out may be either input. silu(x) = x / (1 + exp(-x)). */
void ops_swiglu(const float *gate, const float *up, size_t n, float *out);

float ops_sigmoid(float x);

/* In place softmax over n values, subtracting the maximum first. */
void ops_softmax(float *x, size_t n);

/* log(sum(exp(x))) over n values, in float32 by the 16-partial rule. */
float ops_log_sum_exp(const float *x, size_t n);

/* The first index of the greatest value; NaN never wins. n > 0. */
uint32_t ops_argmax(const float *x, size_t n);

/* max[b] is the greatest of x[b * block …], NaN passed over, -infinity if there is nothing else;
 * ceil(n / block) of them; block is a multiple of 64. */
void ops_block_max(const float *x, size_t n, size_t block, float *max);

/* sum[b] = Σ exp((x[i] - max) * scale) over block b of x, by the 16-partial rule within the block;
 * what is below e^-87, -infinity and NaN count as 0. Blocks as above. */
void ops_block_exp_sum(const float *x, size_t n, size_t block, float max, float scale, float *sum);

/* The indices of what is ≥ least, rising; returns how many. `max` is from ops_block_max of the same
 * x and block; ids has room for n. NaN is never found. */
size_t ops_at_least(const float *x, size_t n, size_t block, const float *max, float least,
                    uint32_t *ids);

/* y[i] = fma(a, x[i], y[i]). */
void ops_axpy(float a, const float *x, size_t n, float *y);

/* exp on float32, correct to 1 ulp or so over its range; 0 below about -87.3, infinity above
 * 88.7 (both stated in vector.c). The scalar twin of what the kernels use. */
float ops_expf(float x);

#endif
