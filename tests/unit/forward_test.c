/* The forward pass against double precision, and against itself: the bits of a row depend on its
 * sequence's tokens alone. Toy models have every ratio of heads that the official ones have. */
#include "tests/support/toy.h"

#include "ops/isa.h"
#include "svc/model/gguf.h"
#include "tests/support/reference.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SMALL "--d-model 64 --ff 96 --layers 2 --n-vocab 288 "

/* Relative error of all logits of n tokens against double precision. */
static double error_of(const char *path, enum ops_kv_type kv_type, uint32_t n)
{
    struct toy toy;
    toy_open(&toy, path, 2, kv_type, n, 1, n);
    struct reference *reference = reference_new(path);
    uint32_t *tokens = calloc(n, sizeof *tokens);
    float *logits = calloc((size_t)n * toy.n_vocab, sizeof *logits);
    double *expected = calloc((size_t)n * toy.n_vocab, sizeof *expected);
    toy_tokens(tokens, n, 259, 7);
    toy_run(&toy, 0, tokens, n, n, logits);
    reference_logits(reference, tokens, n, expected);
    double error = reference_error(logits, expected, (size_t)n * toy.n_vocab);
    free(tokens);
    free(logits);
    free(expected);
    reference_free(reference);
    toy_close(&toy);
    return error;
}

static void check_error(const char *arguments, enum ops_kv_type kv_type, uint32_t n, double bound)
{
    double error = error_of(toy_file(arguments), kv_type, n);
    if (!(error <= bound))
        fail_msg("%s: error %g, bound %g", arguments, error, bound);
}

static const char *const ratios[] = {
    "--heads 4 --kv-heads 4 --head-dim 32 ",  /* 1, Qwen1.5 */
    "--heads 12 --kv-heads 2 --head-dim 16 ", /* 6, 1.5B */
    "--heads 14 --kv-heads 2 --head-dim 64 ", /* 7, 0.5B and 7B */
    "--heads 8 --kv-heads 1 --head-dim 128 ", /* 8, 72B */
};

/* Bounds of docs/design.md: what is rounding and what is a bug. */
static void test_error(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        char arguments[256];
        snprintf(arguments, sizeof arguments, SMALL "%s%s%s", ratios[i / 4],
                 i & 1 ? "--untied " : "--tied ", i & 2 ? "--yarn 4 --yarn-original 32 " : "");
        char f32[300], f16[300];
        snprintf(f32, sizeof f32, "%s--type f32", arguments);
        snprintf(f16, sizeof f16, "%s--type f16", arguments);
        check_error(f32, OPS_KV_F32, 140, 1e-5);
        check_error(f32, OPS_KV_F16, 80, 1.5e-3);
        check_error(f16, OPS_KV_F32, 80, 2e-3);
    }
}

static void test_error_moe(void **state)
{
    (void)state;
    check_error("--shape tiny-moe --type f32 --d-model 64 --expert-ff 96 --shared-ff 160",
                OPS_KV_F32, 100, 1e-5);
    check_error("--shape tiny-moe --type bf16 --experts 60 --d-model 64 --expert-ff 32 "
                "--shared-ff 64",
                OPS_KV_F32, 100, 1e-5);
}

/* Errors of llama.cpp on the same files and tokens, made by tests/golden/peer-error.sh. */
static void test_error_of_peer(void **state)
{
    (void)state;
    static const struct {
        const char *arguments;
        double peer;
    } golden[] = {
#include "tests/golden/peer-error.inc"
    };
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++)
        check_error(golden[i].arguments, OPS_KV_F32, 64, 1.25 * golden[i].peer);
}

/* ---- the same bits ------------------------------------------------------------------------ */

/* Longer than a chunk of 512; sanitizers make all of this ten times slower. */
#ifdef QUERN_SANITIZE
#define N_LONG 140
#else
#define N_LONG 600
#endif

