/* Matrix products type by type: one token (decode) against the memory rate of the same run; many
 * tokens (prefill) in billions of operations per second, against the same inner loop where weights,
 * activations and results stay in the caches; 2 to 16 tokens (a batch of sequences) against the slower
 * of the two, the weights coming from memory; and an empty region of the pool. Medians, interleaved.
 *
 * matmul_bench [TYPE …]; QUERN_ISA forces an instruction set, QUERN_THREADS the threads. */
#include "ops/isa.h"
#include "ops/matmul.h"
#include "ops/probe.h"
#include "tests/support/random_weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define N_COLS         1536u
#define PREFILL_ROWS   8960u
#define DECODE_BYTES   ((size_t)400 << 20)
#define PREFILL_TOKENS 512u
#define N_TIMES        3
#define N_BATCHES      4

static const uint32_t batches[N_BATCHES] = {2, 4, 8, 16};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), by_value);
    return values[n / 2];
}

static void *huge_alloc(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

struct bench {
    struct ops_pool *pool;
    struct ops_input *input;
    float *x, *y;
    uint8_t *packed;
};

/* Packs a few random rows again and again, so that every group is different memory. */
static void fill(struct bench *bench, enum ops_type type, uint32_t n_rows)
{
    const size_t row_bytes = random_weights_row_bytes(type, N_COLS);
    const size_t group_bytes = ops_matrix_group_bytes(type, N_COLS);
    uint8_t *rows = malloc(OPS_GROUP_ROWS * row_bytes);
    uint64_t state = 88172645463325252u;

    if (!rows)
        exit(1);
    random_weights_fill(type, OPS_GROUP_ROWS, N_COLS, &state, rows);
    ops_matrix_pack_group(type, N_COLS, OPS_GROUP_ROWS, rows, row_bytes, bench->packed);
    for (uint32_t g = 1; g < n_rows / OPS_GROUP_ROWS; g++)
        memcpy(bench->packed + g * group_bytes, bench->packed, group_bytes);
    free(rows);
}

/* Seconds of one product of n_tokens tokens, and of that with the quantization of its input. */
static double time_matmul(struct bench *bench, enum ops_type type, uint32_t n_rows,
                          uint32_t n_tokens)
{
    const struct ops_matrix matrix = {type, n_rows, N_COLS, bench->packed};
    const struct ops_matmul_job job = {&matrix, NULL, bench->y, n_rows, false};

    ops_input_set(bench->pool, bench->input, bench->x, N_COLS, n_tokens, N_COLS, &type, 1);
    const double start = now_s();
    ops_matmul(bench->pool, bench->input, &job, 1);
    return now_s() - start;
}

static double time_product(struct bench *bench, enum ops_type type, uint32_t n_rows,
                           uint32_t n_tokens)
{
    const double start = now_s();

    time_matmul(bench, type, n_rows, n_tokens);
    return now_s() - start;
}

/* Bytes per second / 1e9 of the packed weights of many matrices, one after another, as a step of
 * n_tokens sequences reads them. */
static double batch_rate(struct bench *bench, enum ops_type type, uint32_t n_tokens)
{
    const size_t matrix_bytes =
        PREFILL_ROWS / OPS_GROUP_ROWS * ops_matrix_group_bytes(type, N_COLS);
    const size_t n = DECODE_BYTES / matrix_bytes;
    double best = 1e9;

    ops_input_set(bench->pool, bench->input, bench->x, N_COLS, n_tokens, N_COLS, &type, 1);
    for (int pass = 0; pass < 3; pass++) {
        const double start = now_s();
        for (size_t i = 0; i < n; i++) {
            const struct ops_matrix matrix = {type, PREFILL_ROWS, N_COLS,
                                              bench->packed + i * matrix_bytes};
            const struct ops_matmul_job job = {&matrix, NULL, bench->y, PREFILL_ROWS, false};
            ops_matmul(bench->pool, bench->input, &job, 1);
        }
        const double s = now_s() - start;
        best = s < best ? s : best;
    }
    return (double)(n * matrix_bytes) / best * 1e-9;
}

/* Operations per second / 1e9 of the type's inner loop on what each thread keeps in its caches. */
static double probe_inner_loop(struct bench *bench, enum ops_type type)
{
    const uint32_t n_rows = 256 * ops_pool_n_threads(bench->pool), n_tokens = 256;
    double best = 1e9;

    for (int pass = 0; pass < 10; pass++) {
        const double s = time_matmul(bench, type, n_rows, n_tokens);
        best = s < best ? s : best;
    }
    return 2.0 * N_COLS * n_rows * n_tokens / best * 1e-9;
}

static void no_work(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)arg, (void)begin, (void)end, (void)thread;
}

/* Microseconds of a parallel region that has nothing to do: what a step pays for each of its. */
static double barrier_us(struct ops_pool *pool)
{
    const int n = 20000;
    double us[9];

    for (int i = 0; i < 9; i++) {
        const double start = now_s();
        for (int k = 0; k < n; k++)
            ops_pool_run(pool, 2, 1, no_work, NULL);
        us[i] = (now_s() - start) * 1e6 / n;
    }
    return median(us, 9);
}

