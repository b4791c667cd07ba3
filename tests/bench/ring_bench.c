/*
 * What the ring costs, between two processes: records a second through one ring; submit to first
 * look and event to reader, spinning and asleep, beside a raw futex wake and a Unix socket of the
 * same run. Blocks of each are interleaved over ROUNDS rounds, sleepers are cold (1 ms of rest
 * before each wake), and every percentile is of all samples of a kind.
 *
 *   ring_bench [service-cpu client-cpu]     without CPUs: unpinned
 */
#define _GNU_SOURCE
#include "client/quern.h"
#include "ipc/ring.h"
#include "ipc/session.h"
#include "ipc/socket.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS  5
#define COLD    300   /* wakes of each kind and round */
#define HOT     50000 /* spinning hand-overs of each kind and round */
#define RECORDS 4000000
#define ENTRIES 1024

/* Histogram in the manner of HdrHistogram: 16 steps to each power of two, at most 6 % wide. */
struct histogram {
    uint64_t count[64 * 32];
    uint64_t n, max;
};

enum kind {
    FUTEX_ASLEEP,
    SOCKET_ASLEEP,
    EVENTFD_ASLEEP,
    SHUT_ASLEEP,
    SUBMIT_ASLEEP,
    EVENT_ASLEEP,
    SUBMIT_SPINNING,
    EVENT_SPINNING,
    N_KINDS
};

static const char *const kind_names[N_KINDS] = {
    "raw futex wake, asleep",         "unix socket packet, asleep",   "eventfd in poll, asleep",
    "shutdown in epoll, asleep",      "submit to first look, asleep", "event to reader, asleep",
    "submit to first look, spinning", "event to reader, spinning",
};

/* Everything that both processes see, apart from the session under test. */
struct shared {
    struct histogram histograms[N_KINDS];
    uint32_t turn;         /* barrier: counts arrivals */
    uint32_t futex_word;   /* counts wakes */
    uint32_t futex_answer; /* counts answers to them */
    uint32_t event_answer; /* counts answers to the eventfd */
    uint32_t shut_answer;  /* counts answers to the shutdown */
    uint64_t stamp_ns;
    /* Of the throughput ring, each on a line of its writer as in ipc/layout.h. */
    _Alignas(64) uint64_t tail;
    _Alignas(64) uint64_t head;
    _Alignas(64) uint8_t slots[ENTRIES * sizeof(struct ipc_event_record)];
};

static struct shared *shared;
static char path[64];
static int pair[2]; /* for the plain socket */
static int shut[2]; /* for the socket whose direction from 1 to 0 is shut down */
static int event_fd;
static bool one_core; /* who spins there keeps the other from running: nothing of that kind then */

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "ring_bench: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void record(enum kind kind, uint64_t ns)
{
    struct histogram *h = &shared->histograms[kind];
    /* Shifted by its row, a sample is below 32: row 0 has steps of 1, row r steps of 2^r. */
    unsigned row = ns < 32 ? 0 : 59 - (unsigned)__builtin_clzll(ns);

    h->count[row * 32 + (ns >> row)]++;
    h->n++;
    if (ns > h->max)
        h->max = ns;
}

/* The lower edge of the step that the sample of that rank lies in. */
static uint64_t percentile(const struct histogram *h, double p)
{
    uint64_t rank = (uint64_t)((double)h->n * p / 100), seen = 0;

    for (unsigned i = 0; i < 64 * 32; i++) {
        seen += h->count[i];
        if (seen > rank) {
            return (uint64_t)(i % 32) << (i / 32);
        }
    }
    return h->max;
}

static void pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    check(sched_setaffinity(0, sizeof(set), &set) == 0, "pinning");
}

/* Both processes come here before each block. */
static void barrier(uint32_t *turn)
{
    *turn += 2;
    __atomic_fetch_add(&shared->turn, 1, __ATOMIC_SEQ_CST);
    while ((int32_t)(__atomic_load_n(&shared->turn, __ATOMIC_SEQ_CST) - *turn) < 0)
        sched_yield();
}

