/* The service under load, measured from outside: programs with a connection each, through the ring
 * and with the model's own sampling. Each line of standard output is one figure.
 *
 *   serve_bench SOCKET N_VOCAB many N PROMPT TOKENS      N sequences at once
 *   serve_bench SOCKET N_VOCAB prefix N PROMPT           N requests with a common beginning
 *   serve_bench SOCKET N_VOCAB short PROMPT [N]          N 10-token requests (5), one after the
 *                                                        other, beside a long prompt
 *   serve_bench SOCKET N_VOCAB gap N PROMPT              N sequences while one of them is prefilled
 *   serve_bench SOCKET N_VOCAB stay N SECONDS            N programs that ask again and again, 10 + 16
 *                                                        tokens a request: for share.sh
 */
#include "client/quern.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CLIENTS_MAX = 256,
    GAPS_MAX = 1 << 18,
    SHORT_PROMPT = 10,
    STAY_TOKENS = 16,
    STAY_MAX = 1 << 16, /* requests of one program */
};

struct job {
    pthread_t thread;
    uint32_t *ids;
    uint32_t n_ids, n_tokens;
    uint64_t submitted_us, first_us, ended_us; /* out */
    uint32_t generated, cached;
    uint32_t *gaps_us; /* (generated) or NULL */
};

static const char *socket_path;
static uint32_t n_vocab;
static uint64_t random_state = 1;

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "serve_bench: %s: %s\n", what, why);
    exit(1);
}

static void random_ids(uint32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        ids[i] = (uint32_t)(random_state >> 33) % n_vocab;
    }
}

static struct job job_of(uint32_t n_ids, uint32_t n_tokens)
{
    struct job j = {.ids = malloc(n_ids * sizeof *j.ids),
                    .n_ids = n_ids,
                    .n_tokens = n_tokens,
                    .gaps_us = calloc(n_tokens, sizeof *j.gaps_us)};
    if (!j.ids || !j.gaps_us)
        fail("memory", "there is none left");
    random_ids(j.ids, n_ids);
    return j;
}

static int take_event(void *arg, const struct quern_event *event)
{
    struct job *j = arg;
    if (event->type != QUERN_EVENT_TOKEN)
        return 0;
    if (event->u.token.index == 0)
        j->first_us = now_us();
    else if (event->u.token.index < j->n_tokens)
        j->gaps_us[event->u.token.index] = event->u.token.gap_us;
    return 0;
}

static void *run(void *arg)
{
    struct job *j = arg;
    struct quern_request r;
    struct quern_result result;
    quern *q;
    if (quern_connect(&q, socket_path) < 0)
        fail("connect", quern_connect_error());
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = j->ids;
    r.n_ids = j->n_ids;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_SEED; /* the rest: as the model's file says */
    r.max_tokens = j->n_tokens;
    r.seed = j->ids[0];
    j->submitted_us = now_us();
    if (quern_generate(q, &r, take_event, j, &result) < 0)
        fail("generate", quern_error(q));
    if (result.final_.code != QUERN_CODE_OK)
        fail("request", result.sentence);
    j->ended_us = now_us();
    j->generated = result.final_.generated;
    j->cached = result.final_.cached_tokens;
    quern_close(q);
    return NULL;
}

static void start(struct job *j)
{
    if (pthread_create(&j->thread, NULL, run, j) != 0)
        fail("thread", "it cannot be started");
}

static void finish(struct job *jobs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        pthread_join(jobs[i].thread, NULL);
}

static void release(struct job *jobs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        free(jobs[i].ids);
        free(jobs[i].gaps_us);
    }
}

static int by_number(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void print_gaps(const struct job *jobs, uint32_t n)
{
    static uint32_t gaps[GAPS_MAX];
    uint32_t n_gaps = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 1; k < jobs[i].generated && n_gaps < GAPS_MAX; k++)
            gaps[n_gaps++] = jobs[i].gaps_us[k];
    if (n_gaps == 0)
        return;
    qsort(gaps, n_gaps, sizeof *gaps, by_number);
    printf("gap_p50_ms %.2f\ngap_p99_ms %.2f\ngap_max_ms %.2f\n", gaps[n_gaps / 2] / 1e3,
           gaps[(uint64_t)n_gaps * 99 / 100] / 1e3, gaps[n_gaps - 1] / 1e3);
}

/* Tokens a second from when all have their first token to when the first of them ends: decoding
 * alone, with all of them there. */
