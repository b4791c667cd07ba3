/* A streamed answer of 256 tokens makes no system call, in the client or in any thread of quernd,
 * while both are awake: every call of both processes is counted with ptrace.
 *
 * The machine may take a side off its processor for so long that the other rightly goes to sleep,
 * so a few streams are tried; one without a single call shows that none is needed. */
#define _GNU_SOURCE
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { TOKENS = 300, FIRST = 20, LAST = 276, TRIES = 40 };

struct shared {
    atomic_bool traced, streaming, wrong;
};

static struct quernd service;
static struct shared *shared;

/* The client: one stream after the other, and between its tokens nothing but memory. */
static _Noreturn void be_client(void)
{
    struct quern_event event = QUERN_EVENT_INIT;
    static uint32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    quern *q;
    uint64_t id;
    while (!atomic_load(&shared->traced))
        usleep(1000);
    if (quern_connect(&q, service.socket) < 0)
        _exit(1);
    quern_set_spin(q, 10000000);
    struct quern_request r;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    r.n_ids = 8;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS;
    r.max_tokens = TOKENS;
    if (quern_submit(q, &r, &id) < 0)
        _exit(2);
    do {
        if (quern_next(q, id, &event, -1) < 0)
            _exit(3);
        if (event.type != QUERN_EVENT_TOKEN)
            continue;
        if (event.u.token.index == FIRST)
            atomic_store(&shared->streaming, true);
        if (event.u.token.index == LAST)
            atomic_store(&shared->streaming, false);
    } while (event.type != QUERN_EVENT_FINAL);
    quern_close(q);
    _exit(event.u.final_.generated == TOKENS ? 0 : 4);
}

static bool seize(pid_t tid)
{
    return ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE) == 0 &&
           ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) == 0;
}

static void seize_all_threads(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && !seize((pid_t)atoi(e->d_name))) {
            printf("this process may not trace others: %s\n", path);
            exit(77);
        }
    closedir(d);
}

struct counts {
    unsigned client, service, while_streaming; /* stops, two for each call */
};

/* Lets all run until the client ends. Its exit status. */
static int trace(pid_t client, struct counts *ret)
{
    for (;;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL);
        assert_true(tid > 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (tid == client)
                return status;
            continue;
        }
        int signal = WSTOPSIG(status), deliver = 0;
        if (signal == (SIGTRAP | 0x80)) {
            *(tid == client ? &ret->client : &ret->service) += 1;
            ret->while_streaming += atomic_load(&shared->streaming);
        } else if (status >> 16 == 0) {
            deliver = signal;
        }
        ptrace(PTRACE_SYSCALL, tid, NULL, deliver);
    }
}

/* Stops tracing the service, so that the test can go on with it. */
static void let_go(pid_t pid)
{
    char path[64];
    int status;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        pid_t tid = (pid_t)atoi(e->d_name);
        if (e->d_name[0] == '.' || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
            continue;
        waitpid(tid, &status, __WALL);
        ptrace(PTRACE_DETACH, tid, NULL, 0);
    }
    closedir(d);
}

static void no_calls_while_streaming(void **state)
{
    unsigned fewest = UINT32_MAX;
    (void)state;
    for (int i = 0; i < TRIES && fewest > 0; i++) {
        struct counts counts = {0};
        atomic_store(&shared->traced, false);
        atomic_store(&shared->streaming, false);
        pid_t client = fork();
        if (client == 0)
            be_client();
        seize_all_threads(service.pid);
        assert_true(seize(client));
        atomic_store(&shared->traced, true);
        int status = trace(client, &counts);
        let_go(service.pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        /* The counting works: connecting, submitting and hanging up are calls. */
        assert_true(counts.client >= 10 && counts.service >= 10);
        if (counts.while_streaming < fewest)
            fewest = counts.while_streaming;
        printf("stream %d: %u stops at system calls while streaming, %u + %u in all\n", i,
               counts.while_streaming, counts.client, counts.service);
    }
    assert_int_equal(fewest, 0);
}

static int prepare(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    /* One thread: workers that wait for one another for long may sleep on a futex. */
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "1", NULL});
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
#ifdef QUERN_SANITIZE
    printf("the runtimes of sanitizers make system calls of their own\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_calls_while_streaming)};
    return cmocka_run_group_tests(tests, prepare, finish);
}