static long futex(uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* ---- The service's side ------------------------------------------------------------------------- */

static void service_futex(void)
{
    for (uint32_t i = 0; i < COLD; i++) {
        uint32_t seen = __atomic_load_n(&shared->futex_answer, __ATOMIC_SEQ_CST);

        while (__atomic_load_n(&shared->futex_word, __ATOMIC_SEQ_CST) == seen)
            futex(&shared->futex_word, FUTEX_WAIT, seen);
        record(FUTEX_ASLEEP, now_ns() - shared->stamp_ns);
        __atomic_store_n(&shared->futex_answer, seen + 1, __ATOMIC_SEQ_CST);
    }
}

static void service_socket(void)
{
    uint64_t stamp;

    for (uint32_t i = 0; i < COLD; i++) {
        struct pollfd fd = {.fd = pair[0], .events = POLLIN};

        poll(&fd, 1, -1);
        check(recv(pair[0], &stamp, sizeof(stamp), 0) == sizeof(stamp), "recv");
        record(SOCKET_ASLEEP, now_ns() - stamp);
        check(send(pair[0], &stamp, 1, 0) == 1, "send");
    }
}

/* The cheapest doorbell that a program can wait for beside other things. */
static void service_eventfd(void)
{
    uint64_t count;

    for (uint32_t i = 0; i < COLD; i++) {
        uint32_t seen = __atomic_load_n(&shared->event_answer, __ATOMIC_SEQ_CST);
        struct pollfd fd = {.fd = event_fd, .events = POLLIN};

        poll(&fd, 1, -1);
        record(EVENTFD_ASLEEP, now_ns() - shared->stamp_ns);
        check(read(event_fd, &count, sizeof(count)) == sizeof(count), "read");
        __atomic_store_n(&shared->event_answer, seen + 1, __ATOMIC_SEQ_CST);
    }
}

static int watch_alone(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    check(epoll_fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "epoll");
    return epoll_fd;
}

/* The ring's own doorbell, bare. */
static void service_shut(int epoll_fd)
{
    struct epoll_event event;

    for (uint32_t i = 0; i < COLD; i++) {
        uint32_t seen = __atomic_load_n(&shared->shut_answer, __ATOMIC_SEQ_CST);

        check(epoll_wait(epoll_fd, &event, 1, -1) == 1, "epoll_wait");
        record(SHUT_ASLEEP, now_ns() - shared->stamp_ns);
        __atomic_store_n(&shared->shut_answer, seen + 1, __ATOMIC_SEQ_CST);
    }
}

/* Takes a request and answers with its final event, which carries the time of its writing. */
static int service_answer(struct ipc_session *session, enum kind kind)
{
    static uint8_t buffer[1 << 20];
    struct ipc_event_record final = {0};
    struct ipc_request request;
    uint64_t looked_ns = now_ns();
    int r = ipc_session_take(session, &request, buffer, sizeof(buffer));

    if (r <= 0)
        return r;
    record(kind, looked_ns - request.r.seed);
    final.id = request.r.id;
    final.u.final.queue_us = now_ns();
    check(ipc_session_finish(session, &final, NULL) == 0, "finish");
    ipc_session_ring(session);
    return 1;
}

static void service_ring(struct ipc_session *session, int epoll_fd, unsigned n, enum kind kind)
{
    struct epoll_event event;
    unsigned answered = 0;
    bool rung = false;

    while (answered < n) {
        int r = 0;

        if ((ipc_session_poll(session) & (int)IPC_WANT_RECORDS) != 0)
            r = service_answer(session, kind);
        check(r >= 0, "take");
        answered += (unsigned)r;
        if (rung) /* after the look, as quernd does */
            check(ipc_session_receive(session, event.events) >= 0, "receive");
        rung = false;
        if (r == 0 && kind == SUBMIT_ASLEEP && ipc_session_arm(session) == 0) {
            check(epoll_wait(epoll_fd, &event, 1, -1) == 1, "epoll_wait");
            ipc_session_disarm(session);
            rung = true;
        }
    }
}

static void service_throughput(void)
{
    struct ipc_out out = {
        &shared->tail, &shared->head, shared->slots, ENTRIES, sizeof(struct ipc_event_record),
        shared->tail,  shared->tail};
    struct ipc_event_record event = {.type = IPC_EVENT_TOKEN};

    for (uint64_t i = 0; i < RECORDS;) {
        if (ipc_out_has_room(&out, 1) != 1)
            continue;
        event.id = i++;
        ipc_out_put(&out, &event, sizeof(event));
        ipc_out_publish(&out);
    }
}

static void run_service(struct ipc_listener *listener)
{
    struct ipc_session *session;
    struct ipc_peer peer;
    uint32_t turn = 0;

    while (ipc_accept(listener->fd, &peer) < 0)
        sched_yield();
    check(ipc_session_new(&session, &peer) == 0, "session");
    while (ipc_session_receive(session, 0) != IPC_RECEIVED_HELLO)
        sched_yield();
    check(ipc_session_open(session, &ipc_limits_default, 1) == 0, "open");
    int epoll_fd = watch_alone(peer.fd, ipc_session_epoll_events(session));
    int shut_fd = watch_alone(shut[0], IPC_SHUT_BELL_SERVICE);
    struct epoll_event edge;
    while (epoll_wait(shut_fd, &edge, 1, 0) > 0)
        ;
    ipc_session_disarm(session);
    for (int round = 0; round < ROUNDS; round++) {
        barrier(&turn);
        service_futex();
        barrier(&turn);
        service_socket();
        barrier(&turn);
        service_eventfd();
        barrier(&turn);
        service_shut(shut_fd);
        barrier(&turn);
        service_ring(session, epoll_fd, COLD, SUBMIT_ASLEEP);
        if (one_core)
            continue;
        barrier(&turn);
        service_ring(session, epoll_fd, HOT, SUBMIT_SPINNING);
        barrier(&turn);
        service_throughput();
    }
    barrier(&turn);
    ipc_session_leave(session);
}

/* ---- The client's side -------------------------------------------------------------------------- */

static void client_futex(void)
{
    for (uint32_t i = 0; i < COLD; i++) {
        uint32_t seen = __atomic_load_n(&shared->futex_word, __ATOMIC_SEQ_CST);

        usleep(1000);
        shared->stamp_ns = now_ns();
        __atomic_store_n(&shared->futex_word, seen + 1, __ATOMIC_SEQ_CST);
        futex(&shared->futex_word, FUTEX_WAKE, 1);
        while (__atomic_load_n(&shared->futex_answer, __ATOMIC_SEQ_CST) == seen)
            sched_yield();
    }
}

static void client_socket(void)
{
    uint64_t stamp;

    for (uint32_t i = 0; i < COLD; i++) {
        usleep(1000);
        stamp = now_ns();
        check(send(pair[1], &stamp, sizeof(stamp), 0) == sizeof(stamp), "send");
        check(recv(pair[1], &stamp, 1, 0) == 1, "recv");
    }
}

static void client_eventfd(void)
{
    uint64_t one = 1;

    for (uint32_t i = 0; i < COLD; i++) {
        uint32_t seen = __atomic_load_n(&shared->event_answer, __ATOMIC_SEQ_CST);

        usleep(1000);
        shared->stamp_ns = now_ns();
        check(write(event_fd, &one, sizeof(one)) == sizeof(one), "write");
        while (__atomic_load_n(&shared->event_answer, __ATOMIC_SEQ_CST) == seen)
            sched_yield();
    }
}

static void client_shut(void)
{
    for (uint32_t i = 0; i < COLD; i++) {
        uint32_t seen = __atomic_load_n(&shared->shut_answer, __ATOMIC_SEQ_CST);

        usleep(1000);
        shared->stamp_ns = now_ns();
        check(ipc_bell_shut(shut[1], SHUT_WR) == 0, "shutdown");
        while (__atomic_load_n(&shared->shut_answer, __ATOMIC_SEQ_CST) == seen)
            sched_yield();
    }
}

static void client_ring(quern *q, unsigned n, enum kind kind)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    uint64_t id;

    quern_set_spin(q, kind == EVENT_SPINNING ? 1000000 : 0);
    quern_request_init(&r);
    r.input = "x";
    r.input_size = 1;
    r.given = QUERN_GIVEN_SEED;
    for (unsigned i = 0; i < n; i++) {
        if (kind == EVENT_ASLEEP)
            usleep(1000);
        r.seed = now_ns();
        check(quern_submit(q, &r, &id) == 0, "submit");
        check(quern_next(q, id, &event, -1) == 0, "next");
        record(kind, now_ns() - event.u.final_.queue_us);
    }
    quern_event_done(&event);
}

