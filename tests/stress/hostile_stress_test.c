/* Hostile clients against quernd, from several threads each: while one thread submits, others write
 * any byte of the request region at any time and send what no client sends. Beside them honest
 * clients compare every token with what they get alone. Afterwards descriptors, KV pages and
 * memory are where they were. QUERN_HOSTILE_SECONDS (60) is how long. */
#define _GNU_SOURCE
#include "client/quern.h"
#include "ipc/socket.h"
#include "tests/support/quernd.h"
#include "tests/support/raw_client.h"

#include <errno.h>
#include <pthread.h>
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
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIARS = 4, HONEST = 3, TOKENS = 40 };

struct shared {
    atomic_bool over;
    _Atomic uint64_t n_connections, n_hang_ups, n_answers;
};

static struct quernd service;
static struct shared *shared;
static uint32_t prompt[120], expected[TOKENS];

static unsigned n_seconds(void)
{
    const char *text = getenv("QUERN_HOSTILE_SECONDS");
    return text ? (unsigned)strtoul(text, NULL, 10) : 60;
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* ---- the liar: one connection at a time, four threads on it ----------------------------------- */

#ifdef __SANITIZE_THREAD__
/* A liar's threads race with each other, which is what they are for; those of the service must not. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:flip_bytes\nrace:write_span\nrace:raw_write_record\nrace:raw_publish\n"
           "race:submit\n";
}
#endif

struct liar {
    struct raw_client c;
    atomic_bool hung_up;
    uint64_t seed;
};

static void *flip_bytes(void *arg)
{
    struct liar *l = arg;
    uint64_t s = l->seed ^ (uint64_t)(uintptr_t)&s;
    while (!atomic_load_explicit(&l->hung_up, memory_order_relaxed)) {
        /* Mostly the words and the ring, which mean something; gently, or nothing else happens. */
        uint64_t limit = next_random(&s) % 4 ? l->c.w.request_offset : l->c.w.request_size;
        volatile uint8_t *at = l->c.request + next_random(&s) % limit;
        if (next_random(&s) % 64 == 0)
            at = l->c.request + (const uint16_t[]){0, 64, 72, 128}[next_random(&s) % 4];
        __atomic_store_n(at, (uint8_t)(*at ^ (1u << next_random(&s) % 8)), __ATOMIC_RELAXED);
        for (uint64_t k = next_random(&s) % 512; k > 0; k--)
            __atomic_signal_fence(__ATOMIC_SEQ_CST);
        if (next_random(&s) % 256 == 0)
            usleep(50);
    }
    return NULL;
}

/* What the protocol lets a span hold, with lies: lengths that the other threads change meanwhile. */
static void write_span(struct liar *l, uint64_t *s)
{
    uint32_t words[64];
    for (int i = 0; i < 64; i++)
        words[i] = (uint32_t)(next_random(s) % (next_random(s) % 3 ? 300 : UINT32_MAX));
    memcpy((void *)(uintptr_t)(l->c.request + l->c.w.request_offset), words, sizeof words);
}

static void *submit(void *arg)
{
    struct liar *l = arg;
    uint64_t s = l->seed, n = 0;
    while (!atomic_load(&l->hung_up)) {
        struct ipc_request_record r = raw_record(n + 1, 4 * (uint32_t)(next_random(&s) % 60));
        r.op = (uint16_t)(1 + next_random(&s) % 10);
        r.input = (uint16_t)(next_random(&s) % 7);
        if (next_random(&s) % 3 == 0)
            ((uint8_t *)&r)[next_random(&s) % sizeof r] ^= (uint8_t)next_random(&s);
        if (r.op == IPC_OP_CANCEL && next_random(&s) % 2) {
            r = (struct ipc_request_record){.op = IPC_OP_CANCEL, .target = next_random(&s) % 50};
            r.id = 0;
        } else {
            n++;
        }
        write_span(l, &s);
        raw_write_record(&l->c, l->c.ours->submit_tail, &r);
        raw_publish(&l->c, next_random(&s) % 100 ? l->c.ours->submit_tail + 1 : next_random(&s));
        if (next_random(&s) % 2) { /* reads, or says so */
            l->c.ours->event_head = l->c.theirs->event_tail;
            l->c.ours->reply_head += next_random(&s) % 64;
        }
        usleep((useconds_t)(next_random(&s) % 300));
    }
    return NULL;
}

/* Half a hello, none, a wrong one, with descriptors; then hangs up. */
static void be_rude(uint64_t *s)
{
    uint8_t packet[64] = {0};
    int fd = ipc_connect(service.socket), fds[2] = {fd, fd};
    if (fd < 0)
        return;
    for (size_t i = 0; i < sizeof packet; i++)
        packet[i] = (uint8_t)next_random(s);
    if (next_random(s) % 4)
        (void)ipc_send(fd, packet, 1 + next_random(s) % 64, fds, next_random(s) % 3);
    if (next_random(s) % 2)
        usleep(500);
    close(fd);
}

