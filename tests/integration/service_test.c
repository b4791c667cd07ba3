/* quernd as its clients see it: what comes through the ring is what the forward pass and the
 * sampler give when they are run directly; limits are sentences; cancels, hang-ups and the end of
 * the service leave nothing behind; at rest it uses no CPU. */
#include "client/quern.h"
#include "svc/model/forward.h"
#include "svc/sampler.h"
#include "tests/support/quernd.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { TOKENS_MAX = 512 };

static struct quernd service;

/* ---- an answer, collected ------------------------------------------------------------------ */

struct answer {
    uint32_t ids[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    size_t n;
    char text[16 * TOKENS_MAX];
    size_t n_text;
    struct quern_score scores[TOKENS_MAX];
    size_t score_bytes;
    unsigned n_accepted;
    struct quern_result result;
};

static int take(void *arg, const struct quern_event *event)
{
    struct answer *a = arg;
    a->n_accepted += event->type == QUERN_EVENT_ACCEPTED;
    if (event->type == QUERN_EVENT_TOKEN) {
        assert_int_equal(event->u.token.index, a->n);
        a->ids[a->n] = event->u.token.token;
        a->logprobs[a->n++] = event->u.token.logprob;
        memcpy(a->text + a->n_text, event->data, event->data_size);
        a->n_text += event->data_size;
        a->text[a->n_text] = 0;
    } else if (event->type == QUERN_EVENT_DATA && event->u.data.kind == QUERN_DATA_SCORES) {
        memcpy((char *)a->scores + event->u.data.index, event->data, event->data_size);
        a->score_bytes += event->data_size;
    } else if (event->type == QUERN_EVENT_DATA) {
        memcpy(a->text + a->n_text, event->data, event->data_size);
        a->n_text += event->data_size;
        a->text[a->n_text] = 0;
    }
    return 0;
}

static quern *connected(void)
{
    quern *q;
    if (quern_connect(&q, service.socket) < 0)
        fail_msg("%s", quern_connect_error());
    return q;
}

static void ask(const struct quern_request *r, struct answer *a)
{
    quern *q = connected();
    memset(a, 0, sizeof *a);
    assert_int_equal(quern_generate(q, r, take, a, &a->result), 0);
    assert_int_equal(a->n_accepted, 1);
    quern_close(q);
}

static struct quern_request ids_request(const uint32_t *ids, size_t n, uint32_t max_tokens)
{
    struct quern_request r;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    r.n_ids = n;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED |
              QUERN_GIVEN_REPETITION | QUERN_GIVEN_TOP_K | QUERN_GIVEN_TOP_P;
    r.max_tokens = max_tokens;
    r.repetition = 1;
    r.top_p = 1;
    return r;
}

static void some_ids(uint32_t *ids, size_t n, uint32_t salt)
{
    for (size_t i = 0; i < n; i++) {
        salt = salt * 1664525u + 1013904223u;
        ids[i] = (salt >> 8) % 250;
    }
}

/* ---- the same, without the service --------------------------------------------------------- */

struct direct {
    struct ops_pool *pool;
    struct model *model;
    struct mm_kv *kv;
    struct forward *forward;
    float *logits;
    uint32_t pages[TOKENS_MAX / OPS_KV_PAGE];
};

static void direct_open(struct direct *d)
{
    char why[256] = "";
    struct ops_pool_options pool = {.n_threads = 1, .no_pinning = 1};
    struct model_options options = {.huge_pages = MM_HUGE_OFF, .kv_type = OPS_KV_F16};
    assert_int_equal(ops_pool_new(&d->pool, &pool), 0);
    if (model_load(&d->model, service.model, &options, d->pool, why, sizeof why) < 0)
        fail_msg("%s", why);
    uint32_t n_pages = TOKENS_MAX / OPS_KV_PAGE;
    assert_int_equal(mm_kv_new(&d->kv, n_pages, model_shape(d->model)->n_layers,
                               forward_kv_slice_bytes(d->model, OPS_KV_F16), MM_HUGE_OFF, why,
                               sizeof why),
                     0);
    assert_int_equal(forward_new(&d->forward, d->model, d->pool, d->kv, OPS_KV_F16, 64, TOKENS_MAX),
                     0);
    d->logits = malloc(model_shape(d->model)->n_vocab * sizeof *d->logits);
    for (uint32_t i = 0; i < n_pages; i++)
        d->pages[i] = mm_kv_take(d->kv);
}

static void direct_close(struct direct *d)
{
    free(d->logits);
    forward_free(d->forward);
    mm_kv_free(d->kv);
    model_free(d->model);
    ops_pool_free(d->pool);
}

/* One token at a time, with the sampler as the request has it. */
static void direct_generate(struct direct *d, const struct quern_request *r, uint32_t *out)
{
    struct sampler_params p = {.temperature = r->temperature,
                               .top_k = r->top_k,
                               .top_p = r->top_p,
                               .repetition_penalty = r->repetition,
                               .seed = r->seed};
    struct sampler *sampler;
    struct sampler_history *history;
    uint32_t tokens[TOKENS_MAX], n = (uint32_t)r->n_ids;
    assert_int_equal(sampler_new(&sampler, model_shape(d->model)->n_tokens), 0);
    assert_int_equal(sampler_history_new(&history, TOKENS_MAX), 0);
    memcpy(tokens, r->ids, n * sizeof *tokens);
    for (uint32_t i = 0; i < n; i++)
        sampler_history_add(history, tokens[i], 0);
    for (uint32_t i = 0; i + 1 < r->n_ids + r->max_tokens; i++) {
        struct forward_span span = {.tokens = tokens + i,
                                    .n_tokens = 1,
                                    .first_position = i,
                                    .pages = d->pages,
                                    .n_logits = 1,
                                    .logits = d->logits};
        assert_int_equal(forward_run(d->forward, &span, 1, NULL), 0);
        assert_int_equal(span.error, 0);
        if (i + 1 < n)
            continue;
        uint32_t k = n - (uint32_t)r->n_ids;
        assert_int_equal(sampler_draw(sampler, &p, history, d->logits, 0, k, &tokens[n]), 0);
        sampler_history_add(history, tokens[n], 1);
        out[k] = tokens[n++];
    }
    sampler_history_free(history);
    sampler_free(sampler);
}

static void tokens_equal_a_direct_run(void **state)
{
    (void)state;
    struct direct d;
    static struct answer a;
    uint32_t ids[300], expected[TOKENS_MAX];
    direct_open(&d);
    for (uint32_t round = 0; round < 12; round++) {
        size_t n = (size_t[]){1, 5, 64, 65, 200, 300}[round % 6];
        some_ids(ids, n, round);
        struct quern_request r = ids_request(ids, n, 40);
        r.temperature = round % 3 == 0 ? 0 : 1.5f;
        r.repetition = round % 2 ? 1.2f : 1;
        r.top_k = round % 4 == 1 ? 30 : 0;
        r.top_p = round % 4 == 2 ? 0.9f : 1;
        r.seed = 1000 + round;
        direct_generate(&d, &r, expected);
        for (int again = 0; again < 2; again++) { /* the second time from the prefix cache */
            ask(&r, &a);
            assert_int_equal(a.result.final_.reason, QUERN_REASON_LENGTH);
            assert_int_equal(a.result.final_.prompt_tokens, n);
            assert_int_equal(a.result.final_.generated, 40);
            assert_int_equal(a.n, 40);
            assert_memory_equal(a.ids, expected, 40 * sizeof *expected);
            if (again)
                assert_int_equal(a.result.final_.cached_tokens,
                                 (n - 1) / OPS_KV_PAGE * OPS_KV_PAGE);
        }
    }
    direct_close(&d);
}

static void scores_agree_with_the_answer(void **state)
{
    (void)state;
    static struct answer a, s;
    uint32_t ids[200 + 30];
    some_ids(ids, 200, 77);
    struct quern_request r = ids_request(ids, 200, 30);
    ask(&r, &a);
    memcpy(ids + 200, a.ids, 30 * sizeof *ids);
    quern_request_init(&r);
    r.op = QUERN_OP_SCORE;
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    r.n_ids = 230;
    ask(&r, &s);
    assert_int_equal(s.result.final_.reason, QUERN_REASON_DONE);
    assert_int_equal(s.score_bytes, 230 * sizeof(struct quern_score));
    assert_true(isnan(s.scores[0].logprob));
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(s.scores[200 + i].token, a.ids[i]);
        assert_memory_equal(&s.scores[200 + i].logprob, &a.logprobs[i], sizeof(float));
    }
}