static double client_throughput(void)
{
    struct ipc_in in = {
        &shared->tail, &shared->head, shared->slots, ENTRIES, sizeof(struct ipc_event_record),
        shared->head,  shared->head};
    struct ipc_event_record event;
    uint64_t begin = now_ns();

    for (uint64_t i = 0; i < RECORDS;) {
        if (ipc_in_peek(&in, &event, sizeof(event)) != 1)
            continue;
        check(event.id == i++, "order");
        ipc_in_next(&in);
        if (i % 64 == 0 || i == RECORDS) /* slots go back in batches, as a reader may */
            ipc_in_release(&in);
    }
    return RECORDS * 1e3 / (double)(now_ns() - begin);
}

static void run_client(void)
{
    double mrps[ROUNDS];
    uint32_t turn = 0;
    quern *q;

    check(quern_connect(&q, path) == 0, "connect");
    for (int round = 0; round < ROUNDS; round++) {
        barrier(&turn);
        client_futex();
        barrier(&turn);
        client_socket();
        barrier(&turn);
        client_eventfd();
        barrier(&turn);
        client_shut();
        barrier(&turn);
        client_ring(q, COLD, EVENT_ASLEEP);
        if (one_core)
            continue;
        barrier(&turn);
        client_ring(q, HOT, EVENT_SPINNING);
        barrier(&turn);
        mrps[round] = client_throughput();
    }
    barrier(&turn);
    quern_close(q);

    printf("%-32s %9s %9s %9s %9s %9s %9s  ns\n", "", "p50", "p90", "p99", "p99.9", "p99.99",
           "max");
    for (int k = 0; k < N_KINDS; k++) {
        const struct histogram *h = &shared->histograms[k];

        if (h->n == 0)
            continue;
        printf("%-32s %9llu %9llu %9llu %9llu %9llu %9llu\n", kind_names[k],
               (unsigned long long)percentile(h, 50), (unsigned long long)percentile(h, 90),
               (unsigned long long)percentile(h, 99), (unsigned long long)percentile(h, 99.9),
               (unsigned long long)percentile(h, 99.99), (unsigned long long)h->max);
    }
    if (one_core)
        return;
    printf("records through one ring, million a second:");
    for (int round = 0; round < ROUNDS; round++)
        printf(" %.1f", mrps[round]);
    printf("\n");
}

