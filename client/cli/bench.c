/* quern bench: how fast the service answers, measured from outside, through the ring: time to the
 * first token, time between tokens, tokens a second. Each request begins with a number of its own,
 * so that no prompt is found in the service's cache. */
#define _GNU_SOURCE /* asprintf */
#include "client/cli/cli.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT_MAX    100000u
#define PARALLEL_MAX 64u
#define SAMPLES_MAX  (1u << 24) /* times kept: 128 MiB */

struct in_flight {
    uint64_t id; /* 0: free */
    double begun_ms, last_ms;
    bool has_token;
};

/* Times in milliseconds, in the order in which they came. */
struct times {
    double *ms;
    size_t n;
};

struct bench {
    const struct cli_options *options;
    quern *q;
    struct in_flight slots[PARALLEL_MAX];
    uint32_t count, parallel, begun, ended;
    uint64_t prompt_tokens, generated;
    struct times first, gap;
    uint64_t prefix; /* makes the prompts of this run unlike those of others */
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static struct in_flight *slot_of(struct bench *b, uint64_t id)
{
    for (uint32_t i = 0; i < b->parallel; i++)
        if (b->slots[i].id == id)
            return &b->slots[i];
    return NULL;
}

/* Begins one request in a free slot. 0, -EAGAIN, or another -errno. */
static int begin(struct bench *b)
{
    static const char default_prompt[] =
        "The mill by the river had stood for a hundred years before anybody asked who built it.";
    const char *text = b->options->prompt ? b->options->prompt : default_prompt;
    struct quern_request r = b->options->request;
    struct in_flight *slot = slot_of(b, 0);
    char *input = NULL;
    int n = asprintf(&input, "%llu.%u: %s", (unsigned long long)b->prefix, b->begun, text);
    if (n < 0)
        return -ENOMEM;
    r.input = input;
    r.input_size = (size_t)n;
    r.flags |= QUERN_IGNORE_EOS;
    *slot = (struct in_flight){.begun_ms = now_ms()};
    int rc = quern_submit(b->q, &r, &slot->id);
    if (rc)
        slot->id = 0;
    else
        b->begun++;
    free(input);
    return rc;
}

static int take(struct bench *b, const struct quern_event *e)
{
    struct in_flight *slot = slot_of(b, e->id);
    if (!slot)
        return 0;
    double now = now_ms();
    if (e->type == QUERN_EVENT_TOKEN) {
        if (!slot->has_token)
            b->first.ms[b->first.n++] = now - slot->begun_ms;
        else if (b->gap.n < (size_t)b->count * b->options->request.max_tokens)
            b->gap.ms[b->gap.n++] = now - slot->last_ms;
        slot->has_token = true;
        slot->last_ms = now;
    } else if (e->type == QUERN_EVENT_FINAL) {
        if (e->u.final_.code != QUERN_CODE_OK)
            return cli_fail(cli_exit_of_code(e->u.final_.code), "%s",
                            e->data_size ? e->data : quern_code_name(e->u.final_.code));
        b->prompt_tokens += e->u.final_.prompt_tokens;
        b->generated += e->u.final_.generated;
        b->ended++;
        slot->id = 0;
    }
    return 0;
}

static int measure(struct bench *b)
{
    struct quern_event event = QUERN_EVENT_INIT;
    int rc = 0;
    while (!rc && b->ended < b->count) {
        while (!rc && b->begun < b->count && b->begun - b->ended < b->parallel)
            rc = begin(b);
        if (rc == -EAGAIN && b->begun == b->ended) { /* no event will come: wait for room */
            struct pollfd p = {.fd = quern_fd(b->q), .events = POLLIN};
            poll(&p, 1, -1);
            rc = 0;
            continue;
        }
        if (!rc || rc == -EAGAIN)
            rc = quern_next(b->q, 0, &event, -1);
        if (rc < 0)
            break;
        rc = take(b, &event);
    }
    quern_event_done(&event);
    return rc < 0 ? cli_fail(cli_exit_of_errno(rc), "%s", quern_error(b->q)) : rc;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The smallest time that at least this part of all did not exceed. */
static double percentile(const struct times *t, double part)
{
    if (t->n == 0)
        return 0;
    size_t at = (size_t)(part * (double)t->n);
    return t->ms[at < t->n ? at : t->n - 1];
}

static void print(struct bench *b, double wall_ms)
{
    double rate = (double)b->generated / wall_ms * 1e3;
    qsort(b->first.ms, b->first.n, sizeof(double), compare_times);
    qsort(b->gap.ms, b->gap.n, sizeof(double), compare_times);
    if (b->options->output == CLI_OUTPUT_JSON) {
        json_t *all = json_pack(
            "{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "requests", (json_int_t)b->ended,
            "parallel", (json_int_t)b->parallel, "prompt_tokens", (json_int_t)b->prompt_tokens,
            "generated_tokens", (json_int_t)b->generated, "wall_ms", wall_ms, "tokens_per_second",
            rate, "first_token_p50_ms", percentile(&b->first, 0.5), "first_token_p99_ms",
            percentile(&b->first, 0.99), "token_gap_p50_ms", percentile(&b->gap, 0.5),
            "token_gap_p99_ms", percentile(&b->gap, 0.99));
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(all);
        return;
    }
    printf("%u requests, %u at a time: %llu tokens read, %llu written in %.2f s\n", b->ended,
           b->parallel, (unsigned long long)b->prompt_tokens, (unsigned long long)b->generated,
           wall_ms / 1e3);
    printf("%-22s %10.1f\n", "tokens a second", rate);
    printf("%-22s %10s %10s\n", "milliseconds", "p50", "p99");
    printf("%-22s %10.2f %10.2f\n", "to the first token", percentile(&b->first, 0.5),
           percentile(&b->first, 0.99));
    printf("%-22s %10.2f %10.2f\n", "between two tokens", percentile(&b->gap, 0.5),
           percentile(&b->gap, 0.99));
}

int cli_bench(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "bench", "prompt max-tokens count parallel output json model",
                              argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.n_words || o.output == CLI_OUTPUT_IDS)
        return cli_fail(CLI_USAGE, "bench takes no words, and prints text or json");
    struct bench b = {
        .options = &o, .count = o.count ? o.count : 16, .parallel = o.parallel ? o.parallel : 1};
    if (!(o.request.given & QUERN_GIVEN_MAX_TOKENS))
        o.request.max_tokens = 64;
    o.request.given |= QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE;
    if (b.count > COUNT_MAX || b.parallel > PARALLEL_MAX || o.request.max_tokens == 0 ||
        (uint64_t)b.count * o.request.max_tokens > SAMPLES_MAX)
        return cli_fail(CLI_USAGE,
                        "bench wants --count up to %u, --parallel up to %u, and count × "
                        "--max-tokens from 1 to %u; ask for less",
                        COUNT_MAX, PARALLEL_MAX, SAMPLES_MAX);
    b.first.ms = calloc(b.count, sizeof(double));
    b.gap.ms = calloc((size_t)b.count * o.request.max_tokens, sizeof(double));
    if (!b.first.ms || !b.gap.ms)
        rc = cli_fail(CLI_OURS, "out of memory; ask for a smaller --count");
    if (!rc)
        rc = cli_connect(&b.q, &o);
    if (!rc) {
        b.prefix = (uint64_t)now_ms();
        double begun_ms = now_ms();
        rc = measure(&b);
        if (!rc)
            print(&b, now_ms() - begun_ms);
    }
    quern_close(b.q);
    free(b.first.ms);
    free(b.gap.ms);
    return rc;
}
