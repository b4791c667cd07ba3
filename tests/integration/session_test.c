/*
 * libquern against the session API, with the echo service in a process (or thread) of its own: what
 * two honest sides do. Liars are in hostile_test.c.
 */
#define _GNU_SOURCE
#include "client/quern.h"
#include "tests/support/echo_service.h"
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[96];

struct fixture {
    struct echo_service *echo;
    pthread_t thread;
};

static void *run_echo(void *arg)
{
    echo_run(arg, false);
    return NULL;
}

static struct fixture start(struct ipc_limits limits)
{
    struct echo_options options = {.path = path, .limits = limits, .spin_rounds = 2};
    struct fixture f = {.echo = echo_new(&options)};

    assert_int_equal(pthread_create(&f.thread, NULL, run_echo, f.echo), 0);
    return f;
}

static void stop(struct fixture *f)
{
    echo_stop(f->echo);
    pthread_join(f->thread, NULL);
    assert_int_equal(echo_counts(f->echo)->violations, 0);
    echo_free(f->echo);
}

static struct quern_request text_request(const char *text, uint32_t max_tokens)
{
    struct quern_request r;

    quern_request_init(&r);
    r.input = text;
    r.input_size = strlen(text);
    if (max_tokens > 0) {
        r.given = QUERN_GIVEN_MAX_TOKENS;
        r.max_tokens = max_tokens;
    }
    return r;
}

struct collected {
    char text[100000];
    size_t n;
    unsigned accepted;
    int stop_after; /* −1: never */
};

static int collect(void *arg, const struct quern_event *event)
{
    struct collected *c = arg;

    if (event->type == QUERN_EVENT_ACCEPTED)
        c->accepted++;
    if (event->type == QUERN_EVENT_TOKEN) {
        assert_int_equal(event->u.token.index, c->n);
        assert_int_equal(event->data_size, 1);
        assert_int_equal(event->u.token.token, (uint8_t)event->data[0]);
        c->text[c->n++] = event->data[0];
    }
    return c->stop_after >= 0 && c->n >= (size_t)c->stop_after;
}

static void test_generate(void **state)
{
    struct fixture f = start(ipc_limits_default);
    static struct collected c;
    struct quern_result result;
    quern *q;

    (void)state;
    c = (struct collected){.stop_after = -1};
    assert_int_equal(quern_connect(&q, path), 0);
    struct quern_request r = text_request("mill", 10);
    assert_int_equal(quern_generate(q, &r, collect, &c, &result), 0);
    assert_int_equal(c.accepted, 1);
    assert_int_equal(c.n, 10);
    assert_memory_equal(c.text, "millmillmi", 10);
    assert_int_equal(result.final_.reason, QUERN_REASON_LENGTH);
    assert_int_equal(result.final_.code, QUERN_CODE_OK);
    assert_int_equal(result.final_.generated, 10);
    assert_int_equal(result.final_.prompt_tokens, 4);
    quern_close(q);
    stop(&f);
}

/* Far more events than the smallest ring has slots, and a reader who stops now and then: the
 * sequence parks, and nothing is lost. */
static void test_back_pressure(void **state)
{
    struct ipc_limits limits = ipc_limits_default;
    struct quern_event event = QUERN_EVENT_INIT;
    uint64_t id;
    quern *q;

    (void)state;
    limits.preset = (struct ipc_sizes){8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN};
    struct fixture f = start(limits);
    assert_int_equal(quern_connect(&q, path), 0);
    struct quern_request r = text_request("abcdefghijklmnopqrstuvwxyz", 30000);
    assert_int_equal(quern_submit(q, &r, &id), 0);
    uint32_t next = 0;
    for (unsigned i = 0;; i++) {
        if (i % 5000 == 100)
            usleep(20000);
        assert_int_equal(quern_next(q, id, &event, 10000), 0);
        if (event.type == QUERN_EVENT_FINAL)
            break;
        if (event.type == QUERN_EVENT_TOKEN) {
            assert_int_equal(event.u.token.index, next);
            assert_int_equal(event.data[0], 'a' + (char)(next % 26));
            next++;
        }
    }
    assert_int_equal(next, 30000);
    assert_int_equal(quern_next(q, id, &event, 0), -ENOENT);
    quern_event_done(&event);
    quern_close(q);
    stop(&f);
}