static void print_rate(const struct job *jobs, uint32_t n)
{
    uint64_t from = 0, to = UINT64_MAX, begin = UINT64_MAX, end = 0;
    double tokens = 0, all = 0;
    for (uint32_t i = 0; i < n; i++) {
        from = jobs[i].first_us > from ? jobs[i].first_us : from;
        to = jobs[i].ended_us < to ? jobs[i].ended_us : to;
        begin = jobs[i].submitted_us < begin ? jobs[i].submitted_us : begin;
        end = jobs[i].ended_us > end ? jobs[i].ended_us : end;
        all += jobs[i].generated;
    }
    /* A client's tokens in that span, by the gaps that the service told it. */
    for (uint32_t i = 0; i < n; i++) {
        uint64_t at = jobs[i].first_us;
        for (uint32_t k = 1; k < jobs[i].generated; k++) {
            at += jobs[i].gaps_us[k];
            tokens += at > from && at <= to;
        }
    }
    printf("decode_tps %.2f\n", to > from ? tokens * 1e6 / (double)(to - from) : 0);
    printf("total_tps %.2f\n", all * 1e6 / (double)(end - begin));
}

static void many(uint32_t n, uint32_t n_prompt, uint32_t n_tokens)
{
    struct job jobs[CLIENTS_MAX];
    for (uint32_t i = 0; i < n; i++)
        jobs[i] = job_of(n_prompt, n_tokens);
    for (uint32_t i = 0; i < n; i++)
        start(&jobs[i]);
    finish(jobs, n);
    print_rate(jobs, n);
    print_gaps(jobs, n);
    release(jobs, n);
}

static double first_ms(const struct job *j)
{
    return (double)(j->first_us - j->submitted_us) / 1e3;
}

static void prefix(uint32_t n, uint32_t n_prompt)
{
    struct job jobs[CLIENTS_MAX];
    double latest = 0;
    for (uint32_t i = 0; i < n; i++) {
        jobs[i] = job_of(n_prompt + SHORT_PROMPT, 2);
        memcpy(jobs[i].ids, jobs[0].ids, n_prompt * sizeof *jobs[i].ids);
    }
    start(&jobs[0]);
    finish(jobs, 1);
    for (uint32_t i = 1; i < n; i++) {
        start(&jobs[i]);
        finish(&jobs[i], 1);
        latest = first_ms(&jobs[i]) > latest ? first_ms(&jobs[i]) : latest;
    }
    printf("first_ms %.2f\nlater_worst_ms %.2f\nlater_part %.4f\ncached %u\n", first_ms(&jobs[0]),
           latest, latest / first_ms(&jobs[0]), jobs[n - 1].cached);
    release(jobs, n);
    /* And all at once, after another beginning. */
    for (uint32_t i = 0; i < n; i++) {
        jobs[i] = job_of(n_prompt + SHORT_PROMPT, 2);
        memcpy(jobs[i].ids, jobs[0].ids, n_prompt * sizeof *jobs[i].ids);
    }
    uint64_t begin = now_us(), end = 0;
    for (uint32_t i = 0; i < n; i++)
        start(&jobs[i]);
    finish(jobs, n);
    for (uint32_t i = 0; i < n; i++)
        end = jobs[i].ended_us > end ? jobs[i].ended_us : end;
    printf("at_once_ms %.2f\n", (double)(end - begin) / 1e3);
    release(jobs, n);
}

static void beside_a_long_prompt(uint32_t n_prompt, uint32_t n)
{
    struct job alone[CLIENTS_MAX], beside[CLIENTS_MAX], longest[2];
    uint32_t a[CLIENTS_MAX], b[CLIENTS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        alone[i] = job_of(SHORT_PROMPT, 4);
        start(&alone[i]);
        finish(&alone[i], 1);
        a[i] = (uint32_t)(alone[i].first_us - alone[i].submitted_us);
    }
    for (int i = 0; i < 2; i++)
        longest[i] = job_of(n_prompt, 1);
    start(&longest[0]);
    finish(&longest[0], 1);
    start(&longest[1]);
    const useconds_t pause = (useconds_t)(first_ms(&longest[0]) * 1e3 / (n + 1));
    for (uint32_t i = 0; i < n; i++) {
        usleep(pause);
        beside[i] = job_of(SHORT_PROMPT, 4);
        start(&beside[i]);
        finish(&beside[i], 1);
        b[i] = (uint32_t)(beside[i].first_us - beside[i].submitted_us);
    }
    finish(&longest[1], 1);
    qsort(a, n, sizeof *a, by_number);
    qsort(b, n, sizeof *b, by_number);
    printf(
        "short_alone_ms %.2f\nshort_beside_ms %.2f\nshort_beside_worst_ms %.2f\nshort_times %.2f\n",
        a[n / 2] / 1e3, b[n / 2] / 1e3, b[n - 1] / 1e3, (double)b[n / 2] / a[n / 2]);
    printf("long_alone_ms %.0f\nlong_beside_ms %.0f\nlong_times %.3f\n", first_ms(&longest[0]),
           first_ms(&longest[1]), first_ms(&longest[1]) / first_ms(&longest[0]));
    release(alone, n);
    release(beside, n);
    release(longest, 2);
}