static void parallel_samples_are_those_of_single_requests(void **state)
{
    (void)state;
    static struct answer a;
    uint32_t ids[150], per_sample[4][16], n[4] = {0};
    some_ids(ids, 150, 5);
    struct quern_request r = ids_request(ids, 150, 16);
    r.temperature = 2;
    r.seed = 3;
    ask(&r, &a);
    r.samples = 4;
    quern *q = connected();
    uint64_t id;
    struct quern_event event = QUERN_EVENT_INIT;
    assert_int_equal(quern_submit(q, &r, &id), 0);
    do {
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
        if (event.type == QUERN_EVENT_TOKEN)
            per_sample[event.sample][n[event.sample]++] = event.u.token.token;
    } while (event.type != QUERN_EVENT_FINAL);
    assert_int_equal(event.u.final_.generated, 64);
    quern_event_done(&event);
    quern_close(q);
    for (int i = 0; i < 4; i++)
        assert_int_equal(n[i], 16);
    assert_memory_equal(per_sample[0], a.ids, sizeof per_sample[0]);
    assert_memory_not_equal(per_sample[0], per_sample[1], sizeof per_sample[0]);
    assert_memory_not_equal(per_sample[2], per_sample[3], sizeof per_sample[0]);
}

/* ---- limits -------------------------------------------------------------------------------- */

