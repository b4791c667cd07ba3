/*
 * What a crowd of clients costs a running quernd. Everything is measured in pairs, in turn.
 *
 *   crowd_bench idle         1,000 connected, idle clients: time of a step with and without them
 *   crowd_bench wake [ROUNDS [apart]]
 *                            16 sequences: time of a step whose clients sleep and are rung for every
 *                            token; of one whose clients wake as often, by clocks of their own, and
 *                            are not rung; and of one whose clients do nothing. The first two differ
 *                            by what ringing costs, the last two by what running the clients does.
 *                            With `apart` the service has one thread, and processor 0, to itself
 *   crowd_bench stop SECONDS [SLICE]
 *                            eight clients: gaps between the tokens of seven of them while the
 *                            eighth runs, and while it is stopped (SIGSTOP), so many seconds of each
 *                            in slices of SLICE (5) in turn. In a long slice the stopped client's
 *                            ring fills up, and its sequence is parked
 *
 * idle takes a toy model, so that a microsecond shows; the others half of 0.5b's layers.
 */
#define _GNU_SOURCE
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    IDLE_CLIENTS = 1000,
    IDLE_ROUNDS = 150,
    IDLE_TOKENS = 200,
    WAKE_CLIENTS = 16,
    WAKE_ROUNDS = 6, /* where nothing was said */
    WAKE_ROUNDS_MAX = 100,
    WAKE_MODES = 3,
    WAKE_TOKENS = 32,
    STOP_CLIENTS = 8,
    STOP_SLICE_S = 5, /* where nothing was said */
    GAPS_MAX = 1 << 20,
};

struct shared {
    atomic_uint round, mode, arrived, step_us;
    sem_t over; /* who is away may come back */
    _Atomic uint32_t n_gaps[2];
    float gaps_us[2][GAPS_MAX];
};

static struct shared *shared;

static void check(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "crowd_bench: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Of n sorted values. */
static double quantile(const float *values, size_t n, double q)
{
    return (double)values[(size_t)((double)(n - 1) * q)];
}

static struct quern_request request_of(uint32_t *ids, size_t n, uint32_t n_tokens)
{
    struct quern_request r;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    r.n_ids = n;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE;
    r.max_tokens = n_tokens;
    return r;
}

static quern *connected(const struct quernd *service)
{
    quern *q = NULL;
    check(quern_connect(&q, service->socket) == 0, quern_connect_error());
    return q;
}

/* A service that takes a crowd. */
static void start(struct quernd *service, const char *const *model_options, const char *threads)
{
    char policy[120];
    quernd_prepare(service, model_options);
    snprintf(policy, sizeof policy, "%s/policy", service->folder);
    FILE *f = fopen(policy, "w");
    check(f != NULL, policy);
    fputs("[default]\nconnections = 1100\nregion-bytes = 4G\n", f);
    fclose(f);
    quernd_start(service,
                 (const char *const[]){"--context", "512", "--threads", threads, "--connections",
                                       "1100", "--policy", policy, "--sequences", "16", NULL});
}

static void end(struct quernd *service)
{
    quernd_stop(service);
    quernd_remove(service);
}

/* ---- idle clients -------------------------------------------------------------------------- */

/* The service's time for a token: from the first to the final event, by its own clock. The client
 * is away meanwhile, and does not ask to be rung. */
static double token_us(quern *q)
{
    struct quern_event event = QUERN_EVENT_INIT;
    uint32_t ids[4] = {1, 2, 3, 4};
    struct quern_request r = request_of(ids, 4, IDLE_TOKENS);
    uint64_t id;
    check(quern_submit(q, &r, &id) == 0, "submit");
    usleep(15000);
    do
        check(quern_next(q, id, &event, -1) == 0, "next");
    while (event.type != QUERN_EVENT_FINAL);
    quern_event_done(&event);
    return (double)event.u.final_.decode_us / (IDLE_TOKENS - 1);
}

static void bench_idle(void)
{
    static const char *const toy[] = {"--shape", "tiny", "--type", "q8_0", NULL};
    static quern *idle[IDLE_CLIENTS];
    static float us[2][IDLE_ROUNDS], differences[IDLE_ROUNDS];
    struct quernd services[2];
    struct rlimit limit;
    quern *q[2];
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < 2; i++) {
        start(&services[i], toy, "1");
        q[i] = connected(&services[i]);
        token_us(q[i]);
    }
    for (int i = 0; i < IDLE_CLIENTS; i++)
        idle[i] = connected(&services[1]);
    for (int i = 0; i < IDLE_ROUNDS; i++) {
        for (int k = 0; k < 2; k++) {
            int which = (i + k) % 2; /* neither is always the first */
            us[which][i] = (float)token_us(q[which]);
        }
        differences[i] = us[1][i] - us[0][i];
    }
    for (int i = 0; i < 2; i++)
        qsort(us[i], IDLE_ROUNDS, sizeof(float), by_size);
    qsort(differences, IDLE_ROUNDS, sizeof(float), by_size);
    printf("a step alone: %.2f us; with %d idle clients: %.2f us (medians of %d streams)\n",
           quantile(us[0], IDLE_ROUNDS, 0.5), IDLE_CLIENTS, quantile(us[1], IDLE_ROUNDS, 0.5),
           IDLE_ROUNDS);
    printf("fastest streams: %.2f and %.2f us\n", (double)us[0][0], (double)us[1][0]);
    printf("difference of pairs: median %.3f us, quartiles %.3f and %.3f\n",
           quantile(differences, IDLE_ROUNDS, 0.5), quantile(differences, IDLE_ROUNDS, 0.25),
           quantile(differences, IDLE_ROUNDS, 0.75));
    for (int i = 0; i < IDLE_CLIENTS; i++)
        quern_close(idle[i]);
    for (int i = 0; i < 2; i++) {
        quern_close(q[i]);
        end(&services[i]);
    }
}

