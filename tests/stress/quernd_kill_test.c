/* quernd and its clients, killed in turn at random points. Clients are killed by the hundred while
 * others go on, whose answers stay what they are alone, to the byte; descriptors, maps, memory and
 * KV pages of the service come back to where they were. Then the service is killed too: each
 * client gets an error though no new one has come, and is served again as soon as one listens.
 * Nothing here has a limit of time but the whole: a machine may be as slow as it likes.
 * QUERN_STRESS_CYCLES (600) is the number of kills; 100,000 by hand. */
#define _GNU_SOURCE
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    CLIENTS = 8,
    VICTIMS = 5, /* the others live as long as the test does */
    PROMPTS = 16,
    TOKENS_MAX = 60,
    KILLS_A_SERVICE = 50, /* one service dies with so many clients */
};

struct prompt {
    uint32_t ids[200], n, n_tokens, expected[TOKENS_MAX];
};

struct shared {
    _Atomic uint64_t killed_ms;         /* when the service was */
    _Atomic uint64_t n_answers;         /* complete and equal */
    _Atomic uint64_t n_errors, late_ms; /* errors after a kill of the service; the latest */
    _Atomic uint64_t generation;        /* of the service */
    _Atomic uint64_t told[CLIENTS];     /* that the service of this generation is gone */
    _Atomic int wrong;                  /* what a client that gave up had got */
};

static struct quernd service;
static struct prompt prompts[PROMPTS];
static struct shared *shared;

static const char *const options[] = {"--context", "512",         "--threads", "2", "--kv-bytes",
                                      "1572864",   "--sequences", "6",         NULL};

static unsigned long n_cycles(void)
{
    const char *text = getenv("QUERN_STRESS_CYCLES");
    return text ? strtoul(text, NULL, 10) : 600;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* One answer: its tokens, or -errno. */
static int ask(quern *q, const struct prompt *p, uint32_t *ids)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    uint64_t id;
    int n = 0;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = p->ids;
    r.n_ids = p->n;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED;
    r.max_tokens = p->n_tokens;
    r.temperature = 1.1f;
    r.seed = p->n;
    int e = quern_submit(q, &r, &id);
    while (e == 0 && (e = quern_next(q, id, &event, -1)) == 0 && event.type != QUERN_EVENT_FINAL)
        if (event.type == QUERN_EVENT_TOKEN)
            ids[n++] = event.u.token.token;
    if (e == 0 && event.u.final_.reason != QUERN_REASON_LENGTH)
        e = -EBADMSG;
    quern_event_done(&event);
    return e < 0 ? e : n;
}

/* Asks for ever; connects again when the service is gone. Ends only when something is wrong. */
static _Noreturn void be_client(int index, uint64_t seed)
{
    uint32_t ids[TOKENS_MAX];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        quern *q;
        uint64_t generation = atomic_load(&shared->generation);
        int e = quern_connect(&q, service.socket);
        if (e == -ENOENT || e == -ECONNREFUSED || e == -ECONNRESET || e == -EBUSY) {
            atomic_store(&shared->told[index], generation);
            usleep(2000); /* none is there yet, or not rid of those killed before */
            continue;
        }
        if (e < 0)
            _exit(1);
        while ((e = (int)(next_random(&seed) % PROMPTS)) >= 0) {
            const struct prompt *p = &prompts[e];
            e = ask(q, p, ids);
            if (e < 0)
                break;
            if (e != (int)p->n_tokens || memcmp(ids, p->expected, (size_t)e * sizeof *ids) != 0)
                _exit(2);
            atomic_fetch_add(&shared->n_answers, 1);
        }
        if (e != -ECONNRESET || atomic_load(&shared->killed_ms) == 0) { /* no service was killed */
            atomic_store(&shared->wrong, e);
            _exit(3);
        }
        atomic_store(&shared->told[index], atomic_load(&shared->generation));
        uint64_t late = now_ms() - atomic_load(&shared->killed_ms);
        atomic_fetch_add(&shared->n_errors, 1);
        if (late > atomic_load(&shared->late_ms))
            atomic_store(&shared->late_ms, late);
        quern_close(q);
    }
}

static pid_t start_client(int index, uint64_t seed)
{
    pid_t pid = fork();
    if (pid == 0)
        be_client(index, seed);
    return pid;
}

/* Those that nobody kills go on. */
static void wait_a_moment(const pid_t *pids)
{
    int status;
    usleep(1000);
    for (int i = VICTIMS; i < CLIENTS; i++)
        if (waitpid(pids[i], &status, WNOHANG) != 0)
            fail_msg("a client ended with status %x: %s", status,
                     strerror(-atomic_load(&shared->wrong)));
}

static void end_client(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status)) /* it had seen something wrong before */
        fail_msg("a client ended with status %x: %s", status,
                 strerror(-atomic_load(&shared->wrong)));
}

static void kill_client(pid_t *pids, int index, uint64_t *random)
{
    end_client(pids[index]);
    pids[index] = start_client(index, next_random(random));
}

