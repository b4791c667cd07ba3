/* Attention alone, against the bounds of this machine: decode at depth in bytes of cache per
 * second, prefill in operations per second. QUERN_ISA forces an instruction set.
 *
 * usage: attention_bench [threads]
 *
 * The bound of decode is the smaller of streaming (probed over the same pages) and of fma (each
 * byte of cache costs heads / KV heads × 2 operations per value). A step goes through as many
 * layers as make the cache larger than any level of the processor's, as a model would. */
#include "ops/attention.h"
#include "ops/isa.h"
#include "ops/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define CACHE_BYTES ((size_t)384 << 20)
#define RUNS        7

struct shape {
    const char *model;
    uint32_t n_heads, n_kv_heads, head_dim;
};

static const struct shape shapes[] = {
    {"0.5B", 14, 2, 64}, {"1.5B", 12, 2, 128}, {"7B", 28, 4, 128}};
static const char *const type_names[] = {"F32", "F16", "Q8_0"};

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof(*x), by_value);
    return x[n / 2];
}

static float *noise(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    uint32_t state = 1;

    if (!x)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

struct bench {
    struct ops_pool *pool;
    uint8_t *cache; /* CACHE_BYTES */
    uint8_t **pages;
    struct ops_attention_shape shape;
    uint32_t context;
    size_t n_layers;
    float *q, *k, *v, *out; /* of n_new tokens */
};

/* Pages of one layer lie one after another, as the pool of the service gives them out at first. */
static void lay_pages(struct bench *b)
{
    const size_t page = ops_kv_page_bytes(&b->shape), n = (b->context - 1) / OPS_KV_PAGE + 1;

    b->n_layers = CACHE_BYTES / (page * n);
    b->pages = malloc(b->n_layers * n * sizeof(*b->pages));
    if (!b->pages || b->n_layers == 0)
        exit(1);
    for (size_t i = 0; i < b->n_layers * n; i++)
        b->pages[i] = b->cache + i * page;
}

static void run_layers(struct bench *b, struct ops_attention *a, uint32_t n_new, size_t n_layers)
{
    const size_t q_len = (size_t)b->shape.n_heads * b->shape.head_dim;
    const size_t kv_len = (size_t)b->shape.n_kv_heads * b->shape.head_dim;
    const size_t n = (b->context - 1) / OPS_KV_PAGE + 1;

    for (size_t l = 0; l < n_layers; l++) {
        const struct ops_attention_span span = {.pages = b->pages + l * n,
                                                .first_position = b->context - n_new,
                                                .n_tokens = n_new,
                                                .q = b->q,
                                                .k = b->k,
                                                .v = b->v,
                                                .out = b->out};
        ops_attention_run(b->pool, a, &span, 1, q_len, kv_len, q_len);
    }
}

static struct ops_attention *attention_of(struct bench *b, uint32_t n_new)
{
    const size_t q_len = (size_t)b->shape.n_heads * b->shape.head_dim;
    const size_t kv_len = (size_t)b->shape.n_kv_heads * b->shape.head_dim;
    struct ops_attention *a;

    b->q = noise(n_new * q_len);
    b->k = noise(n_new * kv_len);
    b->v = noise(n_new * kv_len);
    b->out = noise(n_new * q_len);
    if (ops_attention_new(&a, &b->shape, n_new, b->context, ops_pool_n_threads(b->pool)))
        exit(1);
    return a;
}

static void done(struct bench *b, struct ops_attention *a)
{
    ops_attention_free(a);
    free(b->q);
    free(b->k);
    free(b->v);
    free(b->out);
    free(b->pages);
}

static void decode(struct bench *b, const char *model)
{
    double seconds[RUNS], streams[RUNS], flops[RUNS];
    const size_t bytes_token = ops_kv_page_bytes(&b->shape) / OPS_KV_PAGE;

    lay_pages(b);
    struct ops_attention *a = attention_of(b, 1);
    for (int i = 0; i < RUNS; i++) {
        streams[i] = ops_probe_read(b->pool, b->cache, CACHE_BYTES);
        flops[i] = ops_probe_fma(b->pool);
        const double start = now_s();
        run_layers(b, a, 1, b->n_layers);
        seconds[i] = now_s() - start;
    }
    const double step = median(seconds, RUNS) / (double)b->n_layers;
    const double rate = (double)bytes_token * b->context / step;
    const double stream = median(streams, RUNS);
    const double work = 4.0 * b->shape.n_heads * b->shape.head_dim / (double)bytes_token;
    const double fma = median(flops, RUNS) / work;
    printf("decode  %-5s %-5s depth %6u: %6.1f GB/s, %3.0f %% of streaming %.1f, %3.0f %% of fma "
           "%.1f; %.2f us a layer and 1,024 positions\n",
           model, type_names[b->shape.type], b->context, rate / 1e9, 100 * rate / stream,
           stream / 1e9, 100 * rate / fma, fma / 1e9, step * 1e6 / b->context * 1024);
    done(b, a);
}

static void prefill(struct bench *b, const char *model, uint32_t n_new)
{
    double seconds[RUNS], flops[RUNS];

    lay_pages(b);
    struct ops_attention *a = attention_of(b, n_new);
    for (int i = 0; i < RUNS; i++) {
        flops[i] = ops_probe_fma(b->pool);
        const double start = now_s();
        run_layers(b, a, n_new, 1);
        seconds[i] = now_s() - start;
    }
    const double first = b->context - n_new;
    const double pairs = n_new * first + n_new * (n_new + 1.0) / 2;
    const double rate = 4.0 * pairs * b->shape.n_heads * b->shape.head_dim / median(seconds, RUNS);
    const double peak = median(flops, RUNS);
    printf("prefill %-5s %-5s %4u at %6u: %6.1f GFLOP/s, %3.0f %% of fma %.1f\n", model,
           type_names[b->shape.type], n_new, (unsigned)first, rate / 1e9, 100 * rate / peak,
           peak / 1e9);
    done(b, a);
}

int main(int argc, char **argv)
{
    const struct ops_pool_options options = {.n_threads = argc > 1 ? (unsigned)atoi(argv[1]) : 0};
    struct bench b = {0};

    if (ops_isa_select(getenv("QUERN_ISA")) || ops_pool_new(&b.pool, &options)) {
        fprintf(stderr, "attention_bench: no such instruction set or no threads\n");
        return 1;
    }
    b.cache = mmap(NULL, CACHE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b.cache == MAP_FAILED)
        return 1;
    madvise(b.cache, CACHE_BYTES, MADV_HUGEPAGE);
    memset(b.cache, 0, CACHE_BYTES); /* zeros are numbers in every type, and no denormals */
    printf("attention, %s, %u threads\n", ops_isa_name(ops_isa()), ops_pool_n_threads(b.pool));
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        for (int type = OPS_KV_F32; type <= OPS_KV_Q8_0; type++) {
            b.shape = (struct ops_attention_shape){shapes[s].n_heads, shapes[s].n_kv_heads,
                                                   shapes[s].head_dim, (enum ops_kv_type)type};
            for (uint32_t depth = 8192; depth <= 32768; depth *= 4) {
                b.context = depth;
                decode(&b, shapes[s].model);
            }
            for (uint32_t length = 512; length <= 32768;
                 length = length < 8192 ? 8192 : length * 4) {
                b.context = length;
                prefill(&b, shapes[s].model, 512);
            }
        }
    }
    munmap(b.cache, CACHE_BYTES);
    ops_pool_free(b.pool);
    return 0;
}