/* ---- sleeping clients ---------------------------------------------------------------------- */

/* Half of 0.5b's layers, and a small vocabulary: steps of some ten milliseconds. */
static const char *const half_a_model[] = {"--shape", "0.5b",   "--layers", "12", "--n-vocab",
                                           "8192",    "--type", "q8_0",     NULL};

enum wake_mode { ASLEEP, BY_CLOCK, AWAY };

/* Waits for a round, submits, reads: asleep between tokens; one event at a time, a little more slowly
 * than they come, so that each is there already and none is asked to be rung for; or when all is
 * over. */
static _Noreturn void be_sleeper(const struct quernd *service, uint32_t index)
{
    struct quern_event event = QUERN_EVENT_INIT;
    quern *q = connected(service);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    atomic_fetch_add(&shared->arrived, 1);
    for (unsigned round = 1;; round++) {
        uint32_t ids[1] = {index + 1};
        struct quern_request r = request_of(ids, 1, WAKE_TOKENS);
        uint64_t id;
        while (atomic_load(&shared->round) < round)
            usleep(2000);
        check(quern_submit(q, &r, &id) == 0, "submit");
        unsigned mode = atomic_load(&shared->mode), step_us = atomic_load(&shared->step_us);
        while (mode == AWAY && sem_wait(&shared->over) < 0)
            ;
        if (mode == BY_CLOCK)
            usleep(4 * step_us);
        do {
            if (mode == BY_CLOCK)
                usleep(step_us + step_us / 20);
            check(quern_next(q, id, &event, -1) == 0, "next");
        } while (event.type != QUERN_EVENT_FINAL);
        atomic_fetch_add(&shared->arrived, 1);
    }
}

/* One round of all clients: microseconds of a step. */
static float wake_round(const struct quernd *service, unsigned n, enum wake_mode mode)
{
    uint64_t steps = quernd_status(service, "total_steps");
    uint64_t step_us = quernd_status(service, "total_step_us");
    uint64_t finished = quernd_status(service, "total_finished");
    atomic_store(&shared->arrived, 0);
    atomic_store(&shared->mode, mode);
    atomic_store(&shared->round, n + 1);
    do
        usleep(100000); /* each look is a request of its own, in all modes */
    while (quernd_status(service, "total_finished") < finished + WAKE_CLIENTS);
    for (int i = 0; mode == AWAY && i < WAKE_CLIENTS; i++)
        sem_post(&shared->over);
    while (atomic_load(&shared->arrived) < WAKE_CLIENTS)
        usleep(10000);
    steps = quernd_status(service, "total_steps") - steps;
    return (float)(quernd_status(service, "total_step_us") - step_us) / (float)steps;
}

