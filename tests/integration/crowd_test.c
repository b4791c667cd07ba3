/* Thirty-two clients at once, in random order, against a KV pool too small for them: honest ones,
 * some killed, some stopped and continued, some that lie about every index. Each honest answer is
 * byte-equal to the one that its request gets alone, each request ends in exactly one final event,
 * and afterwards descriptors, pages and memory are where they were. */
#include "client/quern.h"
#include "tests/support/quernd.h"
#include "tests/support/raw_client.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    CLIENTS = 32,
    PROMPTS = 24,
    TOKENS_MAX = 48,
    REQUESTS_EACH = 12,
    ROUNDS = 3,
};

enum role { HONEST, KILLED, STOPPED, LIAR };

struct prompt {
    uint32_t ids[300];
    size_t n;
    uint32_t n_tokens;
    uint64_t seed;
    uint32_t expected[TOKENS_MAX];
};

static struct quernd service;
static struct prompt prompts[PROMPTS];

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static struct quern_request request_of(const struct prompt *p)
{
    struct quern_request r;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = p->ids;
    r.n_ids = p->n;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED;
    r.max_tokens = p->n_tokens;
    r.temperature = 1.2f;
    r.seed = p->seed;
    return r;
}

static void make_prompts(void)
{
    uint64_t state = 42;
    for (int i = 0; i < PROMPTS; i++) {
        struct prompt *p = &prompts[i];
        p->n = 1 + next_random(&state) % 300;
        p->n_tokens = 1 + next_random(&state) % TOKENS_MAX;
        p->seed = next_random(&state);
        uint64_t content = i % 3 ? next_random(&state) : 7; /* a third have a common beginning */
        for (size_t j = 0; j < p->n; j++)
            p->ids[j] = next_random(&content) % 250;
    }
}

/* ---- an honest client ---------------------------------------------------------------------- */

/* Reads to the final event of one request. The number of tokens, or -1 where something is wrong;
 * *ret_cancelled where it was. */
static int read_answer(quern *q, uint64_t id, uint32_t *ids, bool *ret_cancelled)
{
    struct quern_event event = QUERN_EVENT_INIT;
    int n = 0, r;
    do {
        r = quern_next(q, id, &event, 60000);
        if (r < 0)
            break;
        if (event.type == QUERN_EVENT_TOKEN) {
            if (n == TOKENS_MAX || event.u.token.index != (uint32_t)n)
                r = -EPROTO;
            else
                ids[n++] = event.u.token.token;
        }
    } while (r == 0 && event.type != QUERN_EVENT_FINAL);
    if (r == 0) {
        *ret_cancelled = event.u.final_.reason == QUERN_REASON_CANCELLED;
        if (!*ret_cancelled && event.u.final_.reason != QUERN_REASON_LENGTH) {
            fprintf(stderr, "ended with reason %d: %s\n", event.u.final_.reason, event.data);
            r = -1;
        }
        if (quern_next(q, id, &event, 0) != -ENOENT) /* one final event, and nothing after it */
            r = -1;
    } else {
        fprintf(stderr, "quern_next: %s\n", strerror(-r));
    }
    quern_event_done(&event);
    return r < 0 ? -1 : n;
}

/* The exit status of an honest client: 0, or what went wrong. */
static int honest(uint64_t seed)
{
    quern *q;
    uint32_t ids[TOKENS_MAX];
    if (quern_connect(&q, service.socket) < 0)
        return 2;
    for (int i = 0; i < REQUESTS_EACH; i++) {
        const struct prompt *p = &prompts[next_random(&seed) % PROMPTS];
        struct quern_request r = request_of(p);
        uint64_t id;
        bool cancel = next_random(&seed) % 6 == 0, cancelled = false;
        r.priority = (enum quern_priority)(next_random(&seed) % 3);
        if (quern_submit(q, &r, &id) < 0)
            return 3;
        if (cancel)
            quern_cancel(q, id);
        int n = read_answer(q, id, ids, &cancelled);
        if (n < 0)
            return 4;
        if (cancelled != (cancel && cancelled) || (!cancelled && n != (int)p->n_tokens))
            return 5;
        if (memcmp(ids, p->expected, (size_t)n * sizeof *ids))
            return 6;
    }
    quern_close(q);
    return 0;
}

/* ---- the others ---------------------------------------------------------------------------- */

/* Submits without end and never reads, until it is killed. */
static int greedy(uint64_t seed)
{
    quern *q;
    uint64_t id;
    if (quern_connect(&q, service.socket) < 0)
        return 2;
    for (;;) {
        struct quern_request r = request_of(&prompts[next_random(&seed) % PROMPTS]);
        if (quern_submit(q, &r, &id) < 0)
            usleep(5000);
    }
}

