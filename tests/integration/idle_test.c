/* A thousand connected clients that ask for nothing cost nothing: over a while, no thread of
 * quernd and none of the clients uses CPU time or is switched to, although each of them has asked
 * before and waits in an event loop. QUERN_IDLE_SECONDS (60) is how long. */
#define _GNU_SOURCE
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { CLIENTS = 1000 };

static struct quernd service;

static unsigned n_seconds(void)
{
    const char *text = getenv("QUERN_IDLE_SECONDS");
    return text ? (unsigned)strtoul(text, NULL, 10) : 60;
}

/* Asks once on each of its connections, then waits for all of them. */
static _Noreturn void be_clients(int ready)
{
    static quern *q[CLIENTS];
    struct quern_event event = QUERN_EVENT_INIT;
    struct epoll_event got;
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < CLIENTS; i++) {
        struct quern_request r;
        struct quern_result result;
        uint32_t ids[3] = {1, 2, 3};
        quern_request_init(&r);
        r.kind = QUERN_INPUT_IDS;
        r.ids = ids;
        r.n_ids = 3;
        r.given = QUERN_GIVEN_MAX_TOKENS;
        r.max_tokens = 2;
        if (quern_connect(&q[i], service.socket) < 0 ||
            quern_generate(q[i], &r, NULL, NULL, &result) < 0 || result.final_.code != 0) {
            fprintf(stderr, "client %d: %s\n", i, quern_connect_error());
            _exit(1);
        }
        struct epoll_event one = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (quern_next(q[i], 0, &event, 0) != -EAGAIN || /* arms it */
            epoll_ctl(epoll_fd, EPOLL_CTL_ADD, quern_fd(q[i]), &one) < 0)
            _exit(2);
    }
    if (write(ready, "!", 1) != 1)
        _exit(3);
    for (;;) { /* until it is killed; a doorbell of the answer before may still have come */
        if (epoll_wait(epoll_fd, &got, 1, -1) == 1 &&
            quern_next(q[got.data.u32], 0, &event, 0) != -EAGAIN)
            _exit(4);
    }
}

static void a_thousand_idle_clients(void **state)
{
    int ready[2], status;
    char byte;
    (void)state;
    assert_int_equal(pipe(ready), 0);
    struct quernd clients = {.pid = fork()};
    if (clients.pid == 0)
        be_clients(ready[1]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(quernd_status(&service, "clients"), CLIENTS + 1);
    sleep(3); /* the watchdog's grace */
    struct quernd_usage before = quernd_usage(&service), clients_before = quernd_usage(&clients);
    sleep(n_seconds());
    struct quernd_usage after = quernd_usage(&service), clients_after = quernd_usage(&clients);
    printf("%d clients, %u s: CPU ticks %llu and %llu, context switches %llu and %llu\n", CLIENTS,
           n_seconds(), (unsigned long long)(after.cpu_ticks - before.cpu_ticks),
           (unsigned long long)(clients_after.cpu_ticks - clients_before.cpu_ticks),
           (unsigned long long)(after.context_switches - before.context_switches),
           (unsigned long long)(clients_after.context_switches - clients_before.context_switches));
    assert_int_equal(after.cpu_ticks, before.cpu_ticks);
    assert_int_equal(after.context_switches, before.context_switches);
    assert_int_equal(clients_after.cpu_ticks, clients_before.cpu_ticks);
    assert_int_equal(clients_after.context_switches, clients_before.context_switches);
    kill(clients.pid, SIGKILL);
    assert_int_equal(waitpid(clients.pid, &status, 0), clients.pid);
    for (int i = 0; i < 500 && quernd_status(&service, "clients") != 1; i++)
        usleep(20000);
    assert_int_equal(quernd_status(&service, "clients"), 1);
}

static int prepare(void **state)
{
    char policy[120];
    struct rlimit limit;
    (void)state;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < 3 * CLIENTS) { /* quernd has five for each client */
        printf("1,000 clients need %d descriptors, and %lu are allowed\n", 5 * CLIENTS,
               (unsigned long)limit.rlim_max);
        exit(77);
    }
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    snprintf(policy, sizeof policy, "%s/policy", service.folder);
    FILE *f = fopen(policy, "w");
    if (!f)
        return -1;
    fputs("[default]\nconnections = 1100\nregion-bytes = 4G\n", f);
    fclose(f);
    quernd_start(&service,
                 (const char *const[]){"--context", "256", "--threads", "2", "--connections",
                                       "1100", "--policy", policy, NULL});
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
#ifdef __SANITIZE_THREAD__
    printf("the runtime of ThreadSanitizer has a thread of its own that wakes\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_thousand_idle_clients)};
    return cmocka_run_group_tests(tests, prepare, finish);
}
