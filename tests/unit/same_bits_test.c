/* The same bits, whole models: logits compared with memcmp over weight types and mixtures, dense and
 * MoE, cache types, instruction sets, threads, ways of cutting a prompt, company in the batch, and
 * the order in which tasks are dealt to threads.
 *
 * Without QUERN_BITS it runs a covering selection: every pair of levels of any two factors meets in
 * some run. QUERN_BITS=all runs the full product (hours), QUERN_BITS=NAME that of one kind of
 * weights, QUERN_BITS=toy the few short runs that an emulated processor has time for. */
#include "tests/support/toy.h"

#include "ops/isa.h"
#include "tests/support/covering.h"
#include "tests/support/mixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_IDS      259 /* of every toy vocabulary */
#define N_OTHERS   15
#define OTHER_LEN  120 /* positions; then another begins at 0 again */
#define OTHER_ROWS 2   /* most in a step */
#define ROWS_MAX   1024

enum factor { WEIGHTS, FAMILY, KV, ISA, THREADS, CHUNK, COMPANY, DEALING, N_FACTORS };

/* 256 divides every row. Two layers: mixtures give them different types. Four query heads to a key
 * head, as the rules of mixtures ask about. */
#define WIDE                                                                                       \
    "--d-model 256 --layers 2 --heads 4 --kv-heads 1 --head-dim 64 --n-vocab 288 --ff 256 "        \
    "--experts-used 2 --expert-ff 256 --shared-ff 256 "
/* 256 divides no row, so that the fallbacks come in. */
#define NARROW                                                                                     \
    "--d-model 160 --layers 2 --heads 5 --kv-heads 1 --head-dim 32 --n-vocab 288 --ff 288 "        \
    "--experts-used 2 --expert-ff 96 --shared-ff 288 "

static const struct {
    const char *name, *arguments;
} weights[] = {
    {"f32", WIDE "--type f32"},
    {"f16", WIDE "--type f16"},
    {"bf16", WIDE "--type bf16"},
    {"q4_0", WIDE "--type q4_0"},
    {"q4_1", WIDE "--type q4_1"},
    {"q5_0", WIDE "--type q5_0"},
    {"q5_1", WIDE "--type q5_1"},
    {"q8_0", WIDE "--type q8_0"},
    {"q2_k", WIDE "--type q2_k"},
    {"q3_k", WIDE "--type q3_k"},
    {"q4_k", WIDE "--type q4_k"},
    {"q5_k", WIDE "--type q5_k"},
    {"q6_k", WIDE "--type q6_k"},
    {"iq4_nl", WIDE "--type iq4_nl"},
    {"iq4_xs", WIDE "--type iq4_xs"},
    {"mix q4_0", WIDE "--mix q4_0"},
    {"mix q4_1", WIDE "--mix q4_1"},
    {"mix q5_0", WIDE "--mix q5_0"},
    {"mix q5_1", WIDE "--mix q5_1"},
    {"mix q2_k", WIDE "--mix q2_k"},
    {"mix q3_k_s", WIDE "--mix q3_k_s"},
    {"mix q3_k_m", WIDE "--mix q3_k_m"},
    {"mix q3_k_l", WIDE "--mix q3_k_l"},
    {"mix q4_k_s", WIDE "--mix q4_k_s"},
    {"mix q4_k_m", WIDE "--mix q4_k_m"},
    {"mix q5_k_s", WIDE "--mix q5_k_s"},
    {"mix q5_k_m", WIDE "--mix q5_k_m"},
    {"mix q6_k", WIDE "--mix q6_k"},
    {"mix iq4_nl", WIDE "--mix iq4_nl"},
    {"mix iq4_xs", WIDE "--mix iq4_xs"},
    {"narrow q2_k", NARROW "--mix q2_k"},
    {"narrow q3_k_m", NARROW "--mix q3_k_m"},
    {"narrow q4_k_m", NARROW "--mix q4_k_m"},
    {"narrow q5_k_m", NARROW "--mix q5_k_m"},
    {"narrow q6_k", NARROW "--mix q6_k"},
    {"narrow iq4_xs", NARROW "--mix iq4_xs"},
};
#define N_WEIGHTS (sizeof weights / sizeof *weights)

