/* The operations along a vector, written once against ops/arch/vec.h. Tails go through vf_load_n,
 * whose missing lanes are 0, and are put out of the result by a mask where 0 would count. */
#include "ops/arch/exp.h"
#include "ops/arch/vector_kernels.h"

/* Lanes below n; n ≤ 16. */
OPS_INLINE vec_mask first_lanes(size_t n)
{
    static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

    return vf_lt(vf_load(lane), vf_set1((float)n));
}

static void rmsnorm(const float *x, const float *w, float eps, size_t n, float *out)
{
    const unsigned tail = n % 16;
    vec_f32 squares = vf_zero(), v;
    size_t i;

    for (i = 0; i < n - tail; i += 16) {
        v = vf_load(x + i);
        squares = vf_fma(v, v, squares);
    }
    if (tail) {
        v = vf_load_n(x + i, tail);
        squares = vf_fma(v, v, squares);
    }
    const vec_f32 mean = vf_set1(vf_sum(squares) / (float)n);
    const vec_f32 scale = vf_div(vf_set1(1.0f), vf_sqrt(vf_add(mean, vf_set1(eps))));
    for (i = 0; i < n - tail; i += 16)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(w + i)));
    if (tail)
        vf_store_n(out + i, vf_mul(vf_mul(vf_load_n(x + i, tail), scale), vf_load_n(w + i, tail)),
                   tail);
}

OPS_INLINE vec_f32 silu(vec_f32 x)
{
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_neg(x))));
}

static void swiglu(const float *gate, const float *up, size_t n, float *out)
{
    const unsigned tail = n % 16;
    size_t i;

    for (i = 0; i < n - tail; i += 16)
        vf_store(out + i, vf_mul(silu(vf_load(gate + i)), vf_load(up + i)));
    if (tail)
        vf_store_n(out + i, vf_mul(silu(vf_load_n(gate + i, tail)), vf_load_n(up + i, tail)), tail);
}

/* The greatest of x, NaN passed over; -infinity for none. */
static float greatest(const float *x, size_t n)
{
    const vec_f32 least = vf_set1(-__builtin_inff());
    const unsigned tail = n % 16;
    vec_f32 max[4] = {least, least, least, least};
    size_t i = 0;

    /* Which of equal maxima is kept shows only in the sign of zero, and no caller looks at it. */
    for (; i + 64 <= n; i += 64) {
        OPS_UNROLL
        for (int j = 0; j < 4; j++)
            max[j] = vf_max(vf_load(x + i + 16 * j), max[j]);
    }
    for (; i + 16 <= n; i += 16)
        max[0] = vf_max(vf_load(x + i), max[0]);
    if (tail)
        max[1] = vf_max(vf_select(first_lanes(tail), vf_load_n(x + i, tail), least), max[1]);
    return vf_hmax(vf_max(vf_max(max[0], max[1]), vf_max(max[2], max[3])));
}

static void softmax(float *x, size_t n)
{
    const vec_f32 max = vf_set1(greatest(x, n));
    const unsigned tail = n % 16;
    vec_f32 sum = vf_zero(), e;
    size_t i;

    for (i = 0; i < n - tail; i += 16) {
        e = vf_exp(vf_sub(vf_load(x + i), max));
        vf_store(x + i, e);
        sum = vf_add(sum, e);
    }
    if (tail) {
        e = vf_exp(vf_sub(vf_load_n(x + i, tail), max));
        vf_store_n(x + i, e, tail);
        sum = vf_add(sum, vf_select(first_lanes(tail), e, vf_zero()));
    }
    const vec_f32 scale = vf_set1(1.0f / vf_sum(sum));
    for (i = 0; i < n - tail; i += 16)
        vf_store(x + i, vf_mul(vf_load(x + i), scale));
    if (tail)
        vf_store_n(x + i, vf_mul(vf_load_n(x + i, tail), scale), tail);
}

/* Σ exp(x - max) comes back in *sum, so that the one logarithm is taken outside, once for all. */
static void exp_sum(const float *x, size_t n, float *ret_max, float *ret_sum)
{
    const float max = greatest(x, n);
    const unsigned tail = n % 16;
    vec_f32 sum = vf_zero();
    size_t i;

    for (i = 0; i < n - tail; i += 16)
        sum = vf_add(sum, vf_exp(vf_sub(vf_load(x + i), vf_set1(max))));
    if (tail) {
        const vec_f32 e = vf_exp(vf_sub(vf_load_n(x + i, tail), vf_set1(max)));
        sum = vf_add(sum, vf_select(first_lanes(tail), e, vf_zero()));
    }
    *ret_max = max;
    *ret_sum = vf_sum(sum);
}

