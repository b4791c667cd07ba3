/* Both sides as threads over one mapping, which is what ThreadSanitizer can see: it knows memory by
 * its address, and two maps of one memfd are two addresses to it. The library's handle is led to
 * the service's own maps, and then everything is run that the two do to each other's memory:
 * requests from several threads, back-pressure, cancels, sleep and wake.
 *
 * Without a sanitizer the test runs as well, and compares every byte. */
#define _GNU_SOURCE
#include "client/lib/handle.h"
#include "tests/support/echo_service.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define N_THREADS 4

static char folder[64], path[96];

static void *run_echo(void *arg)
{
    echo_run(arg, false);
    return NULL;
}

/* The other map of this region: the one that the service made. A locked beginning makes two lines of
 * one map, so the offset is looked at. */
static uint8_t *find_other_map(const char *name, const struct ipc_region *region)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    uint8_t *found = NULL;

    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        unsigned long begin, offset;

        if (strstr(line, name) != NULL && sscanf(line, "%lx-%*x %*s %lx", &begin, &offset) == 2 &&
            offset == 0 && (uint8_t *)begin != region->base)
            found = (uint8_t *)begin;
    }
    fclose(maps);
    return found;
}

/* The request region is mapped when the service has seen that it is sealed. */
static uint8_t *other_map(const char *name, const struct ipc_region *region)
{
    uint8_t *found = NULL;

    for (int i = 0; !found && i < 1000; i++) {
        found = find_other_map(name, region);
        usleep(10000);
    }
    assert_non_null(found);
    return found;
}

#define MOVE(pointer, by) ((pointer) = (void *)((uintptr_t)(pointer) + (uintptr_t)(by)))

/* Leads every pointer of the handle that many bytes further, in either region. */
static void move(quern *q, ptrdiff_t request, ptrdiff_t reply)
{
    MOVE(q->submit.tail, request);
    MOVE(q->submit.slots, request);
    MOVE(q->submit.head, reply);
    MOVE(q->events.tail, reply);
    MOVE(q->events.slots, reply);
    MOVE(q->events.head, request);
    MOVE(q->bytes.base, reply);
    MOVE(q->bytes.head, request);
    MOVE(q->want.word, request);
    MOVE(q->bell.word, reply);
    MOVE(q->request.base, request);
}

static int count(void *arg, const struct quern_event *event)
{
    uint32_t *n = arg;

    if (event->type == QUERN_EVENT_TOKEN &&
        (event->u.token.index != *n || event->data[0] != "millstone"[*n % 9]))
        return 1;
    *n += event->type == QUERN_EVENT_TOKEN;
    return *n == 77; /* some are cancelled */
}

static void *ask(void *arg)
{
    quern *q = arg;

    for (unsigned i = 0; i < 150; i++) {
        struct quern_result result;
        struct quern_request r;
        uint32_t n = 0, wanted = i % 16 == 0 ? 100 : 1 + i % 70;

        quern_request_init(&r);
        r.input = "millstone";
        r.input_size = 9;
        r.given = QUERN_GIVEN_MAX_TOKENS;
        r.max_tokens = wanted;
        if (quern_generate(q, &r, count, &n, &result) != 0)
            return "a request failed";
        if (n != (wanted > 77 ? 77 : wanted)) /* no event is handed out after the stop */
            return "a wrong answer";
    }
    return NULL;
}

static void both_sides_over_one_mapping(void **state)
{
    struct echo_options options = {.path = path, .limits = ipc_limits_default};
    pthread_t service, threads[N_THREADS];
    quern *q;

    (void)state;
    /* The smallest rings: full again and again. */
    options.limits.preset = (struct ipc_sizes){8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN};
    struct echo_service *echo = echo_new(&options);
    assert_int_equal(pthread_create(&service, NULL, run_echo, echo), 0);
    assert_int_equal(quern_connect(&q, path), 0);
    ptrdiff_t request = other_map("memfd:quern-request", &q->request) - q->request.base;
    ptrdiff_t reply = other_map("memfd:quern-reply", &q->reply) - q->reply.base;
    /* The service maps it for reading alone, and nobody can map it for writing any more: a second
     * view of the client's map takes the place of the service's, which sleeps. */
    usleep(200000);
    assert_ptr_equal(mremap(q->request.base, 0, q->request.size, MREMAP_MAYMOVE | MREMAP_FIXED,
                            q->request.base + request),
                     q->request.base + request);
    move(q, request, reply);
    for (int spin_us = 0; spin_us <= 20; spin_us += 20) {
        quern_set_spin(q, (unsigned)spin_us);
        for (int i = 0; i < N_THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, ask, q), 0);
        for (int i = 0; i < N_THREADS; i++) {
            void *wrong;

            pthread_join(threads[i], &wrong);
            if (wrong != NULL)
                fail_msg("%s", (const char *)wrong);
        }
    }
    move(q, -request, -reply); /* quern_close unmaps what quern_connect mapped */
    quern_close(q);
    echo_stop(echo);
    pthread_join(service, NULL);
    assert_int_equal(echo_counts(echo)->violations, 0);
    assert_int_equal(echo_counts(echo)->finals, 2 * N_THREADS * 150);
    echo_free(echo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(both_sides_over_one_mapping)};
    char lock[128];

    snprintf(folder, sizeof(folder), "/tmp/quern-mapping-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof(path), "%s/s", folder);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(lock);
    rmdir(folder);
    return r;
}