static void compare_all(const char *arguments, enum ops_kv_type kv_type)
{
    static const uint32_t chunks[] = {1, 7, 64, 512};
    const char *path = toy_file(arguments);
    uint32_t tokens[N_LONG];
    float *expected = NULL, *logits = NULL;
    size_t bytes = 0;
    toy_tokens(tokens, N_LONG, 259, 3);
    for (enum ops_isa isa = OPS_ISA_SCALAR; isa < OPS_N_ISA; isa++) {
        if (!ops_isa_supported(isa))
            continue;
        assert_int_equal(ops_isa_select(ops_isa_name(isa)), 0);
        for (unsigned n_threads = 1; n_threads <= 3; n_threads++) {
            if (isa == OPS_ISA_SCALAR && n_threads == 2)
                continue; /* slow, and its bits have been compared */
            struct toy toy;
            toy_open(&toy, path, n_threads, kv_type, N_LONG, 1, 512);
            bytes = (size_t)N_LONG * toy.n_vocab * sizeof *logits;
            for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
                logits = logits ? logits : malloc(bytes);
                memset(logits, 0xff, bytes);
                toy_run(&toy, 0, tokens, N_LONG, chunks[c], logits);
                if (!expected) {
                    expected = logits;
                    logits = NULL;
                } else if (memcmp(logits, expected, bytes) != 0) {
                    fail_msg("%s: other bits with %s, %u threads, chunks of %u", arguments,
                             ops_isa_name(isa), n_threads, chunks[c]);
                }
            }
            toy_close(&toy);
        }
    }
    free(expected);
    free(logits);
    assert_int_equal(ops_isa_select(NULL), 0);
}

static void test_same_bits(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0"};
    for (unsigned i = 0; i < 4; i++) {
        char arguments[256];
        snprintf(arguments, sizeof arguments, SMALL "%s--type %s", ratios[i], types[i]);
        compare_all(arguments, OPS_KV_F16);
    }
    compare_all(SMALL "--type q8_0 --heads 8 --kv-heads 2 --head-dim 32", OPS_KV_Q8_0);
    compare_all(SMALL "--type f16 --heads 8 --kv-heads 2 --head-dim 32", OPS_KV_F32);
}

static void test_same_bits_moe(void **state)
{
    (void)state;
    compare_all("--shape tiny-moe --type q8_0 --d-model 64 --expert-ff 96 --shared-ff 160",
                OPS_KV_F16);
}

/* A sequence alone, and in steps with fifteen others that are at other places. */
static void check_batch(const char *arguments)
{
    enum { N_SEQUENCES = 16, N = 40 };
    struct toy toy;
    toy_open(&toy, toy_file(arguments), 2, OPS_KV_F16, 64, N_SEQUENCES, 512);
    size_t n_vocab = toy.n_vocab;
    float *alone = calloc((size_t)N_SEQUENCES * N * n_vocab, sizeof *alone);
    float *together = calloc((size_t)N_SEQUENCES * n_vocab, sizeof *together);
    uint32_t tokens[N_SEQUENCES][N];
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        toy_tokens(tokens[s], N, 259, 100 + s);
        toy_run(&toy, s, tokens[s], N, 16, alone + s * N * n_vocab);
    }
    /* Sequence s takes 1 + s % 3 tokens a step, so that all are at other positions. */
    uint32_t at[N_SEQUENCES] = {0};
    for (unsigned step = 0; step < N / 3; step++) {
        struct forward_span spans[N_SEQUENCES];
        for (uint32_t s = 0; s < N_SEQUENCES; s++)
            spans[s] = (struct forward_span){
                .tokens = tokens[s] + at[s],
                .n_tokens = 1 + s % 3,
                .first_position = at[s],
                .pages = toy.pages + s * toy.pages_per_sequence,
                .n_logits = s % 5 ? 1 : 0,
                .logits = s % 5 ? together + s * n_vocab : NULL,
            };
        assert_int_equal(forward_run(toy.forward, spans, N_SEQUENCES, NULL), 0);
        for (uint32_t s = 0; s < N_SEQUENCES; s++) {
            at[s] += spans[s].n_tokens;
            assert_int_equal(spans[s].error, 0);
            if (spans[s].n_logits)
                assert_memory_equal(together + s * n_vocab, alone + (s * N + at[s] - 1) * n_vocab,
                                    n_vocab * sizeof(float));
        }
    }
    free(alone);
    free(together);
    toy_close(&toy);
}

static void test_batch(void **state)
{
    (void)state;
    check_batch(SMALL "--type q8_0 --heads 14 --kv-heads 2 --head-dim 64");
    check_batch("--shape tiny-moe --type f16 --d-model 64 --expert-ff 96 --shared-ff 160");
}

/* ---- what may go wrong -------------------------------------------------------------------- */

