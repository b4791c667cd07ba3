/* Operations along a vector: the choice of instruction set, and the few that are scalar.
 *
 * NaN: where a sum runs along the vector (rmsnorm, softmax, log-sum-exp) one NaN makes the whole
 * result NaN; elsewhere it stays in its element. Which NaN is not promised. */
#include "ops/vector.h"

#include "ops/arch/exp.h"
#include "ops/arch/half.h"
#include "ops/arch/vector_kernels.h"
#include "ops/isa.h"

#include <math.h>

/* Elements whose maximum is taken at once in a search; a strip of them fits the L1 cache. */
#define SEARCH_BLOCK 256
#define SEARCH_STRIP 16

static const struct ops_vector_kernels *const tables[OPS_N_ISA] = {
    [OPS_ISA_SCALAR] = &ops_vector_kernels_scalar,
    [OPS_ISA_AVX2] = &ops_vector_kernels_avx2,
    [OPS_ISA_AVX512] = &ops_vector_kernels_avx512,
    [OPS_ISA_AVX512VNNI] = &ops_vector_kernels_avx512,
    [OPS_ISA_AMX] = &ops_vector_kernels_avx512,
};

const struct ops_vector_kernels *ops_vector_kernels(void)
{
    return tables[ops_isa()];
}

void ops_rmsnorm(const float *x, const float *w, float eps, size_t n, float *out)
{
    ops_vector_kernels()->rmsnorm(x, w, eps, n, out);
}

void ops_swiglu(const float *gate, const float *up, size_t n, float *out)
{
    ops_vector_kernels()->swiglu(gate, up, n, out);
}

void ops_softmax(float *x, size_t n)
{
    ops_vector_kernels()->softmax(x, n);
}

float ops_log_sum_exp(const float *x, size_t n)
{
    float max, sum;

    ops_vector_kernels()->exp_sum(x, n, &max, &sum);
    /* libm's log in double, rounded once: its error is far below float32's last bit. */
    return (float)(max + log(sum));
}

void ops_axpy(float a, const float *x, size_t n, float *y)
{
    ops_vector_kernels()->axpy(a, x, n, y);
}

uint32_t ops_argmax(const float *x, size_t n)
{
    float max[SEARCH_STRIP], best = -INFINITY;
    size_t begin = 0, end = n; /* where the first `best` is */

    for (size_t i = 0; i < n; i += SEARCH_STRIP * SEARCH_BLOCK) {
        const size_t left = n - i;
        const size_t len = left < SEARCH_STRIP * SEARCH_BLOCK ? left : SEARCH_STRIP * SEARCH_BLOCK;
        ops_vector_kernels()->block_max(x + i, len, SEARCH_BLOCK, max);
        for (size_t b = 0; b * SEARCH_BLOCK < len; b++) {
            if (max[b] > best) {
                best = max[b];
                begin = i + b * SEARCH_BLOCK;
                end = begin + SEARCH_BLOCK < n ? begin + SEARCH_BLOCK : n;
            }
        }
    }
    for (size_t i = begin; i < end; i++) {
        if (x[i] == best)
            return (uint32_t)i;
    }
    return 0; /* nothing but NaN */
}

void ops_block_max(const float *x, size_t n, size_t block, float *max)
{
    ops_vector_kernels()->block_max(x, n, block, max);
}

void ops_block_exp_sum(const float *x, size_t n, size_t block, float max, float scale, float *sum)
{
    ops_vector_kernels()->block_exp_sum(x, n, block, max, scale, sum);
}

size_t ops_at_least(const float *x, size_t n, size_t block, const float *max, float least,
                    uint32_t *ids)
{
    return ops_vector_kernels()->at_least(x, n, block, max, least, ids);
}

float ops_expf(float x)
{
    const float t = fmaf(x, OPS_EXP_LOG2E, OPS_EXP_MAGIC);
    const float n = t - OPS_EXP_MAGIC;
    const float r = fmaf(n, -OPS_EXP_LN2_LO, fmaf(n, -OPS_EXP_LN2_HI, x));
    float p = fmaf(OPS_EXP_C6, r, OPS_EXP_C5);

    if (x < OPS_EXP_LEAST)
        return 0.0f;
    if (x > OPS_EXP_GREATEST)
        return INFINITY;
    if (x != x)
        return x;
    p = fmaf(p, r, OPS_EXP_C4);
    p = fmaf(p, r, OPS_EXP_C3);
    p = fmaf(p, r, OPS_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return ops_float_of_bits(ops_bits_of_float(p) + (ops_bits_of_float(t) << 23));
}

float ops_sigmoid(float x)
{
    return 1.0f / (1.0f + ops_expf(-x));
}