static void limits_are_sentences_with_numbers(void **state)
{
    (void)state;
    static struct answer a;
    static uint32_t ids[600];
    some_ids(ids, 600, 1);
    struct quern_request r = ids_request(ids, 600, 10);
    ask(&r, &a);
    assert_int_equal(a.result.final_.reason, QUERN_REASON_FAILED);
    assert_int_equal(a.result.final_.code, QUERN_CODE_TOO_LONG);
    assert_non_null(strstr(a.result.sentence, "600"));
    assert_non_null(strstr(a.result.sentence, "512"));

    r = ids_request(ids, 500, 100);
    ask(&r, &a);
    assert_int_equal(a.result.final_.code, QUERN_CODE_TOO_LONG);
    assert_non_null(strstr(a.result.sentence, "500"));
    assert_non_null(strstr(a.result.sentence, "at most 12"));

    ids[3] = 4000000;
    r = ids_request(ids, 10, 10);
    ask(&r, &a);
    assert_int_equal(a.result.final_.code, QUERN_CODE_INVALID);
    assert_non_null(strstr(a.result.sentence, "4000000"));

    quern_request_init(&r);
    r.input = "good \xff bad";
    r.input_size = 10;
    ask(&r, &a);
    assert_int_equal(a.result.final_.code, QUERN_CODE_INVALID);
    assert_non_null(strstr(a.result.sentence, "byte 5"));

    quern_request_init(&r);
    r.input = "x";
    r.input_size = 1;
    r.model = "no-such-model";
    ask(&r, &a);
    assert_int_equal(a.result.final_.code, QUERN_CODE_NO_MODEL);

    ids[3] = 7;
    r = ids_request(ids, 10, 3); /* and nothing is disturbed */
    ask(&r, &a);
    assert_int_equal(a.result.final_.reason, QUERN_REASON_LENGTH);
}

/* An answer of so many tokens, drawn hot, so that most of them differ. */
static struct quern_request drawn_request(uint32_t max_tokens)
{
    struct quern_request r;
    quern_request_init(&r);
    r.input = "The mill";
    r.input_size = 8;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED;
    r.max_tokens = max_tokens;
    r.temperature = 3;
    r.seed = 11;
    return r;
}