/* The file with one embedding row (F32, the first tensor) set to NaN. */
static const char *file_with_bad_token(const char *arguments, uint32_t token, uint32_t d_model)
{
    const char *path = toy_path("bad-token.gguf");
    char command[600], why[256];
    snprintf(command, sizeof command, "cp '%s' '%s'", toy_file(arguments), path);
    assert_int_equal(system(command), 0);
    struct gguf *gguf;
    assert_int_equal(gguf_open(&gguf, path, why, sizeof why), 0);
    long offset = (long)gguf_find_tensor(gguf, "token_embd.weight")->offset;
    gguf_free(gguf);
    FILE *file = fopen(path, "r+be");
    assert_non_null(file);
    uint32_t nan = 0x7fc00000;
    fseek(file, offset + (long)(token * d_model * sizeof nan), SEEK_SET);
    assert_int_equal(fwrite(&nan, sizeof nan, 1, file), 1);
    fclose(file);
    return path;
}

static void test_nan(void **state)
{
    (void)state;
    static const char arguments[] =
        SMALL "--type f32 --untied --heads 4 --kv-heads 2 --head-dim 16";
    struct toy toy;
    toy_open(&toy, file_with_bad_token(arguments, 5, 64), 2, OPS_KV_F16, 64, 2, 64);
    float *alone = calloc(3 * (size_t)toy.n_vocab, sizeof *alone);
    float *together = calloc(3 * (size_t)toy.n_vocab, sizeof *together);
    const uint32_t good[] = {1, 2, 3}, bad[] = {4, 5, 6};
    toy_run(&toy, 0, good, 3, 3, alone);
    struct forward_span spans[] = {
        {.tokens = bad,
         .n_tokens = 3,
         .pages = toy.pages + toy.pages_per_sequence,
         .n_logits = 1,
         .logits = together},
        {.tokens = good,
         .n_tokens = 3,
         .pages = toy.pages,
         .n_logits = 1,
         .logits = together + toy.n_vocab},
    };
    assert_int_equal(forward_run(toy.forward, spans, 2, NULL), 0);
    assert_int_equal(spans[0].error, -EDOM);
    assert_int_equal(spans[1].error, 0);
    assert_memory_equal(together + toy.n_vocab, alone + 2 * (size_t)toy.n_vocab,
                        toy.n_vocab * sizeof(float));
    free(alone);
    free(together);
    toy_close(&toy);
}

/* A span that is dropped after any layer leaves the bits of the others as they are, wherever it
 * stands among them; computed again, it has its own. */
struct dropping {
    struct forward_span *spans;
    int layer, victim, n_looks;
};

static void drop_at_layer(void *arg)
{
    struct dropping *d = arg;
    if (d->n_looks++ == d->layer && d->victim >= 0)
        d->spans[d->victim].error = -ECANCELED;
}

static void test_dropped_spans(void **state)
{
    (void)state;
    struct toy toy;
    toy_open(&toy, toy_file(SMALL "--layers 4 --type q8_0 --heads 4 --kv-heads 2 --head-dim 16"), 2,
             OPS_KV_F16, 64, 3, 64);
    const uint32_t lengths[3] = {20, 1, 7}, n_vocab = toy.n_vocab;
    uint32_t tokens[3][20];
    float *alone = calloc(3 * 20 * (size_t)n_vocab, sizeof *alone);
    float *logits = calloc(3 * (size_t)n_vocab, sizeof *logits);
    for (uint32_t s = 0; s < 3; s++) {
        toy_tokens(tokens[s], lengths[s], n_vocab, 40 + s);
        toy_run(&toy, s, tokens[s], lengths[s], 64, alone + (size_t)s * 20 * n_vocab);
    }
    const int n_layers = (int)model_shape(toy.model)->n_layers;
    assert_true(n_layers > 1);
    for (int victim = -1; victim < 3; victim++)
        for (int layer = 0; layer + 1 < n_layers; layer++) {
            struct forward_span spans[3];
            for (uint32_t s = 0; s < 3; s++)
                spans[s] = (struct forward_span){.tokens = tokens[s],
                                                 .n_tokens = lengths[s],
                                                 .pages = toy.pages + s * toy.pages_per_sequence,
                                                 .n_logits = 1,
                                                 .logits = logits + (size_t)s * n_vocab};
            struct dropping d = {.spans = spans, .layer = layer, .victim = victim};
            const struct forward_watch watch = {drop_at_layer, &d};
            memset(logits, 0, 3 * (size_t)n_vocab * sizeof *logits);
            assert_int_equal(forward_run(toy.forward, spans, 3, &watch), 0);
            assert_int_equal(d.n_looks, n_layers - 1);
            for (int s = 0; s < 3; s++) {
                assert_int_equal(spans[s].error, s == victim ? -ECANCELED : 0);
                if (s != victim)
                    assert_memory_equal(logits + (size_t)s * n_vocab,
                                        alone + ((size_t)s * 20 + lengths[s] - 1) * n_vocab,
                                        n_vocab * sizeof(float));
            }
            if (victim < 0)
                continue;
            spans[victim].error = 0;
            assert_int_equal(forward_run(toy.forward, &spans[victim], 1, NULL), 0);
            assert_memory_equal(logits + (size_t)victim * n_vocab,
                                alone + ((size_t)victim * 20 + lengths[victim] - 1) * n_vocab,
                                n_vocab * sizeof(float));
        }
    struct forward_span span = {
        .tokens = tokens[0], .n_tokens = 1, .pages = toy.pages, .n_logits = 1, .logits = logits};
    struct dropping d = {.spans = &span};
    const struct forward_watch watch = {drop_at_layer, &d};
    assert_int_equal(forward_run(toy.forward, &span, 1, &watch), -ECANCELED);
    assert_int_equal(span.error, -ECANCELED);
    free(alone);
    free(logits);
    toy_close(&toy);
}

