/* quernd bench: how fast a prompt is read and tokens are made, beside what the memory gives.
 *
 * Tokens are random and the same in every run; a first repetition warms up and is not counted.
 * Figures are medians over the repetitions. */
#include "svc/cmd/session.h"

#include "ops/isa.h"
#include "ops/probe.h"

#include <stdio.h>
#include <stdlib.h>

static const char usage[] = "usage: quernd bench --model FILE [options]\n"
                            "  --prompt N         tokens of prefill (512)\n"
                            "  --generate N       tokens of decode (64)\n"
                            "  --depth N          tokens that stand before the prompt (0)\n"
                            "  --reps N           repetitions (3)\n"
                            "  --json             one JSON object\n" CMD_OPTIONS_HELP;

enum { OPT_PROMPT = CMD_OPT_OWN, OPT_GENERATE, OPT_DEPTH, OPT_REPS, OPT_HELP };

static const struct option options[] = {
    CMD_OPTIONS,
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"generate", required_argument, NULL, OPT_GENERATE},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"reps", required_argument, NULL, OPT_REPS},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

#define REPS_MAX 1000

struct bench {
    uint64_t n_prompt, n_generate, n_depth, n_reps;
    uint32_t *tokens; /* (n_depth + n_prompt + n_generate) */
    float *logits;    /* (n_vocab) */
    double prefill_tps[REPS_MAX], decode_tps[REPS_MAX];
};

/* The same ids in every run and on every machine. */
static void make_tokens(uint32_t *tokens, uint64_t n, uint32_t n_vocab)
{
    uint32_t state = 42;
    for (uint64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223; /* Numerical Recipes' generator */
        tokens[i] = (state >> 8) % n_vocab;
    }
}

/* One repetition; `r` < 0 warms up. */
static int repeat(struct bench *bench, struct cmd_session *session, int64_t r)
{
    const uint32_t *tokens = bench->tokens;
    uint32_t at = (uint32_t)bench->n_depth, n_prompt = (uint32_t)bench->n_prompt;
    int exit_code = 0;
    if (at && r < 0)
        exit_code = cmd_session_run(session, "bench", tokens, at, 0, 0, NULL);
    double start = cmd_now_s();
    if (exit_code == 0 && n_prompt)
        exit_code = cmd_session_run(session, "bench", tokens + at, n_prompt, at, 1, bench->logits);
    double middle = cmd_now_s();
    at += n_prompt;
    for (uint64_t i = 0; i < bench->n_generate && exit_code == 0; i++, at++)
        exit_code = cmd_session_run(session, "bench", tokens + at, 1, at, 1, bench->logits);
    double end = cmd_now_s();
    if (r >= 0) {
        bench->prefill_tps[r] = (double)bench->n_prompt / (middle - start);
        bench->decode_tps[r] = (double)bench->n_generate / (end - middle);
    }
    return exit_code;
}

static void print_json(const struct cmd_session *session, double prefill, double decode,
                       double memory)
{
    printf("{\"prefill_tps\": %.2f, \"decode_tps\": %.2f, \"load_s\": %.3f, "
           "\"memory_read_gbps\": %.2f, \"decode_read_gbps\": %.2f, \"weight_bytes\": %llu, "
           "\"threads\": %u, \"isa\": \"%s\", \"types\": \"%s\"}\n",
           prefill, decode, session->load_s, memory,
           decode * (double)model_weight_bytes(session->model) / 1e9,
           (unsigned long long)model_weight_bytes(session->model),
           ops_pool_n_threads(session->pool), ops_isa_name(ops_isa()),
           model_type_summary(session->model));
}

static void print_text(const struct bench *bench, const struct cmd_session *session, double prefill,
                       double decode, double memory)
{
    double read = decode * (double)model_weight_bytes(session->model);
    printf("%s (%s), %u threads, %s\n", model_name(session->model),
           model_type_summary(session->model), ops_pool_n_threads(session->pool),
           ops_isa_name(ops_isa()));
    printf("load      %8.3f s     %s\n", session->load_s, model_load_notes(session->model));
    if (bench->n_prompt)
        printf("prefill   %8.2f t/s   %llu tokens at depth %llu\n", prefill,
               (unsigned long long)bench->n_prompt, (unsigned long long)bench->n_depth);
    if (bench->n_generate)
        printf("decode    %8.2f t/s   reads %.2f GB/s of weights, %.0f %% of the memory's rate\n",
               decode, read / 1e9, memory > 0 ? 100 * read / 1e9 / memory : 0);
    printf("memory    %8.2f GB/s  read by all threads\n", memory);
}

static int measure(struct bench *bench, const struct cmd_options *common)
{
    struct cmd_session session;
    int exit_code = cmd_session_open(&session, "bench", common);
    if (exit_code)
        return exit_code;
    const struct model_shape *shape = model_shape(session.model);
    uint64_t n = bench->n_depth + bench->n_prompt + bench->n_generate;
    bench->tokens = calloc(n, sizeof *bench->tokens);
    bench->logits = calloc(shape->n_vocab, sizeof *bench->logits);
    if (!bench->tokens || !bench->logits) {
        fprintf(stderr, "quernd bench: no memory for the tokens\n");
        exit_code = CMD_OURS;
        goto close_session;
    }
    make_tokens(bench->tokens, n, shape->n_tokens);
    for (int64_t r = -1; r < (int64_t)bench->n_reps && exit_code == 0; r++)
        exit_code = repeat(bench, &session, r);
    if (exit_code)
        goto close_session;
    double memory = ops_probe_memory_gbps(session.pool);
    double prefill = bench->n_prompt ? cmd_median(bench->prefill_tps, bench->n_reps) : 0;
    double decode = bench->n_generate ? cmd_median(bench->decode_tps, bench->n_reps) : 0;
    if (common->json)
        print_json(&session, prefill, decode, memory);
    else
        print_text(bench, &session, prefill, decode, memory);
close_session:
    free(bench->tokens);
    free(bench->logits);
    cmd_session_close(&session);
    return exit_code;
}

int cmd_bench(int argc, char **argv)
{
    static struct bench bench = {.n_prompt = 512, .n_generate = 64, .n_reps = 3};
    struct cmd_options common = {.kv_type = OPS_KV_F16};
    int c, r = 0;
    while (r == 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == OPT_PROMPT) {
            r = cmd_number("bench", "prompt", optarg, 0, 1u << 20, &bench.n_prompt);
        } else if (c == OPT_GENERATE) {
            r = cmd_number("bench", "generate", optarg, 0, 1u << 20, &bench.n_generate);
        } else if (c == OPT_DEPTH) {
            r = cmd_number("bench", "depth", optarg, 0, 1u << 20, &bench.n_depth);
        } else if (c == OPT_REPS) {
            r = cmd_number("bench", "reps", optarg, 1, REPS_MAX, &bench.n_reps);
        } else if (c == OPT_HELP) {
            fputs(usage, stdout);
            return CMD_OK;
        } else {
            r = cmd_take_option(&common, "bench", c, optarg);
        }
    }
    if (r)
        return r;
    if (optind != argc || bench.n_prompt + bench.n_generate == 0) {
        fputs(usage, stderr);
        return CMD_USAGE;
    }
    common.n_context = (uint32_t)(bench.n_depth + bench.n_prompt + bench.n_generate);
    return measure(&bench, &common);
}