static const char *const families[] = {"--shape tiny ", "--shape tiny-moe --experts 6 "};
static const char *const kv_names[] = {"F32", "F16", "Q8_0"};
static const struct {
    uint32_t chunk;
    uint32_t n; /* tokens of a run: more than a chunk */
} cuts[] = {{1, 70}, {7, 80}, {64, 150}, {512, 530}, {2048, 2064}, {7, 12}};
#define CUT_SHORT 5 /* no level of the product */

static enum ops_isa isas[OPS_N_ISA];
static unsigned levels[N_FACTORS] = {N_WEIGHTS, 2, 3, 0, 3, 5, 2, 2};

static void find_isas(void)
{
    for (int isa = 0; isa < OPS_N_ISA; isa++)
        if (ops_isa_supported((enum ops_isa)isa))
            isas[levels[ISA]++] = (enum ops_isa)isa;
}

/* ---- one run ------------------------------------------------------------------------------ */

struct run {
    struct toy toy;
    uint32_t tokens[2112]; /* of the sequence that is compared */
    uint32_t other_tokens[N_OTHERS][OTHER_LEN];
    uint32_t other_at[N_OTHERS];
    uint32_t first_other_page;
};

/* Spans of the others for one step, around the place `main` of the sequence that is compared. */
static size_t add_others(struct run *run, struct forward_span *spans, size_t main)
{
    const uint32_t pages_each = (OTHER_LEN + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    for (uint32_t s = 0; s < N_OTHERS; s++) {
        uint32_t n = 1 + s % OTHER_ROWS;
        if (run->other_at[s] + n > OTHER_LEN)
            run->other_at[s] = 0;
        spans[s < main ? s : s + 1] = (struct forward_span){
            .tokens = run->other_tokens[s] + run->other_at[s],
            .n_tokens = n,
            .first_position = run->other_at[s],
            .pages = run->toy.pages + run->first_other_page + s * pages_each,
        };
        run->other_at[s] += n;
    }
    return N_OTHERS + 1;
}

/* Logits of the first n tokens, `chunk` at a time, alone or among others. */
static void run_tokens(struct run *run, uint32_t n, uint32_t chunk, bool company, float *logits)
{
    size_t step = 0;
    for (uint32_t done = 0; done < n; step++) {
        struct forward_span spans[N_OTHERS + 1];
        const size_t main = company ? step * 7 % (N_OTHERS + 1) : 0;
        const size_t n_spans = company ? add_others(run, spans, main) : 1;
        const uint32_t n_now = n - done < chunk ? n - done : chunk;
        spans[main] = (struct forward_span){
            .tokens = run->tokens + done,
            .n_tokens = n_now,
            .first_position = done,
            .pages = run->toy.pages,
            .n_logits = n_now,
            .logits = logits + (size_t)done * run->toy.n_vocab,
        };
        assert_int_equal(forward_run(run->toy.forward, spans, n_spans, NULL), 0);
        for (size_t s = 0; s < n_spans; s++)
            assert_int_equal(spans[s].error, 0);
        done += n_now;
    }
}

static void run_open(struct run *run, const char *path, unsigned n_threads, enum ops_kv_type kv,
                     uint32_t n, uint32_t chunk)
{
    const uint32_t pages_each = (OTHER_LEN + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    const uint32_t n_context = n > OTHER_LEN ? n : OTHER_LEN;
    const uint32_t pages = (n_context + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    const uint32_t n_sequences = 1 + (N_OTHERS * pages_each + pages - 1) / pages;
    toy_open(&run->toy, path, n_threads, kv, n_context, n_sequences, chunk + N_OTHERS * OTHER_ROWS);
    run->first_other_page = pages;
    toy_tokens(run->tokens, sizeof run->tokens / sizeof *run->tokens, N_IDS, 3);
    for (uint32_t s = 0; s < N_OTHERS; s++) {
        toy_tokens(run->other_tokens[s], OTHER_LEN, N_IDS, 100 + s);
        run->other_at[s] = 5 * s % OTHER_LEN;
    }
    /* The others begin somewhere, with the past that belongs there. */
    for (uint32_t s = 0; s < N_OTHERS; s++) {
        for (uint32_t at = 0; at < run->other_at[s];) {
            const uint32_t left = run->other_at[s] - at;
            struct forward_span span = {
                .tokens = run->other_tokens[s] + at,
                .n_tokens = left < chunk ? left : chunk,
                .first_position = at,
                .pages = run->toy.pages + pages + s * pages_each,
            };
            assert_int_equal(forward_run(run->toy.forward, &span, 1, NULL), 0);
            at += span.n_tokens;
        }
    }
}

/* ---- all runs of one model and cache ------------------------------------------------------ */

static const char *file_of(const unsigned *row)
{
    char arguments[512];
    snprintf(arguments, sizeof arguments, "%s%s", families[row[FAMILY]],
             weights[row[WEIGHTS]].arguments);
    return toy_file(arguments);
}

static void compare(const unsigned *row, const float *expected)
{
    struct run *run = calloc(1, sizeof *run);
    const uint32_t n = cuts[row[CHUNK]].n, chunk = cuts[row[CHUNK]].chunk;
    assert_non_null(run);
    assert_int_equal(ops_isa_select(ops_isa_name(isas[row[ISA]])), 0);
    run_open(run, file_of(row), row[THREADS] + 1, (enum ops_kv_type)row[KV], n, chunk);
    const size_t bytes = (size_t)n * run->toy.n_vocab * sizeof(float);
    float *logits = malloc(bytes);
    assert_non_null(logits);
    memset(logits, 0xff, bytes);
    ops_pool_deal(run->toy.pool, row[DEALING] ? 1 + n : 0);
    run_tokens(run, n, chunk, row[COMPANY], logits);
    if (memcmp(logits, expected, bytes) != 0)
        fail_msg("%s, %s, %s KV: other bits with %s, %u threads, chunks of %u, %s, dealt %s",
                 weights[row[WEIGHTS]].name, row[FAMILY] ? "MoE" : "dense", kv_names[row[KV]],
                 ops_isa_name(isas[row[ISA]]), row[THREADS] + 1, chunk,
                 row[COMPANY] ? "among 15 others" : "alone",
                 row[DEALING] ? "in another order" : "in order");
    free(logits);
    toy_close(&run->toy);
    free(run);
}

static bool same_model(const unsigned *a, const unsigned *b)
{
    return a[WEIGHTS] == b[WEIGHTS] && a[FAMILY] == b[FAMILY] && a[KV] == b[KV];
}

/* Rows of one model and cache type, against one result that the best set computes alone. */
static void compare_group(const unsigned (*rows)[N_FACTORS], size_t n_rows)
{
    uint32_t n = 0;
    struct run *run = calloc(1, sizeof *run);
    for (size_t i = 0; i < n_rows; i++)
        n = cuts[rows[i][CHUNK]].n > n ? cuts[rows[i][CHUNK]].n : n;
    assert_non_null(run);
    assert_int_equal(ops_isa_select(NULL), 0);
    const uint32_t chunk = n < 256 ? n : 256;
    run_open(run, file_of(rows[0]), 2, (enum ops_kv_type)rows[0][KV], n, chunk);
    float *expected = calloc((size_t)n * run->toy.n_vocab, sizeof *expected);
    assert_non_null(expected);
    run_tokens(run, n, chunk, false, expected);
    toy_close(&run->toy);
    free(run);
    for (size_t i = 0; i < n_rows; i++)
        compare(rows[i], expected);
    free(expected);
}

static int by_model(const void *a, const void *b)
{
    return memcmp(a, b, N_FACTORS * sizeof(unsigned)); /* any order that puts equals together */
}

static void compare_rows(unsigned (*rows)[N_FACTORS], size_t n_rows)
{
    qsort(rows, n_rows, sizeof *rows, by_model);
    for (size_t i = 0, n; i < n_rows; i += n) {
        for (n = 1; i + n < n_rows && same_model(rows[i], rows[i + n]); n++)
            ;
        compare_group((const unsigned(*)[N_FACTORS])rows + i, n);
    }
}

/* ---- which ones --------------------------------------------------------------------------- */

/* Plain C is slow, and long prompts are: the two meet as rarely as covering allows. */
static double cost_of(const unsigned *row)
{
    const double tokens = cuts[row[CHUNK]].n;
    return tokens / 10000 * (isas[row[ISA]] == OPS_ISA_SCALAR ? 50 : 1);
}

static size_t full_product(void)
{
    size_t n = 1;
    for (int f = 0; f < N_FACTORS; f++)
        n *= levels[f];
    return n;
}

static void covering_selection(void **state)
{
    (void)state;
    static unsigned rows[ROWS_MAX][N_FACTORS];
    struct covering covering = {.n_factors = N_FACTORS, .cost = cost_of};
    size_t n_pairs;
    memcpy(covering.n_levels, levels, sizeof levels);
    size_t n = covering_rows(&covering, rows[0], ROWS_MAX, &n_pairs);
    assert_true(n > 0);
#ifdef QUERN_SANITIZE /* everything is ten times slower: the short runs, and not all */
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (cuts[rows[i][CHUNK]].n <= 150 && i % 3 == 0)
            memcpy(rows[kept++], rows[i], sizeof rows[i]);
    n = kept;
    printf("note: %zu of the combinations, for a sanitizer\n", n);
#else
    printf("note: %zu of %zu combinations, which hold all %zu pairs of levels; "
           "%u instruction sets, %u kinds of weights\n",
           n, full_product(), n_pairs, levels[ISA], levels[WEIGHTS]);
#endif
    fflush(stdout);
    compare_rows(rows, n);
}

/* Every combination of one kind of weights. */
static void product_of(unsigned kind)
{
    static unsigned rows[4096][N_FACTORS];
    const size_t n = full_product() / levels[WEIGHTS];
    assert_true(n <= sizeof rows / sizeof *rows);
    for (size_t i = 0; i < n; i++) {
        size_t left = i;
        rows[i][WEIGHTS] = kind;
        for (int f = 1; f < N_FACTORS; f++) {
            rows[i][f] = (unsigned)(left % levels[f]);
            left /= levels[f];
        }
    }
    compare_rows(rows, n);
    printf("%s: %zu combinations\n", weights[kind].name, n);
    fflush(stdout);
}

static void whole_product(void **state)
{
    (void)state;
    const char *asked = getenv("QUERN_BITS");
    unsigned n_kinds = 0;
    for (unsigned k = 0; k < N_WEIGHTS; k++)
        if (!strcmp(asked, "all") || !strcmp(asked, weights[k].name)) {
            product_of(k);
            n_kinds++;
        }
    if (n_kinds == 0)
        fail_msg("QUERN_BITS is \"%s\": all, toy, or a kind of weights such as \"mix q4_k_m\"",
                 asked);
}

/* A few tokens with every set: one model of each family and of each way that types mix. */
static void short_runs(void **state)
{
    (void)state;
    static const char *const kinds[] = {"f16", "mix q4_k_m", "narrow q5_k_m", "mix iq4_xs"};
    static unsigned rows[4 * OPS_N_ISA][N_FACTORS];
    size_t n = 0;
    for (unsigned k = 0; k < N_WEIGHTS; k++)
        for (unsigned a = 0; a < 4; a++)
            for (unsigned i = 0; i < levels[ISA] && !strcmp(kinds[a], weights[k].name); i++, n++) {
                const unsigned row[N_FACTORS] = {k, a % 2, a % 3, i, a / 2, CUT_SHORT, 0, 0};
                memcpy(rows[n], row, sizeof row);
            }
    compare_rows(rows, n);
    printf("note: %zu short runs of whole models, %u instruction sets\n", n, levels[ISA]);
}

int main(void)
{
    const struct CMUnitTest selection[] = {cmocka_unit_test(covering_selection)};
    const struct CMUnitTest product[] = {cmocka_unit_test(whole_product)};
    const struct CMUnitTest toy[] = {cmocka_unit_test(short_runs)};
    const char *asked = getenv("QUERN_BITS");
    find_isas();
    if (asked && !strcmp(asked, "toy"))
        return cmocka_run_group_tests(toy, NULL, NULL);
    if (asked && *asked)
        return cmocka_run_group_tests(product, NULL, NULL);
    return cmocka_run_group_tests(selection, NULL, NULL);
}