static void test_cancel(void **state)
{
    struct fixture f = start(ipc_limits_default);
    static struct collected c;
    struct quern_result result;
    quern *q;

    (void)state;
    c = (struct collected){.stop_after = 3};
    assert_int_equal(quern_connect(&q, path), 0);
    struct quern_request r = text_request("x", 50000000);
    assert_int_equal(quern_generate(q, &r, collect, &c, &result), 0);
    assert_int_equal(result.final_.reason, QUERN_REASON_CANCELLED);
    assert_int_equal(quern_cancel(q, 1), -ENOENT);
    quern_close(q);
    stop(&f);
}

static void test_mistakes_are_explained(void **state)
{
    struct fixture f = start(ipc_limits_default);
    struct quern_result result;
    uint64_t id = 77;
    quern *q;

    (void)state;
    assert_int_equal(quern_connect(&q, path), 0);
    struct quern_request r = text_request("x", 1);
    r.given |= QUERN_GIVEN_TEMPERATURE;
    r.temperature = -1;
    assert_int_equal(quern_submit(q, &r, &id), -EINVAL);
    assert_non_null(strstr(quern_error(q), "temperature is -1"));
    assert_int_equal(id, 77);

    r = text_request("x", 1);
    r.input_size = quern_input_max(q) + 1;
    assert_int_equal(quern_submit(q, &r, &id), -EMSGSIZE);

    r = text_request("x", 0);
    r.op = QUERN_OP_SCORE;
    assert_int_equal(quern_generate(q, &r, NULL, NULL, &result), 0);
    assert_int_equal(result.final_.reason, QUERN_REASON_FAILED);
    assert_int_equal(result.final_.code, QUERN_CODE_UNSUPPORTED);
    assert_string_equal(result.sentence, "The echo cannot do that.");
    quern_close(q);

    assert_int_equal(quern_connect(&q, "/nonexistent/quern.sock"), -ENOENT);
    assert_non_null(strstr(quern_connect_error(), "/nonexistent/quern.sock"));
    stop(&f);
}

/* Many requests of one thread at once, read in the order in which events come. */
static void test_many_requests(void **state)
{
    struct fixture f = start(ipc_limits_default);
    struct quern_event event = QUERN_EVENT_INIT;
    uint32_t got[200] = {0};
    unsigned finals = 0, submitted = 0;
    quern *q;

    (void)state;
    assert_int_equal(quern_connect(&q, path), 0);
    while (finals < 200) {
        while (submitted < 200 && submitted - finals < 60) {
            struct quern_request r = text_request("hello", 40);
            uint64_t id;
            int e = quern_submit(q, &r, &id);

            if (e == -EAGAIN)
                break;
            assert_int_equal(e, 0);
            submitted++;
            assert_int_equal(id, submitted);
        }
        assert_int_equal(quern_next(q, 0, &event, 10000), 0);
        assert_in_range(event.id, 1, submitted);
        if (event.type == QUERN_EVENT_TOKEN)
            assert_int_equal(event.u.token.index, got[event.id - 1]++);
        if (event.type == QUERN_EVENT_FINAL) {
            assert_int_equal(event.u.final_.reason, QUERN_REASON_LENGTH);
            assert_int_equal(got[event.id - 1], 40);
            finals++;
        }
    }
    quern_event_done(&event);
    quern_close(q);
    stop(&f);
}

static void *submit_and_wait(void *arg)
{
    quern *q = arg;

    for (unsigned i = 0; i < 60; i++) {
        struct collected *c = calloc(1, sizeof(*c));
        struct quern_result result;
        char text[32];

        snprintf(text, sizeof(text), "%lx-%u", (unsigned long)pthread_self(), i);
        c->stop_after = -1;
        struct quern_request r = text_request(text, 0);
        if (quern_generate(q, &r, collect, c, &result) != 0 || c->n != strlen(text) ||
            memcmp(c->text, text, c->n) != 0 || result.final_.reason != QUERN_REASON_LENGTH) {
            free(c);
            return "wrong answer";
        }
        free(c);
    }
    return NULL;
}