static void stop_strings_do_not_leak(void **state)
{
    (void)state;
    static struct answer whole, cut;
    struct quern_request r = drawn_request(60);
    ask(&r, &whole);
    assert_true(whole.n_text > 20);
    char stop[8] = "";
    memcpy(stop, whole.text + 10, 4);
    while (((unsigned char)stop[0] & 0xc0) == 0x80) /* begins with a character */
        memmove(stop, stop + 1, strlen(stop));
    const char *stops[] = {stop};
    const char *first = strstr(whole.text, stop);
    assert_non_null(first);
    r.stops = stops;
    r.n_stops = 1;
    ask(&r, &cut);
    assert_int_equal(cut.result.final_.reason, QUERN_REASON_STOP);
    assert_int_equal(cut.n_text, first - whole.text);
    assert_memory_equal(cut.text, whole.text, cut.n_text);
}

/* The answer ends with the first of them, without its text; not before min_tokens. */
static void stop_ids_end_the_answer(void **state)
{
    (void)state;
    static struct answer whole, shorter, cut;
    uint32_t stop_ids[2] = {0};
    struct quern_request r = drawn_request(40);
    ask(&r, &whole);
    stop_ids[1] = whole.ids[20];
    uint32_t first = 0;
    while (whole.ids[first] != stop_ids[1] && whole.ids[first] != stop_ids[0])
        first++;
    assert_true(first > 0);
    r.max_tokens = first;
    ask(&r, &shorter);
    r.max_tokens = 40;
    r.stop_ids = stop_ids;
    r.n_stop_ids = 2;
    ask(&r, &cut);
    assert_int_equal(cut.result.final_.reason, QUERN_REASON_STOP);
    assert_int_equal(cut.n, first + 1);
    assert_memory_equal(cut.ids, whole.ids, cut.n * sizeof *cut.ids);
    assert_string_equal(cut.text, shorter.text);

    r.given |= QUERN_GIVEN_MIN_TOKENS;
    r.min_tokens = first + 5;
    ask(&r, &cut);
    assert_true(cut.n > first + 5);
    for (uint32_t i = 0; i < first + 5; i++)
        assert_true(cut.ids[i] != stop_ids[0] && cut.ids[i] != stop_ids[1]);

    stop_ids[0] = UINT32_MAX;
    ask(&r, &cut);
    assert_int_equal(cut.result.final_.code, QUERN_CODE_INVALID);
    assert_non_null(strstr(cut.result.sentence, "stop id 4294967295"));
}

/* ---- ends ---------------------------------------------------------------------------------- */

static void nothing_runs_soon(void)
{
    for (int i = 0; i < 200; i++) {
        if (quernd_status(&service, "running") == 0 && quernd_status(&service, "waiting") == 0 &&
            quernd_status(&service, "kv_pages_used") == 0)
            return;
        usleep(20000);
    }
    fail_msg("sequences are left over");
}

static void cancel_and_hang_up_end_the_sequence(void **state)
{
    (void)state;
    uint32_t ids[100];
    uint64_t id;
    struct quern_event event = QUERN_EVENT_INIT;
    some_ids(ids, 100, 9);
    struct quern_request r = ids_request(ids, 100, 400);
    quern *q = connected();
    assert_int_equal(quern_submit(q, &r, &id), 0);
    do
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
    while (event.type != QUERN_EVENT_TOKEN);
    assert_int_equal(quern_cancel(q, id), 0);
    do
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
    while (event.type != QUERN_EVENT_FINAL);
    assert_int_equal(event.u.final_.reason, QUERN_REASON_CANCELLED);
    nothing_runs_soon();

    r.deadline_ms = 1;
    assert_int_equal(quern_submit(q, &r, &id), 0);
    do
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
    while (event.type != QUERN_EVENT_FINAL);
    assert_int_equal(event.u.final_.code, QUERN_CODE_DEADLINE);
    nothing_runs_soon();

    r.deadline_ms = 0;
    for (int i = 0; i < 30; i++)
        assert_int_equal(quern_submit(q, &r, &id), 0);
    assert_int_equal(quern_next(q, id, &event, 10000), 0);
    quern_event_done(&event);
    quern_close(q);
    nothing_runs_soon();
}