static void wait_until_quiet(void)
{
    for (int i = 0; i < 1000; i++) {
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

/* Usage once the last hang-up has been noticed: until its descriptors are n_fds, or calm. */
static struct quernd_usage settled(unsigned n_fds)
{
    struct quernd_usage usage;
    wait_until_quiet();
    for (int i = 0; i < 100; i++) {
        usage = quernd_usage(&service);
        if (n_fds == 0 ? i >= 10 : usage.n_fds == n_fds)
            break;
        usleep(20000);
    }
    return usage;
}

static void kill_some(unsigned long n, uint64_t *random)
{
    pid_t pids[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        pids[i] = start_client(i, next_random(random));
    for (unsigned long i = 0; i < n; i++) {
        usleep(next_random(random) % 3000);
        kill_client(pids, (int)(next_random(random) % VICTIMS), random);
    }
    for (int i = 0; i < CLIENTS; i++)
        end_client(pids[i]);
}

static void killed_clients_leave_nothing(void **state)
{
    uint64_t random = 1;
    (void)state;
    kill_some(n_cycles() / 4, &random); /* caches and buffers grow to what a crowd needs */
    struct quernd_usage before = settled(0);
    kill_some(n_cycles() * 3 / 4, &random);
    struct quernd_usage after = settled(before.n_fds);
    printf("%lu clients killed, %llu answers of others equal; descriptors %u and %u, maps %u and "
           "%u, resident KiB %llu and %llu\n",
           n_cycles(), (unsigned long long)atomic_load(&shared->n_answers), before.n_fds,
           after.n_fds, before.n_maps, after.n_maps, (unsigned long long)before.resident_kib,
           (unsigned long long)after.resident_kib);
    assert_true(atomic_load(&shared->n_answers) > 0);
    assert_int_equal(after.n_fds, before.n_fds);
    assert_true(after.n_maps <= before.n_maps + 8); /* jemalloc's own come and go */
#ifndef QUERN_SANITIZE                              /* their allocators keep what was freed */
    assert_true(after.resident_kib < before.resident_kib + 4096);
#endif
}

static void killed_services_are_noticed_and_replaced(void **state)
{
    uint64_t random = 2, n_services = 1 + n_cycles() / KILLS_A_SERVICE;
    pid_t pids[CLIENTS];
    (void)state;
    for (int i = 0; i < CLIENTS; i++)
        pids[i] = start_client(i, next_random(&random));
    atomic_store(&shared->n_answers, 0);
    for (uint64_t i = 0; i < n_services; i++) {
        uint64_t answers = atomic_load(&shared->n_answers);
        /* They are served: more answers than there can have been on the way. */
        while (atomic_load(&shared->n_answers) < answers + 2 * CLIENTS)
            wait_a_moment(pids);
        for (int k = 0; k < KILLS_A_SERVICE; k++) {
            usleep(next_random(&random) % 3000);
            kill_client(pids, (int)(next_random(&random) % VICTIMS), &random);
        }
        usleep(next_random(&random) % 30000);
        atomic_store(&shared->killed_ms, now_ms());
        kill(service.pid, SIGKILL);
        uint64_t generation = atomic_fetch_add(&shared->generation, 1) + 1;
        assert_int_equal(waitpid(service.pid, NULL, 0), service.pid);
        for (int k = VICTIMS; k < CLIENTS; k++)
            while (atomic_load(&shared->told[k]) != generation)
                wait_a_moment(pids);
        quernd_start(&service, options); /* replaces the socket that was left */
    }
    for (int i = 0; i < CLIENTS; i++)
        end_client(pids[i]);
    printf("%llu services killed: %llu errors, the latest after %llu ms; %llu answers equal\n",
           (unsigned long long)n_services, (unsigned long long)atomic_load(&shared->n_errors),
           (unsigned long long)atomic_load(&shared->late_ms),
           (unsigned long long)atomic_load(&shared->n_answers));
    assert_true(atomic_load(&shared->n_errors) > 0);
    settled(0);
}

static int prepare(void **state)
{
    uint64_t random = 42;
    uint32_t ids[TOKENS_MAX];
    quern *q;
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    quernd_start(&service, options);
    if (quern_connect(&q, service.socket) < 0)
        return -1;
    for (int i = 0; i < PROMPTS; i++) {
        struct prompt *p = &prompts[i];
        p->n = 1 + next_random(&random) % 200;
        p->n_tokens = 1 + next_random(&random) % TOKENS_MAX;
        for (uint32_t k = 0; k < p->n; k++)
            p->ids[k] = next_random(&random) % 250;
        if (ask(q, p, ids) != (int)p->n_tokens)
            return -1;
        memcpy(p->expected, ids, p->n_tokens * sizeof *ids);
    }
    quern_close(q);
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
        cmocka_unit_test(killed_clients_leave_nothing),
        cmocka_unit_test(killed_services_are_noticed_and_replaced),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