/* The hidden state times the head is the logits; rows without logits cost nothing else. */
static void test_hidden(void **state)
{
    (void)state;
    struct toy toy;
    toy_open(&toy, toy_file(SMALL "--type f32 --heads 4 --kv-heads 2 --head-dim 16"), 1, OPS_KV_F32,
             64, 1, 64);
    const uint32_t tokens[] = {9, 8, 7};
    float *logits = calloc(toy.n_vocab, sizeof *logits), hidden[2 * 64], row[64];
    struct forward_span span = {.tokens = tokens,
                                .n_tokens = 3,
                                .pages = toy.pages,
                                .n_logits = 1,
                                .logits = logits,
                                .n_hidden = 2,
                                .hidden = hidden};
    assert_int_equal(forward_run(toy.forward, &span, 1, NULL), 0);
    for (uint32_t v = 0; v < toy.n_vocab; v++) {
        double sum = 0;
        ops_matrix_row(model_head(toy.model), v, row);
        for (int i = 0; i < 64; i++)
            sum += (double)row[i] * (double)hidden[64 + i];
        assert_true(sum - (double)logits[v] < 1e-4 && (double)logits[v] - sum < 1e-4);
    }
    free(logits);
    toy_close(&toy);
}

/* Both generations of MoE metadata give the same model. */
static void test_old_metadata(void **state)
{
    (void)state;
    enum { N = 12 };
    uint32_t tokens[N];
    float *logits[2];
    size_t bytes = 0;
    toy_tokens(tokens, N, 259, 1);
    for (int i = 0; i < 2; i++) {
        struct toy toy;
        toy_open(&toy,
                 toy_file(i ? "--shape tiny-moe --type f16 --old-metadata"
                            : "--shape tiny-moe --type f16"),
                 2, OPS_KV_F16, 64, 1, 64);
        bytes = (size_t)N * toy.n_vocab * sizeof(float);
        logits[i] = malloc(bytes);
        toy_run(&toy, 0, tokens, N, N, logits[i]);
        toy_close(&toy);
    }
    assert_memory_equal(logits[0], logits[1], bytes);
    free(logits[0]);
    free(logits[1]);
}

static void test_memory_limit(void **state)
{
    (void)state;
    char why[512] = "";
    struct ops_pool *pool;
    struct model *model;
    assert_int_equal(ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = 1}), 0);
    const struct model_options options = {.memory_limit_bytes = 1 << 20, .n_context = 4096};
    assert_int_equal(model_load(&model, toy_file("--type f16"), &options, pool, why, sizeof why),
                     -ENOMEM);
    assert_non_null(strstr(why, "does not fit"));
    assert_non_null(strstr(why, "4096 positions"));
    ops_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error),         cmocka_unit_test(test_error_moe),
        cmocka_unit_test(test_error_of_peer), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_same_bits_moe), cmocka_unit_test(test_batch),
        cmocka_unit_test(test_nan),           cmocka_unit_test(test_dropped_spans),
        cmocka_unit_test(test_hidden),        cmocka_unit_test(test_old_metadata),
        cmocka_unit_test(test_memory_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