/* Eight threads share one handle, through rings too small for them. */
static void test_threads(void **state)
{
    struct ipc_limits limits = ipc_limits_default;
    pthread_t threads[8];
    quern *q;

    (void)state;
    limits.preset = (struct ipc_sizes){8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN};
    struct fixture f = start(limits);
    assert_int_equal(quern_connect(&q, path), 0);
    quern_set_spin(q, 5);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_and_wait, q), 0);
    for (int i = 0; i < 8; i++) {
        void *wrong;

        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    quern_close(q);
    stop(&f);
}

/* Foreign event loops: only an empty quern_next allows a wait for the fd, and then the wait always
 * ends. Each of these waits at most 10 s; 0 when the fd became readable. */
struct loop {
    int epoll_fd;
    struct io_uring ring;
    uint32_t epoll_flags;
};

static int wait_poll(struct loop *loop, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    (void)loop;
    return poll(&p, 1, 10000) == 1 ? 0 : -ETIME;
}

static int wait_epoll(struct loop *loop, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | loop->epoll_flags};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EEXIST)
        return -errno;
    return epoll_wait(loop->epoll_fd, &event, 1, 10000) == 1 ? 0 : -ETIME;
}

static int wait_io_uring(struct loop *loop, int fd)
{
    struct __kernel_timespec limit = {.tv_sec = 10};
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
    struct io_uring_cqe *cqe;

    io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_submit(&loop->ring);
    int r = io_uring_wait_cqe_timeout(&loop->ring, &cqe, &limit);
    if (r == 0) {
        r = cqe->res > 0 ? 0 : -EIO;
        io_uring_cqe_seen(&loop->ring, cqe);
    }
    return r;
}

/* Answers of 20 tokens, three requests at a time, by this way of waiting. */
static void run_loop(struct loop *loop, int (*wait)(struct loop *, int))
{
    struct fixture f = start(ipc_limits_default);
    struct quern_event event = QUERN_EVENT_INIT;
    unsigned n_waits = 0;
    quern *q;

    assert_int_equal(quern_connect(&q, path), 0);
    for (unsigned round = 0; round < 100; round++) {
        struct quern_request r = text_request("abc", 20);
        unsigned tokens = 0, finals = 0;
        uint64_t id;

        for (int i = 0; i < 3; i++)
            assert_int_equal(quern_submit(q, &r, &id), 0);
        while (finals < 3) {
            int e = quern_next(q, 0, &event, 0);

            if (e == -EAGAIN) {
                assert_int_equal(wait(loop, quern_fd(q)), 0);
                n_waits++;
                continue;
            }
            assert_int_equal(e, 0);
            tokens += event.type == QUERN_EVENT_TOKEN;
            finals += event.type == QUERN_EVENT_FINAL;
        }
        assert_int_equal(tokens, 60);
    }
    assert_true(n_waits > 0);
    quern_event_done(&event);
    quern_close(q);
    stop(&f);
}

static void test_event_loop_poll(void **state)
{
    struct loop loop = {0};

    (void)state;
    run_loop(&loop, wait_poll);
}

/* Level- and edge-triggered: after the empty quern_next the next doorbell is always a new edge,
 * since it drained the socket before it looked. */
static void test_event_loop_epoll(void **state)
{
    static const uint32_t flags[] = {0, EPOLLET};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct loop loop = {.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .epoll_flags = flags[i]};

        assert_true(loop.epoll_fd >= 0);
        run_loop(&loop, wait_epoll);
        close(loop.epoll_fd);
    }
}

static void test_event_loop_io_uring(void **state)
{
    struct loop loop = {0};

    (void)state;
    int r = io_uring_queue_init(8, &loop.ring, 0);
    if (r < 0) {
        print_message("io_uring is not to be had: %s\n", strerror(-r));
        skip();
    }
    run_loop(&loop, wait_io_uring);
    io_uring_queue_exit(&loop.ring);
}