/* Lies about indices, records and words, and connects again when it is thrown out. */
static int liar(uint64_t seed)
{
    for (int round = 0; round < 20; round++) {
        struct raw_client c;
        if (raw_connect(&c, service.socket, IPC_FEATURES) < 0)
            return 2;
        struct ipc_request_record record = raw_record(1, 16);
        uint8_t *bytes = (uint8_t *)&record;
        if (round % 2)
            bytes[next_random(&seed) % sizeof record] ^= (uint8_t)(1u << next_random(&seed) % 8);
        raw_write_record(&c, 0, &record);
        raw_publish(&c, 1);
        for (int i = 0; i < 20; i++) {
            uint64_t value = next_random(&seed) % 3 ? next_random(&seed) : ~UINT64_C(0) - i;
            switch (next_random(&seed) % 4) {
            case 0:
                c.ours->event_head = value;
                break;
            case 1:
                c.ours->reply_head = value;
                break;
            case 2:
                c.ours->client_wants = (uint32_t)value;
                break;
            default:
                c.request[next_random(&seed) % c.w.request_size] = (uint8_t)value;
            }
            usleep(500);
        }
        raw_publish(&c, next_random(&seed));
        usleep(2000);
        raw_close(&c);
    }
    return 0;
}

static pid_t start(enum role role, uint64_t seed)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    switch (role) {
    case KILLED:
        _exit(greedy(seed));
    case LIAR:
        _exit(liar(seed));
    default:
        _exit(honest(seed));
    }
}

/* ---- tests --------------------------------------------------------------------------------- */

static void wait_until_quiet(void)
{
    for (int i = 0; i < 500; i++) {
        if (quernd_status(&service, "running") == 0 && quernd_status(&service, "waiting") == 0 &&
            quernd_status(&service, "clients") == 1) {
            assert_int_equal(quernd_status(&service, "kv_pages_used"), 0);
            assert_int_equal(quernd_status(&service, "kv_pages_reserved"), 0);
            return;
        }
        usleep(20000);
    }
    fail_msg("clients or sequences are left over");
}

static void one_round(uint64_t seed)
{
    pid_t pids[CLIENTS];
    enum role roles[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        roles[i] = i % 8 == 1 ? KILLED : i % 8 == 3 ? STOPPED : i % 8 == 5 ? LIAR : HONEST;
        pids[i] = start(roles[i], seed + (uint64_t)i * 977);
        assert_true(pids[i] > 0);
        usleep(next_random(&seed) % 5000);
    }
    for (int turn = 0; turn < 40; turn++) {
        for (int i = 0; i < CLIENTS; i++)
            if (roles[i] == STOPPED)
                kill(pids[i], turn % 2 ? SIGCONT : SIGSTOP);
        usleep(20000);
    }
    for (int i = 0; i < CLIENTS; i++) {
        int status;
        kill(pids[i], roles[i] == KILLED ? SIGKILL : SIGCONT);
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        if (roles[i] == KILLED)
            continue;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("client %d (role %d) ended with status %x", i, (int)roles[i], status);
    }
}

/* The service notices a hang-up a moment after it: waits until it has n_fds descriptors, or (0)
 * until their number stays the same. */
static struct quernd_usage settled_usage(unsigned n_fds)
{
    struct quernd_usage usage = quernd_usage(&service), last;
    int calm = 0;
    for (int i = 0; i < 100 && calm < 5 && (!n_fds || usage.n_fds != n_fds); i++) {
        usleep(50000);
        last = usage;
        usage = quernd_usage(&service);
        calm = !n_fds && usage.n_fds == last.n_fds ? calm + 1 : 0;
    }
    return usage;
}

static void a_crowd_changes_nobodys_bytes(void **state)
{
    (void)state;
    one_round(1); /* buffers grow to what a crowd needs */
    wait_until_quiet();
    struct quernd_usage before = settled_usage(0);
    for (uint64_t round = 1; round < ROUNDS; round++)
        one_round(1000 * round);
    wait_until_quiet();
    struct quernd_usage after = settled_usage(before.n_fds);
    assert_int_equal(after.n_fds, before.n_fds);
#ifndef QUERN_SANITIZE /* their allocators keep what was freed */
    assert_true(after.resident_kib < before.resident_kib + 8192);
#endif
}

static int prepare(void **state)
{
    (void)state;
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    /* 24 pages of 64 positions: four or five of the longest requests fit. */
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "2", "--kv-bytes",
                                                 "1572864", "--sequences", "8", NULL});
    make_prompts();
    for (int i = 0; i < PROMPTS; i++) {
        quern *q;
        uint64_t id;
        bool cancelled;
        struct quern_request r = request_of(&prompts[i]);
        if (quern_connect(&q, service.socket) < 0 || quern_submit(q, &r, &id) < 0 ||
            read_answer(q, id, prompts[i].expected, &cancelled) != (int)prompts[i].n_tokens)
            return -1;
        quern_close(q);
    }
    return 0;
}

static int finish(void **state)
{
    (void)state;
    int status = quernd_stop(&service);
    quernd_remove(&service);
    return status;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crowd_changes_nobodys_bytes),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
