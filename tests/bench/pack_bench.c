/* How fast all threads pack weights of each type, from memory to memory: the bound of a start from a
 * model file where the disk is faster. pack_bench [TYPE…]: "q4_k 15.10", GB/s of the file's bytes,
 * the median of 5. */
#include "ops/matrix.h"
#include "ops/pool.h"
#include "ops/type.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>

enum { COLS = 1536, ROUNDS = 5, GRAIN = 4 };

#define BYTES      ((size_t)192 << 20)
#define HUGE_PAGES ((size_t)2 << 20)

struct job {
    enum ops_type type;
    const uint8_t *src;
    uint8_t *dst;
    size_t row_bytes, group_bytes;
};

static void pack(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct job *job = arg;
    for (size_t g = begin; g < end; g++)
        ops_matrix_pack_group(job->type, COLS, OPS_GROUP_ROWS,
                              job->src + g * OPS_GROUP_ROWS * job->row_bytes, job->row_bytes,
                              job->dst + g * job->group_bytes);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Touched memory on huge pages, where there are some. */
static uint8_t *memory(size_t bytes)
{
    bytes = (bytes + HUGE_PAGES - 1) / HUGE_PAGES * HUGE_PAGES;
    uint8_t *at = aligned_alloc(HUGE_PAGES, bytes);
    if (!at)
        exit(71);
    madvise(at, bytes, MADV_HUGEPAGE);
    memset(at, 85, bytes);
    return at;
}

static void measure(struct ops_pool *pool, enum ops_type type, uint8_t *src)
{
    const struct ops_type_info *info = ops_type_info(type);
    struct job job = {.type = type,
                      .src = src,
                      .row_bytes = COLS / info->block_len * info->block_bytes,
                      .group_bytes = ops_matrix_group_bytes(type, COLS)};
    const size_t n_groups = BYTES / (OPS_GROUP_ROWS * job.row_bytes);
    double seconds[ROUNDS];
    job.dst = memory(n_groups * job.group_bytes);
    for (int i = 0; i < ROUNDS; i++) {
        seconds[i] = now_s();
        ops_pool_run(pool, n_groups, GRAIN, pack, &job);
        seconds[i] = now_s() - seconds[i];
    }
    qsort(seconds, ROUNDS, sizeof *seconds, ascending);
    printf("%-7s %6.2f\n", info->name,
           (double)(n_groups * OPS_GROUP_ROWS * job.row_bytes) / seconds[ROUNDS / 2] / 1e9);
    free(job.dst);
}

int main(int argc, char **argv)
{
    struct ops_pool *pool;
    struct ops_pool_options options = {0};
    if (ops_pool_new(&pool, &options) < 0)
        return 71;
    uint8_t *src = memory(BYTES);
    for (uint32_t type = 0; type <= OPS_BF16; type++) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc && ops_type_info(type); i++)
            wanted = wanted || strcasecmp(argv[i], ops_type_info(type)->name) == 0;
        if (wanted && ops_matrix_group_bytes(type, COLS) > 0)
            measure(pool, type, src);
    }
    free(src);
    ops_pool_free(pool);
    return 0;
}
