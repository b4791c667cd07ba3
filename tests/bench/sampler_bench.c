/* How long a draw takes over Qwen2's vocabulary, on one core.
 *
 * usage: [QUERN_ISA=SET] sampler_bench [ROWS]
 *
 * ROWS (2) rows of logits take turns: 2 stay in a second-level cache, as a row does that the head
 * has just written; 16 come from further away. One line each way of drawing: microseconds a
 * sequence, median and 95th percentile of ROUNDS draws, each from other logits (CPU time of the
 * thread, so that a busy machine counts less). The logits are those of a peaked distribution with
 * noise, as a model's are; the history has 1,024 distinct ids. */
#include "ops/isa.h"
#include "svc/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_TOKENS = 151646, ROUNDS = 400, N_HISTORY = 1024 };

static size_t n_rows = 2;

static double cpu_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double uniform(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) * 0x1p-53;
}

/* Normal noise of width 2.5 and a few dozen likely tokens above it. */
static void fill(float *row)
{
    for (size_t i = 0; i < N_TOKENS; i++)
        row[i] = (float)(2.5 * sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()));
    for (int i = 0; i < 48; i++)
        row[(size_t)(uniform() * N_TOKENS)] = (float)(18 - 8 * uniform());
}

/* The share of the 20 greatest of the first row, at temperature 1: a top-p whose cut a mass in
 * float32 cannot decide. */
static float border(const float *row)
{
    static double weights[N_TOKENS];
    double best = 0, all = 0;

    for (size_t i = 0; i < N_TOKENS; i++)
        all += weights[i] = exp((double)row[i]);
    qsort(weights, N_TOKENS, sizeof *weights, by_value);
    for (size_t i = N_TOKENS - 20; i < N_TOKENS; i++)
        best += weights[i];
    return (float)(best / all);
}

static void measure(const char *name, struct sampler *sampler,
                    const struct sampler_history *history, const struct sampler_params *params,
                    float *logits, uint32_t n_top)
{
    static double times[ROUNDS];
    const struct sampler_candidate *top;

    for (int i = 0; i < ROUNDS; i++) {
        float *row = logits + (size_t)i % n_rows * N_TOKENS;
        uint32_t id;
        double start = cpu_us();
        if (n_top)
            sampler_top(sampler, row, n_top, &top);
        if (sampler_draw(sampler, params, history, row, 0, (uint64_t)i, &id) < 0)
            exit(1);
        times[i] = cpu_us() - start;
    }
    qsort(times, ROUNDS, sizeof *times, by_value);
    printf("%-58s %7.1f %7.1f us\n", name, times[ROUNDS / 2], times[ROUNDS * 95 / 100]);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        n_rows = strtoul(argv[1], NULL, 10);
    if (n_rows == 0 || n_rows > 1024)
        return 64;
    if (ops_isa_select(getenv("QUERN_ISA")) < 0) {
        fprintf(stderr, "sampler_bench: this processor has no set \"%s\"\n", getenv("QUERN_ISA"));
        return 64;
    }
    float *logits = malloc(sizeof *logits * n_rows * N_TOKENS);
    struct sampler *sampler;
    struct sampler_history *history;
    static struct sampler_bias biases[256];

    if (!logits || sampler_new(&sampler, N_TOKENS) < 0 ||
        sampler_history_new(&history, N_HISTORY) < 0)
        return 1;
    for (size_t i = 0; i < n_rows; i++)
        fill(logits + i * N_TOKENS);
    for (int i = 0; i < N_HISTORY; i++)
        sampler_history_add(history, (uint32_t)(uniform() * N_TOKENS), i % 2);
    for (uint32_t i = 0; i < 256; i++)
        biases[i] = (struct sampler_bias){i * 500, i % 8 ? 1.5f : -INFINITY};
    struct sampler_params greedy = {.top_p = 1, .repetition_penalty = 1};
    struct sampler_params defaults = {
        .temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repetition_penalty = 1.1f, .seed = 1};
    struct sampler_params all = defaults;
    all.min_p = 0.05f;
    all.presence_penalty = all.frequency_penalty = 0.2f;
    all.biases = biases;
    all.n_biases = 256;
    struct sampler_params wide = {
        .temperature = 1, .top_p = 0.95f, .repetition_penalty = 1, .seed = 1};
    printf("151,646 tokens, %zu rows, %-34s %7s %7s\n", n_rows, ops_isa_name(ops_isa()), "median",
           "95 %");
    measure("greedy", sampler, NULL, &greedy, logits, 0);
    measure("Qwen2's defaults: penalty, top-k 20, top-p 0.8", sampler, history, &defaults, logits,
            0);
    measure("and min-p, presence, frequency, 256 biases", sampler, history, &all, logits, 0);
    measure("top-p 0.95 alone, no top-k", sampler, NULL, &wide, logits, 0);
    struct sampler_params on_border = wide;
    on_border.top_p = border(logits);
    size_t all_rows = n_rows;
    n_rows = 1;
    measure("top-p on the border between two tokens", sampler, NULL, &on_border, logits, 0);
    n_rows = all_rows;
    wide.repetition_penalty = 1.1f;
    wide.presence_penalty = 0.2f;
    measure("top-p 0.95 with penalties, no top-k", sampler, history, &wide, logits, 0);
    wide.top_p = 1;
    measure("penalties alone, nothing cut", sampler, history, &wide, logits, 0);
    measure("Qwen2's defaults with 20 alternatives", sampler, history, &defaults, logits, 20);
    sampler_history_free(history);
    sampler_free(sampler);
    free(logits);
    return 0;
}
