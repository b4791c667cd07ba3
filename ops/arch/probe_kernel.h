/* The inner loops of ops/probe.h, written once against ops/arch/vec.h. */
#include "ops/arch/probe_kernels.h"
#include "ops/arch/vec.h"

#define FETCH_AHEAD 8192 /* bytes */
/* Chains of 16 lanes: enough to hide the latency of fma, few enough for the registers. */
#if defined(__AVX512F__)
#define CHAINS OPS_PROBE_FMAS
#else
#define CHAINS (OPS_PROBE_FMAS / 2)
#endif

/* One line and one fetch in turn: four lines at a time are slower by a quarter on Sapphire Rapids. */
static uint32_t read_all(const uint8_t *data, size_t n)
{
    vec_i32 acc = vi_zero();
    int32_t lanes[16];

    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch(data + i + FETCH_AHEAD);
        acc = vi_xor(acc, vi_load(data + i));
    }
    vi_store(lanes, acc);
    return (uint32_t)lanes[0] ^ (uint32_t)lanes[7];
}

static float fma_chains(size_t n)
{
    /* Lanes that differ: a set of two halves would compute equal ones once. */
    static const volatile float seed = 0.5f;
    const float start[16] = {seed, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vec_f32 a = vf_set1(0.999f), b = vf_set1(0.001f);
    vec_f32 acc[CHAINS], sum = vf_zero();

    OPS_UNROLL
    for (int j = 0; j < CHAINS; j++)
        acc[j] = vf_add(vf_load(start), vf_set1((float)j));
    for (size_t i = 0; i < n * (OPS_PROBE_FMAS / CHAINS); i++) {
        OPS_UNROLL
        for (int j = 0; j < CHAINS; j++)
            acc[j] = vf_fma(acc[j], a, b);
    }
    OPS_UNROLL
    for (int j = 0; j < CHAINS; j++)
        sum = vf_add(sum, acc[j]);
    return vf_sum(sum);
}

const struct ops_probe_kernels OPS_SET_NAME(ops_probe_kernels) = {
    .read = read_all,
    .fma = fma_chains,
};
