/* Measures the machine's bounds with the loops of ops/arch/probe_kernel.h. */
#include "ops/probe.h"

#include "ops/arch/probe_kernels.h"
#include "ops/isa.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define READ_CHUNK   262144 /* bytes of a task */
#define READ_RUNS    5
#define MEMORY_BYTES ((size_t)512 << 20)
#define FMA_RUNS     8
#define FMA_ROUNDS   20000 /* of a task: a fraction of a millisecond */
#define FMA_TASKS    8     /* a thread */

static const struct ops_probe_kernels *const tables[OPS_N_ISA] = {
    [OPS_ISA_SCALAR] = &ops_probe_kernels_scalar, [OPS_ISA_AVX2] = &ops_probe_kernels_avx2,
    [OPS_ISA_AVX512] = &ops_probe_kernels_avx512, [OPS_ISA_AVX512VNNI] = &ops_probe_kernels_avx512,
    [OPS_ISA_AMX] = &ops_probe_kernels_avx512,
};

static _Atomic float kept; /* results of all threads go here, so that no loop is left out */

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void read_task(void *arg, size_t begin, size_t end, unsigned thread)
{
    const uint8_t *data = arg;

    (void)thread;
    atomic_store_explicit(
        &kept,
        (float)tables[ops_isa()]->read(data + begin * READ_CHUNK, (end - begin) * READ_CHUNK),
        memory_order_relaxed);
}

static void fma_task(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)arg;
    (void)thread;
    atomic_store_explicit(&kept, tables[ops_isa()]->fma((end - begin) * FMA_ROUNDS),
                          memory_order_relaxed);
}

double ops_probe_read(struct ops_pool *pool, const void *data, size_t bytes)
{
    const size_t n = bytes / READ_CHUNK;
    double best = 0;

    for (int run = 0; run < READ_RUNS; run++) {
        const double start = now_s();
        ops_pool_run(pool, n, 1, read_task, (void *)(uintptr_t)data);
        const double rate = (double)(n * READ_CHUNK) / (now_s() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

double ops_probe_memory_gbps(struct ops_pool *pool)
{
    void *data =
        mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return 0;
    madvise(data, MEMORY_BYTES, MADV_HUGEPAGE); /* the weights lie on huge pages, too */
    memset(data, 1, MEMORY_BYTES);
    double rate = ops_probe_read(pool, data, MEMORY_BYTES);
    munmap(data, MEMORY_BYTES);
    return rate / 1e9;
}

double ops_probe_fma(struct ops_pool *pool)
{
    const size_t n = (size_t)FMA_TASKS * ops_pool_n_threads(pool);
    double best = 0;

    for (int run = 0; run < FMA_RUNS; run++) {
        const double start = now_s();
        ops_pool_run(pool, n, 1, fma_task, NULL);
        const double rate = (double)n * FMA_ROUNDS * OPS_PROBE_FMAS * 16 * 2 / (now_s() - start);
        best = rate > best ? rate : best;
    }
    return best;
}