static void measure(struct bench *bench, enum ops_type type)
{
    double inner[N_TIMES], share[N_TIMES];
    double decode[N_TIMES], memory[N_TIMES], prefill[N_TIMES], ratio[N_TIMES];
    double batch[N_BATCHES][N_TIMES], batch_share[N_BATCHES][N_TIMES];
    const size_t group_bytes = ops_matrix_group_bytes(type, N_COLS);
    const uint32_t n_rows = (uint32_t)(DECODE_BYTES / group_bytes) * OPS_GROUP_ROWS;
    const double bytes = (double)(n_rows / OPS_GROUP_ROWS) * (double)group_bytes;
    const double operations = 2.0 * N_COLS * PREFILL_ROWS;

    fill(bench, type, n_rows);
    time_product(bench, type, n_rows, 1);
    for (int i = 0; i < N_TIMES; i++) {
        memory[i] = ops_probe_read(bench->pool, bench->packed, DECODE_BYTES) * 1e-9;
        double best = 1e9;
        for (int pass = 0; pass < 5; pass++) {
            const double s = time_product(bench, type, n_rows, 1);
            best = s < best ? s : best;
        }
        decode[i] = bytes / best * 1e-9;
        ratio[i] = decode[i] / memory[i];
        prefill[i] = operations * PREFILL_TOKENS /
                     time_product(bench, type, PREFILL_ROWS, PREFILL_TOKENS) * 1e-9;
        inner[i] = probe_inner_loop(bench, type);
        share[i] = prefill[i] / inner[i];
        for (int b = 0; b < N_BATCHES; b++) {
            /* What the inner loop would read, if memory gave it. */
            const double computed = inner[i] * bytes / (2.0 * N_COLS * n_rows * batches[b]);
            batch[b][i] = batch_rate(bench, type, batches[b]);
            batch_share[b][i] = batch[b][i] / (computed < memory[i] ? computed : memory[i]);
        }
    }
    printf("%-7s decode %5.1f GB/s of %5.1f (%3.0f %%)   prefill %6.0f GOP/s of %6.0f (%3.0f %%)  ",
           ops_type_name(type), median(decode, N_TIMES), median(memory, N_TIMES),
           100 * median(ratio, N_TIMES), median(prefill, N_TIMES), median(inner, N_TIMES),
           100 * median(share, N_TIMES));
    for (int b = 0; b < N_BATCHES; b++)
        printf(" %u rows %4.1f (%3.0f %%)", batches[b], median(batch[b], N_TIMES),
               100 * median(batch_share[b], N_TIMES));
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const enum ops_type types[] = {
        OPS_F32,  OPS_F16,  OPS_BF16, OPS_Q8_0, OPS_Q4_0, OPS_Q4_1,   OPS_Q5_0,   OPS_Q5_1,
        OPS_Q2_K, OPS_Q3_K, OPS_Q4_K, OPS_Q5_K, OPS_Q6_K, OPS_IQ4_NL, OPS_IQ4_XS,
    };
    const char *threads = getenv("QUERN_THREADS");
    const struct ops_pool_options options = {.n_threads = threads ? (unsigned)atoi(threads) : 0};
    struct bench bench = {0};

    if (ops_isa_select(getenv("QUERN_ISA"))) {
        fprintf(stderr, "matmul_bench: this machine cannot run QUERN_ISA=%s\n",
                getenv("QUERN_ISA"));
        return 77;
    }
    if (ops_pool_new(&bench.pool, &options) ||
        ops_input_new(&bench.input, PREFILL_TOKENS, N_COLS)) {
        fprintf(stderr, "matmul_bench: out of memory\n");
        return 1;
    }
    bench.packed = huge_alloc(DECODE_BYTES);
    bench.x = huge_alloc(PREFILL_TOKENS * N_COLS * sizeof(float));
    /* Large enough for decode of the narrowest type and for prefill. */
    bench.y =
        huge_alloc((size_t)PREFILL_TOKENS * PREFILL_ROWS * sizeof(float) + ((size_t)16 << 20));
    for (size_t i = 0; i < PREFILL_TOKENS * N_COLS; i++)
        bench.x[i] = (float)(int)(i * 2654435761u >> 8 & 0xffff) / 32768.0f - 1.0f;
    printf("%s, %u threads, %u inputs; fma %.1f GFLOP/s, a region without work %.2f us\n",
           ops_isa_name(ops_isa()), ops_pool_n_threads(bench.pool), N_COLS,
           ops_probe_fma(bench.pool) * 1e-9, barrier_us(bench.pool));
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= strcmp(argv[a], ops_type_name(types[i])) == 0;
        if (wanted)
            measure(&bench, types[i]);
    }
    ops_input_free(bench.input);
    ops_pool_free(bench.pool);
    return 0;
}