static void at_rest_uses_no_cpu(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its runtime has a thread of its own that wakes */
#endif
    quern *q[10];
    static struct answer a;
    uint32_t ids[10];
    some_ids(ids, 10, 2);
    struct quern_request r = ids_request(ids, 10, 5);
    for (int i = 0; i < 10; i++) {
        q[i] = connected();
        memset(&a, 0, sizeof a);
        assert_int_equal(quern_generate(q[i], &r, take, &a, &a.result), 0);
    }
    sleep(1);
    struct quernd_usage before = quernd_usage(&service);
    sleep(10);
    struct quernd_usage after = quernd_usage(&service);
    assert_int_equal(after.cpu_ticks, before.cpu_ticks);
    assert_int_equal(after.context_switches, before.context_switches);
    for (int i = 0; i < 10; i++)
        quern_close(q[i]);
}

static void connections_have_a_limit(void **state)
{
    (void)state;
    quern *q[40];
    int n = 0, r = 0;
    while (n < 40 && (r = quern_connect(&q[n], service.socket)) == 0)
        n++;
    assert_int_equal(n, 32);
    assert_int_equal(r, -EBUSY);
    assert_non_null(strstr(quern_connect_error(), "32"));
    quern_close(q[--n]);
    for (int i = 0; i < 100 && (r = quern_connect(&q[n], service.socket)) < 0; i++)
        usleep(20000); /* the service notices the hang-up a moment later */
    assert_int_equal(r, 0);
    n++;
    while (n > 0)
        quern_close(q[--n]);
    nothing_runs_soon();
}

static void one_service_on_a_socket(void **state)
{
    (void)state;
    int status;
    char program[256];
    snprintf(program, sizeof program, "%s/quernd", getenv("BUILD") ? getenv("BUILD") : "build");
    pid_t pid = fork();
    if (pid == 0) {
        fclose(stderr);
        execl(program, program, "--model", service.model, "--socket", service.socket, NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 71);
    assert_int_equal(quernd_status(&service, "running"), 0);
}

static void stopping_ends_what_runs_and_a_stale_socket_is_replaced(void **state)
{
    (void)state;
    uint32_t ids[100];
    uint64_t id;
    struct quern_event event = QUERN_EVENT_INIT;
    some_ids(ids, 100, 9);
    struct quern_request r = ids_request(ids, 100, 400);
    quern *q = connected();
    r.samples = 16;
    assert_int_equal(quern_submit(q, &r, &id), 0);
    do
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
    while (event.type != QUERN_EVENT_TOKEN);
    kill(service.pid, SIGTERM);
    do
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
    while (event.type != QUERN_EVENT_FINAL);
    assert_int_equal(event.u.final_.reason, QUERN_REASON_FAILED);
    assert_int_equal(event.u.final_.code, QUERN_CODE_SHUTDOWN);
    quern_event_done(&event);
    quern_close(q);
    assert_int_equal(quernd_stop(&service), 0);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", service.socket);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd); /* a socket that nobody listens on */
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "2",
                                                 "--connections-per-user", "32", NULL});
}

static int start(void **state)
{
    (void)state;
    quernd_prepare(&service, (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--layers",
                                                   "3", "--seed", "5", NULL});
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "2",
                                                 "--connections-per-user", "32", NULL});
    return 0;
}

static int stop(void **state)
{
    (void)state;
    int status = quernd_stop(&service);
    quernd_remove(&service);
    return status;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_equal_a_direct_run),
        cmocka_unit_test(scores_agree_with_the_answer),
        cmocka_unit_test(parallel_samples_are_those_of_single_requests),
        cmocka_unit_test(limits_are_sentences_with_numbers),
        cmocka_unit_test(stop_strings_do_not_leak),
        cmocka_unit_test(stop_ids_end_the_answer),
        cmocka_unit_test(cancel_and_hang_up_end_the_sequence),
        cmocka_unit_test(at_rest_uses_no_cpu),
        cmocka_unit_test(connections_have_a_limit),
        cmocka_unit_test(one_service_on_a_socket),
        cmocka_unit_test(stopping_ends_what_runs_and_a_stale_socket_is_replaced),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
