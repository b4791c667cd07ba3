/*
 * Connect, submit, die: thousands of clients that are killed at random points, and a service that
 * is killed under its clients. Descriptors, maps and memory of the surviving side stay flat.
 * QUERN_STRESS_CYCLES (2,000) sets the number of clients; 100,000 is the run by hand.
 */
#define _GNU_SOURCE
#include "client/quern.h"
#include "tests/support/echo_service.h"
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define AT_ONCE 8

static char folder[64], path[96];

static unsigned long n_cycles(void)
{
    const char *text = getenv("QUERN_STRESS_CYCLES");

    return text != NULL ? strtoul(text, NULL, 10) : 2000;
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static int n_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static int n_ring_maps(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int n = 0;

    while (fgets(line, sizeof(line), maps) != NULL)
        n += strstr(line, "memfd:quern-") != NULL;
    fclose(maps);
    return n;
}

static long resident_kb(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kb = -1;

    while (fgets(line, sizeof(line), status) != NULL)
        sscanf(line, "VmRSS: %ld kB", &kb);
    fclose(status);
    return kb;
}

/* Asks for ever, and checks every byte until it is killed or the service goes. */
static _Noreturn void ask_for_ever(unsigned salt)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    char text[32];
    uint64_t id;
    quern *q;

    snprintf(text, sizeof(text), "question %u", salt);
    if (quern_connect(&q, path) < 0)
        _exit(0);
    for (;;) {
        uint32_t n = 0;

        quern_request_init(&r);
        r.input = text;
        r.input_size = strlen(text);
        r.given = QUERN_GIVEN_MAX_TOKENS;
        r.max_tokens = 300;
        int e = quern_submit(q, &r, &id);
        while (e == 0 && (e = quern_next(q, id, &event, -1)) == 0 &&
               event.type != QUERN_EVENT_FINAL) {
            if (event.type == QUERN_EVENT_TOKEN &&
                (event.u.token.index != n || event.data[0] != text[n % strlen(text)]))
                _exit(1);
            n += event.type == QUERN_EVENT_TOKEN;
        }
        if (e == -ECONNRESET)
            _exit(0);
        if (e != 0 || n != 300)
            _exit(1);
    }
}

static pid_t start_client(unsigned salt)
{
    pid_t pid = fork();

    if (pid == 0) {
        close_range(3, ~0u, 0);
        ask_for_ever(salt);
    }
    return pid;
}

static void *run_echo(void *arg)
{
    echo_run(arg, false);
    return NULL;
}

static void test_clients_die(void **state)
{
    struct echo_options options = {.path = path, .limits = ipc_limits_default};
    struct echo_service *echo = echo_new(&options);
    unsigned long cycles = n_cycles();
    uint64_t s = 88172645463325252u;
    int fds = n_open_fds(), status;
    pid_t pids[AT_ONCE];
    pthread_t thread;
    long warm_kb = 0;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, run_echo, echo), 0);
    for (unsigned i = 0; i < AT_ONCE; i++)
        pids[i] = start_client(i);
    for (unsigned long i = 0; i < cycles; i++) {
        pid_t *victim = &pids[next_random(&s) % AT_ONCE];

        usleep((useconds_t)(next_random(&s) % 3000 / AT_ONCE));
        kill(*victim, SIGKILL);
        assert_int_equal(waitpid(*victim, &status, 0), *victim);
        assert_true(WIFSIGNALED(status)); /* it had seen no wrong byte */
        *victim = start_client((unsigned)i);
        if (i == cycles / 4)
            warm_kb = resident_kb();
    }
    for (unsigned i = 0; i < AT_ONCE; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    for (int i = 0; i < 1000 && (n_open_fds() != fds || n_ring_maps() != 0); i++)
        usleep(10000);
    assert_int_equal(n_open_fds(), fds);
    assert_int_equal(n_ring_maps(), 0);
    printf("clients: %lu, resident kB after a quarter and at the end: %ld, %ld\n", cycles, warm_kb,
           resident_kb());
#ifndef QUERN_SANITIZE /* whose allocators keep what was freed */
    assert_in_range(resident_kb(), 0, warm_kb + 2048);
#endif
    echo_stop(echo);
    pthread_join(thread, NULL);
    assert_int_equal(echo_counts(echo)->violations, 0);
    echo_free(echo);
}

static pid_t start_service(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        struct echo_options options = {.path = path, .limits = ipc_limits_default};

        close_range(3, ~0u, 0);
        echo_run(echo_new(&options), false);
        _exit(0);
    }
    return pid;
}

static void test_services_die(void **state)
{
    unsigned long cycles = n_cycles() / 50;
    uint64_t s = 362436069;
    int status;

    (void)state;
    for (unsigned long i = 0; i < cycles; i++) {
        pid_t service = start_service(), clients[4];

        while (access(path, F_OK) != 0)
            usleep(200);
        for (unsigned k = 0; k < 4; k++)
            clients[k] = start_client(k);
        usleep((useconds_t)(next_random(&s) % 30000));
        kill(service, SIGKILL);
        waitpid(service, NULL, 0);
        /* Each of them learns of it at once and by itself. */
        for (unsigned k = 0; k < 4; k++) {
            assert_int_equal(waitpid(clients[k], &status, 0), clients[k]);
            assert_true(WIFEXITED(status));
            assert_int_equal(WEXITSTATUS(status), 0);
        }
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clients_die),
        cmocka_unit_test(test_services_die),
    };
    char lock[128];

    snprintf(folder, sizeof(folder), "/tmp/quern-stress-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof(path), "%s/s", folder);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(lock);
    rmdir(folder);
    return r;
}