int main(int argc, char **argv)
{
    int service_cpu = argc > 2 ? atoi(argv[1]) : -1, client_cpu = argc > 2 ? atoi(argv[2]) : -1;
    struct ipc_listener listener;
    char folder[] = "/tmp/quern-bench-XXXXXX", why[200], lock[80];

    one_core = service_cpu >= 0 && service_cpu == client_cpu;
    check(mkdtemp(folder) != NULL, "mkdtemp");
    snprintf(path, sizeof(path), "%s/s", folder);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(shared != MAP_FAILED, "mmap");
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "socketpair");
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, shut) == 0, "socketpair");
    check(ipc_bell_shut(shut[1], SHUT_WR) == 0, "shutdown");
    event_fd = eventfd(0, 0);
    check(event_fd >= 0, "eventfd");
    check(ipc_listener_init(&listener, path, 0600, why, sizeof(why)) == 0, why);
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        pin(service_cpu);
        run_service(&listener);
        _exit(0);
    }
    pin(client_cpu);
    if (client_cpu < 0)
        printf("unpinned\n");
    else
        printf("service on cpu %d, client on cpu %d\n", service_cpu, client_cpu);
    run_client();
    waitpid(child, NULL, 0);
    ipc_listener_done(&listener);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(lock);
    rmdir(folder);
    return 0;
}