static _Noreturn void be_liar(uint64_t seed)
{
    uint64_t s = seed;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!atomic_load(&shared->over)) {
        struct liar l = {.seed = next_random(&s)};
        pthread_t threads[4];
        be_rude(&s);
        if (raw_connect(&l.c, service.socket, next_random(&s) % 2 ? IPC_FEATURES : 0) < 0) {
            usleep(5000);
            continue;
        }
        atomic_fetch_add(&shared->n_connections, 1);
        pthread_create(&threads[0], NULL, submit, &l);
        pthread_create(&threads[1], NULL, flip_bytes, &l);
        pthread_create(&threads[2], NULL, flip_bytes, &l);
        for (int i = 0; i < 40 && !atomic_load(&shared->over); i++) {
            if (next_random(&s) % 200 == 0) /* what no client sends */
                (void)ipc_send(l.c.fd, "garbage", 1 + next_random(&s) % 7, &l.c.fd,
                               next_random(&s) % 2);
            if (next_random(&s) % 200 == 0) /* no doorbell of packets, or a hang-up */
                (void)shutdown(l.c.fd, (int)(next_random(&s) % 3));
            if (raw_wait_hang_up(&l.c, 1)) {
                atomic_fetch_add(&shared->n_hang_ups, 1);
                break;
            }
        }
        atomic_store(&l.hung_up, true);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        raw_close(&l.c);
    }
    _exit(0);
}

/* ---- the honest ------------------------------------------------------------------------------ */

static int ask(quern *q, uint32_t *ids)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    uint64_t id;
    int n = 0;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = prompt;
    r.n_ids = sizeof prompt / sizeof *prompt;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED;
    r.max_tokens = TOKENS;
    r.temperature = 1;
    r.seed = 5;
    int e = quern_submit(q, &r, &id);
    while (e == 0 && (e = quern_next(q, id, &event, 120000)) == 0 &&
           event.type != QUERN_EVENT_FINAL)
        if (event.type == QUERN_EVENT_TOKEN)
            ids[n++] = event.u.token.token;
    if (e == 0 && event.u.final_.code == QUERN_CODE_BUSY)
        n = 0; /* the liars are the same user, and may have used up its quota */
    else if (e == 0 && event.u.final_.reason != QUERN_REASON_LENGTH)
        e = -EBADMSG;
    quern_event_done(&event);
    return e < 0 ? e : n;
}

static _Noreturn void be_honest(void)
{
    uint32_t ids[TOKENS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!atomic_load(&shared->over)) {
        quern *q;
        int n = quern_connect(&q, service.socket);
        if (n < 0)
            _exit(1);
        for (int i = 0; i < 5 && !atomic_load(&shared->over); i++) {
            n = ask(q, ids);
            if (n < 0)
                _exit(2);
            if (n > 0 && (n != TOKENS || memcmp(ids, expected, sizeof expected) != 0))
                _exit(3);
            atomic_fetch_add(&shared->n_answers, n > 0);
        }
        quern_close(q);
    }
    _exit(0);
}

/* ---- together ---------------------------------------------------------------------------------- */

static struct quernd_usage settled(unsigned n_fds)
{
    struct quernd_usage usage;
    for (int i = 0; i < 1500; i++) {
        if (quernd_status(&service, "running") == 0 && quernd_status(&service, "waiting") == 0 &&
            quernd_status(&service, "clients") == 1)
            break;
        usleep(20000);
    }
    assert_int_equal(quernd_status(&service, "clients"), 1);
    assert_int_equal(quernd_status(&service, "kv_pages_used"), 0);
    assert_int_equal(quernd_status(&service, "kv_pages_reserved"), 0);
    for (int i = 0; i < 100; i++) {
        usage = quernd_usage(&service);
        if (n_fds == 0 ? i >= 10 : usage.n_fds == n_fds)
            break;
        usleep(20000);
    }
    return usage;
}

static void liars_hurt_only_themselves(void **state)
{
    pid_t pids[LIARS + HONEST];
    int status;
    (void)state;
    struct quernd_usage before = settled(0);
    for (int i = 0; i < LIARS + HONEST; i++) {
        pids[i] = fork();
        if (pids[i] == 0 && i < LIARS)
            be_liar((uint64_t)i * 7919 + 1 + (uint64_t)time(NULL));
        else if (pids[i] == 0)
            be_honest();
    }
    sleep(n_seconds());
    atomic_store(&shared->over, true);
    for (int i = 0; i < LIARS + HONEST; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("%s client ended with status %x", i < LIARS ? "a lying" : "an honest", status);
    }
    struct quernd_usage after = settled(before.n_fds);
    printf("%u s: %llu lying connections, %llu hung up on; %llu honest answers equal; descriptors "
           "%u and %u\n",
           n_seconds(), (unsigned long long)atomic_load(&shared->n_connections),
           (unsigned long long)atomic_load(&shared->n_hang_ups),
           (unsigned long long)atomic_load(&shared->n_answers), before.n_fds, after.n_fds);
    assert_true(atomic_load(&shared->n_hang_ups) > 0);
    assert_true(atomic_load(&shared->n_answers) > 0);
    assert_int_equal(after.n_fds, before.n_fds);
    assert_true(quernd_status(&service, "refused_violation") > 0);
    assert_true(quernd_log_count(&service, "refused (violation)") <= 2 + n_seconds() / 60);
}

static int prepare(void **state)
{
    quern *q;
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "2", NULL});
    for (size_t i = 0; i < sizeof prompt / sizeof *prompt; i++)
        prompt[i] = (uint32_t)(i * 31 % 250);
    if (quern_connect(&q, service.socket) < 0 || ask(q, expected) != TOKENS)
        return -1;
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(liars_hurt_only_themselves)};
    return cmocka_run_group_tests(tests, prepare, finish);
}