static void axpy(float a, const float *x, size_t n, float *y)
{
    const unsigned tail = n % 16;
    const vec_f32 factor = vf_set1(a);
    size_t i;

    for (i = 0; i < n - tail; i += 16)
        vf_store(y + i, vf_fma(factor, vf_load(x + i), vf_load(y + i)));
    if (tail)
        vf_store_n(y + i, vf_fma(factor, vf_load_n(x + i, tail), vf_load_n(y + i, tail)), tail);
}

static void block_max(const float *x, size_t n, size_t block, float *max)
{
    enum { AHEAD = 2048 }; /* a row from afar: the processor's own prefetching stops at each page */

    for (size_t i = 0; i < n; i += block) {
        const float *next = x + (n - i > AHEAD ? i + AHEAD : i);
        for (size_t k = 0; k < block; k += 16)
            __builtin_prefetch(next + k);
        max[i / block] = greatest(x + i, n - i < block ? n - i : block);
    }
}

/* exp((x - max) * scale) of 16 values; 0 where that is below e^-87 and for NaN. */
OPS_INLINE vec_f32 weight(vec_f32 x, vec_f32 max, vec_f32 scale)
{
    return vf_exp(vf_max(vf_mul(vf_sub(x, max), scale), vf_set1(-100.0f)));
}

static void block_exp_sum(const float *x, size_t n, size_t block, float max, float scale,
                          float *sum)
{
    const vec_f32 top = vf_set1(max), factor = vf_set1(scale);

    for (size_t begin = 0; begin < n; begin += block) {
        const size_t end = n - begin < block ? n : begin + block;
        vec_f32 partial = vf_zero();
        size_t i = begin;
        for (; i + 64 <= end; i += 64) {
            OPS_UNROLL
            for (int j = 0; j < 4; j++)
                partial = vf_add(partial, weight(vf_load(x + i + 16 * j), top, factor));
        }
        for (; i + 16 <= end; i += 16)
            partial = vf_add(partial, weight(vf_load(x + i), top, factor));
        if (i < end) {
            const unsigned tail = (unsigned)(end - i);
            const vec_f32 w = weight(vf_load_n(x + i, tail), top, factor);
            partial = vf_add(partial, vf_select(first_lanes(tail), w, vf_zero()));
        }
        sum[begin / block] = vf_sum(partial);
    }
}

static size_t at_least(const float *x, size_t n, size_t block, const float *max, float least,
                       uint32_t *ids)
{
    const vec_f32 bar = vf_set1(least);
    size_t n_found = 0;

    for (size_t begin = 0; begin < n; begin += block) {
        const size_t end = n - begin < block ? n : begin + block;
        if (!(max[begin / block] >= least))
            continue;
        for (size_t i = begin; i < end; i += 16) {
            const unsigned lanes = end - i < 16 ? (unsigned)(end - i) : 16;
            const vec_f32 v = lanes == 16 ? vf_load(x + i) : vf_load_n(x + i, lanes);
            uint32_t bits = vf_bits(vf_le(bar, v)) & ((UINT32_C(1) << lanes) - 1);
            for (; bits; bits &= bits - 1)
                ids[n_found++] = (uint32_t)(i + (unsigned)__builtin_ctz(bits));
        }
    }
    return n_found;
}

static void rotate(float *x, const float *cosine, const float *sine, size_t half)
{
    for (size_t i = 0; i < half; i += 16) {
        const unsigned n = half - i < 16 ? (unsigned)(half - i) : 16;
        const vec_f32 c = vf_load_n(cosine + i, n), s = vf_load_n(sine + i, n);
        const vec_f32 a = vf_load_n(x + i, n), b = vf_load_n(x + half + i, n);
        vf_store_n(x + i, vf_fma(a, c, vf_neg(vf_mul(b, s))), n);
        vf_store_n(x + half + i, vf_fma(b, c, vf_mul(a, s)), n);
    }
}

const struct ops_vector_kernels OPS_SET_NAME(ops_vector_kernels) = {
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
    .softmax = softmax,
    .exp_sum = exp_sum,
    .axpy = axpy,
    .block_max = block_max,
    .block_exp_sum = block_exp_sum,
    .at_least = at_least,
    .rotate = rotate,
};