static void gap(uint32_t n, uint32_t n_prompt)
{
    struct job jobs[CLIENTS_MAX];
    for (uint32_t i = 0; i + 1 < n; i++)
        jobs[i] = job_of(16, 160);
    jobs[n - 1] = job_of(n_prompt, 2);
    for (uint32_t i = 0; i < n; i++) {
        if (i + 1 == n)
            usleep(1500000); /* the others decode by now */
        start(&jobs[i]);
    }
    finish(jobs, n);
    print_gaps(jobs, n - 1);
    printf("prompt_ms %.0f\n", first_ms(&jobs[n - 1]));
    release(jobs, n);
}

/* What one program of `stay` saw. */
struct stayer {
    pthread_t thread;
    uint64_t end_us;
    uint64_t random;
    uint32_t n;          /* requests that ended in time */
    uint64_t n_tokens;   /* of those, prompts included */
    uint32_t *firsts_us; /* (n) from submission to the first token */
};

static void *stay_on(void *arg)
{
    struct stayer *s = arg;
    while (now_us() < s->end_us && s->n < STAY_MAX) {
        uint32_t ids[SHORT_PROMPT];
        struct job j = {.ids = ids, .n_ids = SHORT_PROMPT, .n_tokens = STAY_TOKENS};
        uint32_t gaps[STAY_TOKENS];
        j.gaps_us = gaps;
        for (uint32_t i = 0; i < SHORT_PROMPT; i++) {
            s->random = s->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
            ids[i] = (uint32_t)(s->random >> 33) % n_vocab;
        }
        run(&j);
        if (j.ended_us > s->end_us)
            break;
        s->firsts_us[s->n++] = (uint32_t)(j.first_us - j.submitted_us);
        s->n_tokens += SHORT_PROMPT + j.generated;
    }
    return NULL;
}

static void stay(uint32_t n, uint32_t seconds)
{
    static struct stayer stayers[CLIENTS_MAX];
    const uint64_t end_us = now_us() + (uint64_t)seconds * 1000000;
    for (uint32_t i = 0; i < n; i++) {
        stayers[i] = (struct stayer){.end_us = end_us,
                                     .random = (uint64_t)getuid() << 32 | i,
                                     .firsts_us = malloc(STAY_MAX * sizeof(uint32_t))};
        if (!stayers[i].firsts_us)
            fail("memory", "there is none left");
        if (pthread_create(&stayers[i].thread, NULL, stay_on, &stayers[i]) != 0)
            fail("thread", "it cannot be started");
    }
    uint32_t n_requests = 0;
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(stayers[i].thread, NULL);
        n_requests += stayers[i].n;
        n_tokens += stayers[i].n_tokens;
    }
    uint32_t *firsts_us = malloc((n_requests + 1) * sizeof *firsts_us), at = 0;
    if (!firsts_us || n_requests == 0)
        fail("stay", "no request ended in time");
    for (uint32_t i = 0; i < n; i++) {
        memcpy(firsts_us + at, stayers[i].firsts_us, stayers[i].n * sizeof *firsts_us);
        at += stayers[i].n;
        free(stayers[i].firsts_us);
    }
    qsort(firsts_us, n_requests, sizeof *firsts_us, by_number);
    printf("requests %u\ntokens %llu\nfirst_p50_ms %.1f\nfirst_p99_ms %.1f\nfirst_max_ms %.1f\n",
           n_requests, (unsigned long long)n_tokens, firsts_us[n_requests / 2] / 1e3,
           firsts_us[(uint64_t)n_requests * 99 / 100] / 1e3, firsts_us[n_requests - 1] / 1e3);
    free(firsts_us);
}

int main(int argc, char **argv)
{
    uint32_t number[3] = {0};
    if (argc < 5) {
        fprintf(stderr, "usage: see the top of tests/bench/serve_bench.c\n");
        return 64;
    }
    socket_path = argv[1];
    n_vocab = (uint32_t)strtoul(argv[2], NULL, 10);
    for (int i = 4; i < argc && i < 7; i++)
        number[i - 4] = (uint32_t)strtoul(argv[i], NULL, 10);
    if (n_vocab == 0 || number[0] == 0)
        fail("arguments", "numbers from 1");
    const char *what = argv[3];
    if ((strcmp(what, "short") ? number[0] : number[1]) > CLIENTS_MAX)
        fail(what, "256 clients at most");
    if (!strcmp(what, "many"))
        many(number[0], number[1], number[2]);
    else if (!strcmp(what, "prefix"))
        prefix(number[0], number[1]);
    else if (!strcmp(what, "short"))
        beside_a_long_prompt(number[0], number[1] ? number[1] : 5);
    else if (!strcmp(what, "gap"))
        gap(number[0], number[1]);
    else if (!strcmp(what, "stay"))
        stay(number[0], number[1]);
    else
        fail(what, "unknown");
    return 0;
}
