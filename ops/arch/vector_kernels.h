/* The operations along a vector, once per instruction set. See ops/vector.h for what each is. */
#ifndef QUERN_OPS_ARCH_VECTOR_KERNELS_H
#define QUERN_OPS_ARCH_VECTOR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct ops_vector_kernels {
    void (*rmsnorm)(const float *x, const float *w, float eps, size_t n, float *out);
    void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
    void (*softmax)(float *x, size_t n);
    void (*exp_sum)(const float *x, size_t n, float *ret_max, float *ret_sum); /* Σ exp(x - max) */
    void (*axpy)(float a, const float *x, size_t n, float *y);
    /* max[b] is the greatest of x[b * block …], NaN passed over, -infinity if there is nothing
     * else; ceil(n / block) of them; block is a multiple of 64. */
    void (*block_max)(const float *x, size_t n, size_t block, float *max);
    /* ops_block_exp_sum and ops_at_least of ops/vector.h. */
    void (*block_exp_sum)(const float *x, size_t n, size_t block, float max, float scale,
                          float *sum);
    size_t (*at_least)(const float *x, size_t n, size_t block, const float *max, float least,
                       uint32_t *ids);
    /* Turns (x[i], x[half + i]) by the angle of (cosine[i], sine[i]). */
    void (*rotate)(float *x, const float *cosine, const float *sine, size_t half);
};

extern const struct ops_vector_kernels ops_vector_kernels_scalar;
extern const struct ops_vector_kernels ops_vector_kernels_avx2;
extern const struct ops_vector_kernels ops_vector_kernels_avx512;

/* The table of the set in use (ops_isa()). */
const struct ops_vector_kernels *ops_vector_kernels(void);

#endif