/* A child of fork gets errors, and the parent's connection goes on unharmed. */
static void test_fork(void **state)
{
    struct fixture f = start(ipc_limits_default);
    struct quern_event event = QUERN_EVENT_INIT;
    static struct collected c;
    struct quern_result result;
    int status;
    quern *q;

    (void)state;
    assert_int_equal(quern_connect(&q, path), 0);
    pid_t child = fork();
    if (child == 0) {
        struct quern_request r = text_request("x", 1);
        uint64_t id;
        bool ok = quern_submit(q, &r, &id) == -EOWNERDEAD &&
                  quern_next(q, 0, &event, 0) == -EOWNERDEAD && quern_cancel(q, 1) == -EOWNERDEAD &&
                  strstr(quern_error(q), "fork") != NULL;

        quern_close(q);
        _exit(ok ? 0 : 1);
    }
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    c = (struct collected){.stop_after = -1};
    struct quern_request r = text_request("still here", 0);
    assert_int_equal(quern_generate(q, &r, collect, &c, &result), 0);
    assert_int_equal(c.n, 10);
    quern_close(q);
    stop(&f);
}

static pid_t start_process(void)
{
    pid_t child = fork();

    if (child == 0) {
        struct echo_options options = {.path = path, .limits = ipc_limits_default};

        echo_run(echo_new(&options), false);
        _exit(0);
    }
    return child;
}

static void wait_for_service(quern **ret)
{
    for (int i = 0; i < 1000 && quern_connect(ret, path) != 0; i++)
        usleep(10000);
}

/* Between two processes; then the service is killed under a client that waits. Its successor
 * replaces the socket that was left behind. */
static void test_service_killed(void **state)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_result result;
    static struct collected c;
    quern *q = NULL;
    uint64_t id;
    int e;

    (void)state;
    for (int round = 0; round < 2; round++) {
        pid_t service = start_process();

        wait_for_service(&q);
        assert_non_null(q);
        c = (struct collected){.stop_after = -1};
        struct quern_request r = text_request("two processes", 0);
        assert_int_equal(quern_generate(q, &r, collect, &c, &result), 0);
        assert_memory_equal(c.text, "two processes", 13);
        kill(service, SIGSTOP);
        r = text_request("z", 100000);
        assert_int_equal(quern_submit(q, &r, &id), 0);
        assert_int_equal(quern_next(q, id, &event, 50), -EAGAIN); /* stopped is not dead */
        kill(service, SIGKILL);
        waitpid(service, NULL, 0);
        while ((e = quern_next(q, id, &event, -1)) == 0)
            assert_int_not_equal(event.type, QUERN_EVENT_FINAL);
        assert_int_equal(e, -ECONNRESET);
        assert_int_equal(quern_submit(q, &r, &id), -ECONNRESET);
        quern_close(q);
        q = NULL;
    }
    quern_event_done(&event);
    unlink(path);
}

static void test_second_service_refused(void **state)
{
    struct fixture f = start(ipc_limits_default);
    struct ipc_listener listener;
    char why[200];

    (void)state;
    assert_int_equal(ipc_listener_init(&listener, path, 0600, why, sizeof(why)), -EADDRINUSE);
    assert_non_null(strstr(why, path));
    stop(&f);
    assert_int_equal(access(path, F_OK), -1);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(ipc_listener_init(&listener, path, 0600, why, sizeof(why)), -EEXIST);
    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
}

static void test_full_house(void **state)
{
    struct echo_options options = {.path = path, .limits = ipc_limits_default, .sessions_max = 2};
    struct fixture f = {.echo = echo_new(&options)};
    quern *q[3];

    (void)state;
    assert_int_equal(pthread_create(&f.thread, NULL, run_echo, f.echo), 0);
    assert_int_equal(quern_connect(&q[0], path), 0);
    assert_int_equal(quern_connect(&q[1], path), 0);
    assert_int_equal(quern_connect(&q[2], path), -EBUSY);
    assert_non_null(strstr(quern_connect_error(), "too many"));
    quern_close(q[0]);
    quern_close(q[1]);
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_mistakes_are_explained),
        cmocka_unit_test(test_many_requests),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_event_loop_poll),
        cmocka_unit_test(test_event_loop_epoll),
        cmocka_unit_test(test_event_loop_io_uring),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_service_killed),
        cmocka_unit_test(test_second_service_refused),
        cmocka_unit_test(test_full_house),
    };
    char lock[128];

    snprintf(folder, sizeof(folder), "/tmp/quern-session-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof(path), "%s/s", folder);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(lock);
    rmdir(folder);
    return r;
}