static void run_on(int processor)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    check(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

static void bench_wake(unsigned n_rounds, bool apart)
{
    static const char *const names[WAKE_MODES] = {"asleep and rung", "awake by their own clocks",
                                                  "away"};
    static float us[WAKE_MODES][WAKE_ROUNDS_MAX], ratios[WAKE_MODES][WAKE_ROUNDS_MAX];
    pid_t pids[WAKE_CLIENTS];
    struct quernd service;
    unsigned n = 0;
    check(sem_init(&shared->over, 1, 0) == 0, "sem_init");
    if (apart)
        run_on(0);
    start(&service, half_a_model, apart ? "1" : "2");
    if (apart)
        run_on(1);
    for (uint32_t i = 0; i < WAKE_CLIENTS; i++)
        if ((pids[i] = fork()) == 0)
            be_sleeper(&service, i);
    while (atomic_load(&shared->arrived) < WAKE_CLIENTS)
        usleep(10000);
    for (int i = 0; i < 2; i++) /* the second one is warm */
        atomic_store(&shared->step_us, (unsigned)wake_round(&service, n++, AWAY));
    for (unsigned i = 0; i < n_rounds; i++) {
        for (unsigned k = 0; k < WAKE_MODES; k++) { /* none is always the first */
            unsigned mode = (i + k) % WAKE_MODES;
            us[mode][i] = wake_round(&service, n++, (enum wake_mode)mode);
        }
        for (unsigned k = 0; k < WAKE_MODES; k++)
            ratios[k][i] = us[ASLEEP][i] / us[k][i];
    }
    for (int i = 0; i < WAKE_CLIENTS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    printf("a step of %d sequences, %u rounds of each\n", WAKE_CLIENTS, n_rounds);
    for (unsigned k = 0; k < WAKE_MODES; k++) {
        qsort(us[k], n_rounds, sizeof(float), by_size);
        qsort(ratios[k], n_rounds, sizeof(float), by_size);
        printf("clients %-26s median %.0f us, fastest %.0f; asleep / this: median of pairs %.4f, "
               "quartiles %.4f and %.4f\n",
               names[k], quantile(us[k], n_rounds, 0.5), (double)us[k][0],
               quantile(ratios[k], n_rounds, 0.5), quantile(ratios[k], n_rounds, 0.25),
               quantile(ratios[k], n_rounds, 0.75));
    }
    end(&service);
}

/* ---- a stopped client ---------------------------------------------------------------------- */

static _Noreturn void be_reader(const struct quernd *service, uint32_t index)
{
    struct quern_event event = QUERN_EVENT_INIT;
    quern *q = connected(service);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint32_t n = 0;; n++) {
        uint32_t ids[3] = {index + 1, n % 200 + 1, 7};
        struct quern_request r = request_of(ids, 3, 400);
        double last = 0;
        uint64_t id;
        check(quern_submit(q, &r, &id) == 0, "submit");
        do {
            check(quern_next(q, id, &event, -1) == 0, "next");
            if (event.type != QUERN_EVENT_TOKEN)
                continue;
            double now = now_us();
            unsigned mode = atomic_load(&shared->mode);
            if (last > 0 && index > 0 && mode < 2) {
                uint32_t at = atomic_fetch_add(&shared->n_gaps[mode], 1);
                if (at < GAPS_MAX)
                    shared->gaps_us[mode][at] = (float)(now - last);
            }
            last = now;
        } while (event.type != QUERN_EVENT_FINAL);
    }
}

static void bench_stop(int n_slices, unsigned slice_s)
{
    pid_t pids[STOP_CLIENTS];
    struct quernd service;
    start(&service, half_a_model, "2");
    atomic_store(&shared->mode, 2); /* nobody counts */
    for (uint32_t i = 0; i < STOP_CLIENTS; i++)
        if ((pids[i] = fork()) == 0)
            be_reader(&service, i);
    sleep(2);
    for (int i = 0; i < 2 * n_slices; i++) {
        kill(pids[0], i % 2 ? SIGSTOP : SIGCONT);
        usleep(200000);
        atomic_store(&shared->mode, (unsigned)i % 2);
        sleep(slice_s);
        atomic_store(&shared->mode, 2);
    }
    for (int i = 0; i < STOP_CLIENTS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    for (int i = 0; i < 2; i++) {
        uint32_t n = atomic_load(&shared->n_gaps[i]);
        n = n < GAPS_MAX ? n : GAPS_MAX;
        check(n > 0, "no tokens came");
        qsort(shared->gaps_us[i], n, sizeof(float), by_size);
        printf("the eighth client %s for %d s: %u gaps of the others, p50 %.0f us, p99 %.0f us, "
               "p99.9 %.0f us\n",
               i ? "stopped" : "running", n_slices * (int)slice_s, n,
               quantile(shared->gaps_us[i], n, 0.5), quantile(shared->gaps_us[i], n, 0.99),
               quantile(shared->gaps_us[i], n, 0.999));
    }
    end(&service);
}

int main(int argc, char **argv)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(shared != MAP_FAILED, "mmap");
    if (argc == 2 && strcmp(argv[1], "idle") == 0) {
        bench_idle();
    } else if (argc >= 2 && argc <= 4 && strcmp(argv[1], "wake") == 0 &&
               (argc == 2 || (atoi(argv[2]) > 0 && atoi(argv[2]) <= WAKE_ROUNDS_MAX)) &&
               (argc < 4 || strcmp(argv[3], "apart") == 0)) {
        bench_wake(argc == 2 ? WAKE_ROUNDS : (unsigned)atoi(argv[2]), argc == 4);
    } else if (argc >= 3 && strcmp(argv[1], "stop") == 0 && atoi(argv[2]) > 0 &&
               (argc == 3 || atoi(argv[3]) > 0)) {
        int slice_s = argc == 3 ? STOP_SLICE_S : atoi(argv[3]);
        bench_stop((atoi(argv[2]) + slice_s - 1) / slice_s, (unsigned)slice_s);
    } else {
        fprintf(stderr, "usage: crowd_bench idle | wake [ROUNDS [apart]] | stop SECONDS [SLICE]\n");
        return 64;
    }
    return 0;
}
