/* Drives the matrix kernels: cuts jobs into groups of 16 rows for the pool, and keeps a panel of
 * groups in the cache while the tiles of tokens go by. */
#include "ops/matmul.h"

#include "ops/arch/matmul_kernels.h"
#include "ops/isa.h"

#include <assert.h>
#include <stdatomic.h>
#include <unistd.h>

/* Groups to a chunk at least: for one token so that a chunk is worth handing out; for many so that
 * a chunk's weights are worth a pass over the activations. */
#define DECODE_GRAIN  4
#define PREFILL_GRAIN 4

/* Packed weights that stay in the second-level cache while all tokens pass: a third of it. */
static size_t panel_bytes(void)
{
    static atomic_size_t known;
    size_t bytes = atomic_load_explicit(&known, memory_order_relaxed);

    if (!bytes) {
        const long cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
        bytes = cache > (long)384 << 10 ? (size_t)cache / 3 : (size_t)128 << 10;
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return bytes;
}

const struct ops_matmul_kernels *ops_matmul_kernels(void)
{
    static const struct ops_matmul_kernels *const tables[OPS_N_ISA] = {
        [OPS_ISA_SCALAR] = &ops_matmul_kernels_scalar,
        [OPS_ISA_AVX2] = &ops_matmul_kernels_avx2,
        [OPS_ISA_AVX512] = &ops_matmul_kernels_avx512,
        [OPS_ISA_AVX512VNNI] = &ops_matmul_kernels_avx512vnni,
        [OPS_ISA_AMX] = &ops_matmul_kernels_amx,
    };
    return tables[ops_isa()];
}

/* Which way of fetching ahead suits the processor: ops/arch/matmul_one_kernel.h says what differs. */
static bool fetches_once(void)
{
    return __builtin_cpu_is("amd") != 0;
}

struct region {
    const struct ops_input *input;
    const struct ops_matmul_job *jobs;
    size_t n_jobs;
    const struct ops_matmul_kernels *kernels;
};

static size_t n_groups_of(const struct ops_matmul_job *job)
{
    return ((size_t)job->w->n_rows + OPS_GROUP_ROWS - 1) / OPS_GROUP_ROWS;
}

/* Tokens from `first` on that one call of a kernel takes. */
static size_t n_tokens_at_once(const struct region *region, enum ops_type type, size_t first)
{
    const size_t left = ops_input_n_tokens(region->input) - first;
    const size_t n_tiles = left / OPS_TILE_TOKENS;

    if (!n_tiles)
        return left;
    if (!region->kernels->multiply_tiles[type])
        return OPS_TILE_TOKENS;
    return OPS_TILE_TOKENS * (n_tiles < OPS_TILES_MAX ? n_tiles : OPS_TILES_MAX);
}

/* Groups first … end of one job, all tokens. */
static void multiply_groups(const struct region *region, const struct ops_matmul_job *job,
                            size_t first, size_t end)
{
    const struct ops_matrix *w = job->w;
    const size_t group_bytes = ops_matrix_group_bytes(w->type, w->n_cols);
    const size_t n_tokens = ops_input_n_tokens(region->input);
    const size_t in_panel = group_bytes < panel_bytes() ? panel_bytes() / group_bytes : 1;
    size_t n_groups, n;

    for (size_t g = first; g < end; g += n_groups) {
        const size_t row = g * OPS_GROUP_ROWS;
        n_groups = end - g < in_panel || n_tokens <= OPS_TILE_TOKENS ? end - g : in_panel;
        for (size_t t = 0; t < n_tokens; t += n) {
            n = n_tokens_at_once(region, w->type, t);
            struct ops_matmul_work work = {
                .groups = w->data + g * group_bytes,
                .group_bytes = group_bytes,
                .n_groups = (uint32_t)n_groups,
                .n_rows = (uint32_t)(w->n_rows - row),
                .n_cols = w->n_cols,
                .is_only_tile = n_tokens <= OPS_TILE_TOKENS,
                .fetch_once = fetches_once(),
                .n_tiles = (uint32_t)(n / OPS_TILE_TOKENS),
                .y = job->y + t * job->y_stride + row,
                .y_stride = job->y_stride,
                .bias = job->bias ? job->bias + row : NULL,
                .add = job->add,
            };
            ops_input_tile(region->input, t, n < OPS_TILE_TOKENS ? (unsigned)n : OPS_TILE_TOKENS,
                           &work.tile);
            if (work.n_tiles && region->kernels->multiply_tiles[w->type])
                region->kernels->multiply_tiles[w->type](&work);
            else
                region->kernels->multiply[w->type](&work);
        }
    }
}

/* [begin, end) counts the groups of all jobs, one job after another. */
static void multiply_chunk(void *arg, size_t begin, size_t end, unsigned thread)
{
    const struct region *region = arg;
    size_t before = 0;
    (void)thread;

    for (size_t j = 0; j < region->n_jobs && before < end; j++) {
        const size_t n_groups = n_groups_of(&region->jobs[j]);
        const size_t first = begin > before ? begin - before : 0;
        const size_t last = end - before < n_groups ? end - before : n_groups;
        if (first < last)
            multiply_groups(region, &region->jobs[j], first, last);
        before += n_groups;
    }
}

void ops_matmul(struct ops_pool *pool, const struct ops_input *input,
                const struct ops_matmul_job *jobs, size_t n_jobs)
{
    struct region region = {input, jobs, n_jobs, ops_matmul_kernels()};
    size_t n_groups = 0;

    for (size_t j = 0; j < n_jobs; j++) {
        assert(jobs[j].w->n_cols == ops_input_n_cols(input));
        n_groups += n_groups_of(&jobs[j]);
    }
    size_t grain = ops_input_n_tokens(input) < 4 ? DECODE_GRAIN : PREFILL_GRAIN;
    if (n_groups < 16 * (size_t)ops_pool_n_threads(pool))
        grain = 1;
    ops_pool_run(pool, n_groups, grain, multiply_chunk, &region);
}

void ops_matmul_rows(const struct ops_input *input, size_t token, const struct ops_matrix *w,
                     const uint32_t *rows, size_t n_rows, float *y)
{
    const struct ops_matmul_kernels *kernels = ops_matmul_kernels();
    const size_t group_bytes = ops_matrix_group_bytes(w->type, w->n_cols);
    float products[OPS_GROUP_ROWS];
    uint32_t in_products = UINT32_MAX;

    assert(w->n_cols == ops_input_n_cols(input));
    for (size_t i = 0; i < n_rows; i++) {
        const uint32_t group = rows[i] / OPS_GROUP_ROWS;
        assert(rows[i] < w->n_rows);
        if (group != in_products) {
            struct ops_matmul_work work = {
                .groups = w->data + group * group_bytes,
                .group_bytes = group_bytes,
                .n_groups = 1,
                .n_rows = OPS_GROUP_ROWS,
                .n_cols = w->n_cols,
                .y = products,
                .y_stride = OPS_GROUP_ROWS,
            };
            ops_input_tile(input, token, 1, &work.tile);
            kernels->multiply[w->type](&work);
            in_products = group;
        }
        y[i] = products[rows[i] % OPS_GROUP_ROWS];
    }
}
