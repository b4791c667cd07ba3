/*
 * Clients that lie: in every index and length, with garbage on the socket, by dying and stopping at
 * any moment, by writing every byte they can at any time. A client can hurt only itself: the liar
 * is hung up on, an honest neighbour's bytes do not change, descriptors and memory come back.
 */
#define _GNU_SOURCE
#include "client/quern.h"
#include "ipc/socket.h"
#include "tests/support/echo_service.h"
#include "tests/support/raw_client.h"
#include "tests/support/trap.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define HANG_UP_MS 20000
#define PUNCH      (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static char folder[64], path[96];
static struct echo_service *echo;
static pthread_t thread;
static uint64_t features; /* that liars want: doorbells as packets, or as edges */

static void *run_echo(void *arg)
{
    echo_run(arg, false);
    return NULL;
}

static int start(void **state)
{
    struct echo_options options = {.path = path, .limits = ipc_limits_default};

    (void)state;
    features = 0;
    options.limits.preset = (struct ipc_sizes){16, 128, 64 << 10, 64 << 10};
    echo = echo_new(&options);
    return pthread_create(&thread, NULL, run_echo, echo);
}

/* As sockets were before Linux 6.16. */
static int start_taking(void **state)
{
    struct echo_options options = {
        .path = path, .limits = ipc_limits_default, .takes_descriptors = true};

    (void)state;
    features = IPC_FEATURE_SHUT_BELL;
    echo = echo_new(&options);
    return pthread_create(&thread, NULL, run_echo, echo);
}

static int start_edges(void **state)
{
    int r = start(state);

    features = IPC_FEATURE_SHUT_BELL;
    return r;
}

static void end(unsigned long violations)
{
    echo_stop(echo);
    pthread_join(thread, NULL);
    assert_int_equal(echo_counts(echo)->violations, violations);
}

static int stop(void **state)
{
    (void)state;
    echo_free(echo);
    return 0;
}

/* A fork that holds none of the service's descriptors, which would keep its connections alive. */
static pid_t fork_client(void)
{
    pid_t pid = fork();

    if (pid == 0)
        close_range(3, ~0u, 0);
    return pid;
}

/* One answer through the library, compared to the byte. 0 or what was wrong. */
static int ask(quern *q, unsigned salt)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    char text[40];
    uint32_t n = 0;
    uint64_t id;
    int e;

    snprintf(text, sizeof(text), "honest question %u", salt);
    quern_request_init(&r);
    r.input = text;
    r.input_size = strlen(text);
    r.given = QUERN_GIVEN_MAX_TOKENS;
    r.max_tokens = 50 + salt % 400;
    e = quern_submit(q, &r, &id);
    while (e == 0 && (e = quern_next(q, id, &event, 60000)) == 0 &&
           event.type != QUERN_EVENT_FINAL) {
        if (event.type != QUERN_EVENT_TOKEN)
            continue;
        if (event.u.token.index != n || event.data[0] != text[n % strlen(text)])
            e = -EBADMSG;
        n++;
    }
    if (e == 0 && (n != r.max_tokens || event.u.final_.generated != n))
        e = -EBADMSG;
    quern_event_done(&event);
    return e;
}

static void assert_honest_is_served(void)
{
    quern *q;

    assert_int_equal(quern_connect(&q, path), 0);
    assert_int_equal(ask(q, 7), 0);
    quern_close(q);
}

/* ---- Indices ------------------------------------------------------------------------------------ */

static void test_index_lies(void **state)
{
    static const uint64_t tails[] = {
        17, 1000, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX, UINT64_C(1) << 63};
    struct ipc_event_record event;
    struct raw_client c;
    unsigned long violations = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++, violations++) {
        assert_int_equal(raw_connect(&c, path, features), 0);
        raw_publish(&c, tails[i]);
        assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
        raw_close(&c);
    }
    /* Backwards: one request taken, then a tail before it. */
    assert_int_equal(raw_connect(&c, path, features), 0);
    struct ipc_request_record r = raw_record(1, 3);
    raw_write_record(&c, 0, &r);
    raw_publish(&c, 1);
    assert_int_equal(raw_wait_event(&c, 0, &event, HANG_UP_MS), 1);
    assert_int_equal(event.type, IPC_EVENT_ACCEPTED);
    raw_publish(&c, 0);
    assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
    raw_close(&c);
    violations++;
    /* Heads that run ahead of the service matter when it looks at them: with a full ring. */
    for (int which = 0; which < 2; which++, violations++) {
        assert_int_equal(raw_connect(&c, path, features), 0);
        r = raw_record(1, 3);
        r.given = IPC_GIVEN_MAX_TOKENS;
        r.max_tokens = 1 << 20;
        raw_write_record(&c, 0, &r);
        if (which == 0)
            c.ours->event_head = UINT64_C(1) << 40;
        else
            c.ours->reply_head = UINT64_C(1) << 40;
        raw_publish(&c, 1);
        for (uint64_t i = 0; which == 1 && i < 1u << 20; i++) {
            /* An honest reader of events, so that the bytes are looked at some time. */
            if (raw_wait_event(&c, i, &event, 50) == 0)
                break;
            __atomic_store_n(&c.ours->event_head, i + 1, __ATOMIC_RELEASE);
            if (i % 64 == 0)
                raw_publish(&c, 1);
        }
        assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
        raw_close(&c);
    }
    assert_honest_is_served();
    end(violations);
}

/* ---- Records ------------------------------------------------------------------------------------ */

/* Submits one record on a fresh connection. 0: hung up on; else the code of its final event + 1. */
static int fate_of(struct ipc_request_record r)
{
    struct ipc_event_record event;
    struct raw_client c;
    int fate = 0;

    assert_int_equal(raw_connect(&c, path, features), 0);
    raw_write_record(&c, 0, &r);
    raw_publish(&c, 1);
    for (uint64_t i = 0;; i++) {
        if (raw_wait_event(&c, i, &event, 300) == 0) {
            assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
            break;
        }
        if (event.type == IPC_EVENT_FINAL) {
            fate = event.u.final.code + 1;
            break;
        }
    }
    raw_close(&c);
    return fate;
}

static void test_record_lies(void **state)
{
    struct ipc_request_record r;
    unsigned long violations = 0;

    (void)state;
    assert_int_equal(fate_of(raw_record(1, 5)), IPC_CODE_OK + 1);

    /* What no honest client writes: the connection ends. */
#define BREAKS(change)                                                                             \
    do {                                                                                           \
        r = raw_record(1, 5);                                                                      \
        change;                                                                                    \
        assert_int_equal(fate_of(r), 0);                                                           \
        violations++;                                                                              \
    } while (0)
    BREAKS(r.id = 0);
    BREAKS(r.input_bytes = (64 << 10) + 1);
    BREAKS(r.offset = (64 << 10) - 4);
    BREAKS(r.offset = UINT32_MAX);
    BREAKS(r.input_bytes = UINT32_MAX);
    BREAKS((r.input_bytes = UINT32_MAX, r.offset = UINT32_MAX, r.stop_bytes = UINT32_MAX,
            r.model_bytes = UINT32_MAX));
    BREAKS((r.stop_bytes = UINT32_MAX - 3, r.model_bytes = 4));
    BREAKS(r.bias_bytes = UINT32_MAX);
    BREAKS(r.stop_id_bytes = UINT32_MAX - 3);
    BREAKS((r.op = IPC_OP_CANCEL, r.target = 1)); /* a cancel with an id of its own */
    BREAKS((r = (struct ipc_request_record){.op = IPC_OP_CANCEL}));

    /* Mistakes: one final event that says so, and the connection goes on. */
#define INVALID(change)                                                                            \
    do {                                                                                           \
        r = raw_record(1, 5);                                                                      \
        change;                                                                                    \
        assert_int_equal(fate_of(r), IPC_CODE_INVALID + 1);                                        \
    } while (0)
    INVALID(r.op = 0);
    INVALID(r.op = 999);
    INVALID(r.input = 9);
    INVALID(r.input = IPC_INPUT_CHAT); /* five zero bytes are no chat */
    INVALID(r.input = IPC_INPUT_IDS);  /* nor whole ids */
    INVALID(r.flags = 1u << 31);
    INVALID(r.given = 1u << 31);
    INVALID(r.temperature = 1);
    INVALID((r.given = IPC_GIVEN_TEMPERATURE, r.temperature = -1));
    INVALID((r.given = IPC_GIVEN_TEMPERATURE, r.temperature = __builtin_nanf("")));
    INVALID((r.given = IPC_GIVEN_TOP_P, r.top_p = 0));
    INVALID((r.given = IPC_GIVEN_MAX_TOKENS, r.max_tokens = 0));
    INVALID(r.stop_bytes = 5);
    INVALID(r.model_bytes = 5);
    INVALID(r.priority = 3);
    INVALID(r.samples = 65);
    INVALID(r.n_logprobs = 21);
    INVALID(r.target = 1);
    INVALID(r.bias_bytes = 5);
    INVALID(r.stop_id_bytes = 5);
    INVALID(r.stop_id_bytes = 4 * (IPC_STOP_IDS_MAX + 1));
    INVALID((r.op = IPC_OP_TOKENIZE, r.stop_id_bytes = 4));
    INVALID(r.min_tokens = 1);
    INVALID((r.given = IPC_GIVEN_MIN_TOKENS | IPC_GIVEN_MAX_TOKENS, r.min_tokens = 3,
             r.max_tokens = 2));
    INVALID(r.flags = IPC_FLAG_MEAN); /* goes with embed */
    INVALID(r.input = IPC_INPUT_SEGMENTS);
    INVALID(r.input = IPC_INPUT_TEXTS);
    INVALID((r.op = IPC_OP_TOKENIZE, r.prefix = 1));
    INVALID((r.op = IPC_OP_UNPIN, r.input = IPC_INPUT_NONE, r.input_bytes = 0));
    INVALID(r.flags = IPC_FLAG_KEEP); /* goes with pin */
    INVALID(r.reserved[1] = 1);
    assert_honest_is_served();
    end(violations);
}

/* Ids are never used twice, and a request beyond the limit is told so. */
static void test_ids_and_limits(void **state)
{
    struct ipc_event_record event;
    struct ipc_request_record r;
    struct raw_client c;

    (void)state;
    assert_int_equal(raw_connect(&c, path, features), 0);
    assert_int_equal(c.w.requests_max, 64);
    bool busy = false;
    uint64_t submitted = 0;
    for (uint64_t i = 0; !busy && i < 1u << 20; i++) {
        while (submitted < 65 &&
               submitted - __atomic_load_n(&c.theirs->submit_head, __ATOMIC_ACQUIRE) < 16) {
            r = raw_record(submitted + 1, 1);
            r.given = IPC_GIVEN_MAX_TOKENS;
            r.max_tokens = UINT32_MAX;
            raw_write_record(&c, submitted++, &r);
            raw_publish(&c, submitted);
        }
        assert_int_equal(raw_wait_event(&c, i, &event, HANG_UP_MS), 1);
        busy = event.type == IPC_EVENT_FINAL;
        __atomic_store_n(&c.ours->reply_head, event.pos + event.bytes, __ATOMIC_RELEASE);
        __atomic_store_n(&c.ours->event_head, i + 1, __ATOMIC_RELEASE);
        if (i % 32 == 0)
            raw_publish(&c, submitted);
    }
    assert_true(busy);
    assert_int_equal(event.id, 65);
    assert_int_equal(event.u.final.code, IPC_CODE_BUSY);
    r = raw_record(65, 1);
    raw_write_record(&c, 65, &r);
    raw_publish(&c, 66);
    assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
    raw_close(&c);
    assert_honest_is_served();
    end(1);
}

/* ---- The socket --------------------------------------------------------------------------------- */

static int n_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

/* Since Linux 6.16 the service's socket refuses descriptors before they are on their way. */
static bool refuses_fds(void)
{
    int value, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof(value);
    bool known = getsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &value, &n) == 0;

    close(fd);
    return known;
}

/* True: they were sent. */
static bool send_with_fds(int fd, const void *packet, size_t n, int n_fds)
{
    char control[CMSG_SPACE(253 * sizeof(int))] = {0};
    struct iovec iov = {(void *)(uintptr_t)packet, n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
    struct cmsghdr *cmsg = (void *)control;

    msg.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
    for (int i = 0; i < n_fds; i++)
        memcpy(CMSG_DATA(cmsg) + (size_t)i * sizeof(int), &fd, sizeof(int));
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) >= 0)
        return true;
    assert_true(errno == EPERM && refuses_fds());
    return false;
}

static void test_socket_garbage(void **state)
{
    static uint8_t garbage[65536];
    struct ipc_hello hello;
    struct raw_client c;
    unsigned long violations = 0;
    int before;

    (void)state;
    assert_honest_is_served();
    usleep(50000);
    before = n_open_fds();
    memset(garbage, 0x5a, sizeof(garbage));
    /* Instead of a hello: nothing, one byte, almost all of it, too much, the wrong thing. */
    static const size_t sizes[] = {1, 63, 64, 65, 65536};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++, violations++) {
        c.fd = ipc_connect(path);
        assert_int_equal(ipc_send(c.fd, garbage, sizes[i], NULL, 0), 0);
        assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
        close(c.fd);
    }
    c.fd = ipc_connect(path); /* hangs up at once */
    close(c.fd);
    int half = ipc_connect(path); /* says nothing for the whole test: holds nobody up */
    /* A true hello in versions to come, and one with a reserved byte. */
    ipc_plan_hello(&ipc_limits_default.preset, &hello);
    hello.version_min = hello.version_max = 9;
    for (int i = 0; i < 2; i++, violations++) {
        c.fd = ipc_connect(path);
        assert_int_equal(ipc_send(c.fd, &hello, sizeof(hello), NULL, 0), 0);
        assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
        close(c.fd);
        ipc_plan_hello(&ipc_limits_default.preset, &hello);
        hello.reserved[2] = 1;
    }
    /* A second hello, long doorbells, wrong doorbells, descriptors. */
    for (int i = 0; i < 5; i++, violations++) {
        assert_int_equal(raw_connect(&c, path, features), 0);
        if (i == 0)
            assert_int_equal(ipc_send(c.fd, &hello, sizeof(hello), NULL, 0), 0);
        else if (i == 1)
            assert_int_equal(ipc_send(c.fd, "!!", 2, NULL, 0), 0);
        else if (i == 2)
            assert_int_equal(ipc_send(c.fd, "?", 1, NULL, 0), 0);
        else if (!send_with_fds(c.fd, "!", 1, i == 3 ? 1 : 253))
            assert_int_equal(ipc_send(c.fd, "?", 1, NULL, 0), 0);
        assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
        raw_close(&c);
    }
    c.fd = ipc_connect(path);
    if (!send_with_fds(c.fd, &hello, sizeof(hello), 2))
        assert_int_equal(ipc_send(c.fd, garbage, 1, NULL, 0), 0);
    assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
    close(c.fd);
    violations++;
    /* Ten thousand doorbells for nothing are no violation. */
    assert_int_equal(raw_connect(&c, path, features), 0);
    for (int i = 0; i < 10000; i++)
        raw_publish(&c, 0);
    assert_honest_is_served();
    raw_close(&c);
    close(half);
    for (int i = 0; i < 1000 && n_open_fds() != before; i++)
        usleep(10000);
    assert_int_equal(n_open_fds(), before);
    end(violations);
}

/* Where doorbells are edges, nothing can be sent after the hello; what was sent right behind it is
 * never read, and every way of shutting the socket down is a doorbell or a hang-up. */
static void test_socket_shut(void **state)
{
    struct raw_client c;
    struct ipc_event_record event;
    struct ipc_request_record r = raw_record(1, 3);

    (void)state;
    assert_int_equal(raw_connect(&c, path, features), 0);
    assert_true((c.w.features & IPC_FEATURE_SHUT_BELL) != 0);
    assert_int_equal(ipc_send(c.fd, "garbage", 7, NULL, 0), -ECONNRESET);
    for (int i = 0; i < 10000; i++)
        raw_publish(&c, 0);
    raw_write_record(&c, 0, &r);
    raw_publish(&c, 1);
    assert_int_equal(raw_wait_event(&c, 0, &event, HANG_UP_MS), 1);
    assert_int_equal(shutdown(c.fd, SHUT_RD), 0);
    for (int i = 0; i < 1000 && c.theirs->service_wants != 0; i++)
        usleep(10000);
    assert_int_equal(c.theirs->service_wants, 0); /* punched empty */
    raw_close(&c);
    assert_honest_is_served();
    end(0);
}

/* ---- Memory ------------------------------------------------------------------------------------- */

static void test_regions(void **state)
{
    struct raw_client c;
    char name[64];

    (void)state;
    assert_int_equal(raw_connect(&c, path, features), 0);
    for (int i = 0; i < 2; i++) {
        int seals = fcntl(c.fds[i], F_GET_SEALS);

        assert_int_equal(seals & (F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL),
                         F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
        assert_int_equal(ftruncate(c.fds[i], 4096), -1);
    }
    assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, c.fds[1], 0), MAP_FAILED);
    assert_int_equal(fcntl(c.fds[1], F_GETFL) & O_ACCMODE, O_RDONLY);
    if (geteuid() == 0) { /* another uid cannot open the reply region for writing */
        pid_t child = fork();

        if (child == 0) {
            snprintf(name, sizeof(name), "/proc/self/fd/%d", c.fds[1]);
            if (setgid(12345) != 0 || setuid(12345) != 0)
                _exit(2);
            _exit(open(name, O_RDWR) < 0 && fchmod(c.fds[1], 0600) < 0 ? 0 : 1);
        }
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    /* Nobody can make a hole in what the service reads, or write to it but through the first map. */
    assert_int_equal(fallocate(c.fds[0], PUNCH, 0, IPC_PAGE), -1);
    assert_int_equal(madvise((void *)(uintptr_t)c.request, IPC_PAGE, MADV_REMOVE), -1);
    assert_int_equal(write(c.fds[0], "x", 1), -1);
    assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, c.fds[0], 0), MAP_FAILED);
    raw_close(&c);
    end(0);
}

/* A moment later: the undertaker does it. */
static void assert_emptied(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    for (int k = 0; k < HANG_UP_MS / 10 && st.st_blocks != 0; k++) {
        usleep(10000);
        assert_int_equal(fstat(fd, &st), 0);
    }
    assert_int_equal(st.st_blocks, 0);
}

static void await_burials(unsigned long n)
{
    for (unsigned k = 0; k < HANG_UP_MS / 10 && echo_n_buried(echo) < n; k++)
        usleep(10000);
    assert_int_equal(echo_n_buried(echo), n);
}

/* What the service writes is taken from a client that keeps its maps; what it sealed counts as its
 * own until it has let it go, down to the last map that nobody ever touched. */
static void test_kept_regions(void **state)
{
    struct raw_client c;

    (void)state;
    assert_int_equal(raw_connect(&c, path, features), 0);
    memset((void *)(uintptr_t)(c.request + c.w.request_offset), 1, c.w.request_bytes);
    void *look = mmap(NULL, IPC_PAGE, PROT_READ, MAP_SHARED, c.fds[0], 0);
    assert_ptr_not_equal(look, MAP_FAILED);
    c.ours->submit_tail = 99;
    raw_publish(&c, 99);
    assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
    assert_emptied(c.fds[1]);
    assert_honest_is_served(); /* and buried, meanwhile */
    await_burials(1);
    raw_close(&c);
    usleep(200000);
    assert_int_equal(echo_n_buried(echo), 1);
    munmap(look, IPC_PAGE);
    await_burials(2);
    end(1);
}

/* Sealed in half, it can be neither looked at nor emptied: it counts until it is let go as well. */
static void test_half_sealed_region(void **state)
{
    struct raw_client c;

    (void)state;
    assert_int_equal(raw_connect_unsealed(&c, path, features), 0);
    assert_int_equal(fcntl(c.fds[0], F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
    shutdown(c.fd, SHUT_RDWR);
    assert_emptied(c.fds[1]);
    assert_honest_is_served();
    await_burials(1);
    usleep(200000);
    assert_int_equal(echo_n_buried(echo), 1);
    raw_close(&c);
    await_burials(2);
    end(0);
}

/* What was never sealed is never looked at, and whoever rings for it breaks the rule. */
static void test_unsealed_region(void **state)
{
    struct ipc_request_record r = raw_record(1, 3);
    struct ipc_event_record event;
    struct raw_client c;

    (void)state;
    assert_int_equal(raw_connect_unsealed(&c, path, features), 0);
    assert_int_equal(fallocate(c.fds[0], PUNCH, 0, (off_t)c.w.request_size), 0);
    raw_write_record(&c, 0, &r);
    raw_publish(&c, 1);
    raw_publish(&c, 1);
    for (int i = 0; !raw_wait_hang_up(&c, 10) && i < HANG_UP_MS / 10; i++)
        raw_publish(&c, 1); /* an edge may come together with the one before */
    assert_int_equal(raw_wait_hang_up(&c, HANG_UP_MS), 1);
    assert_int_equal(raw_wait_event(&c, 0, &event, 0), 0);
    raw_close(&c);
    /* It can be taken back from a client that keeps its maps. */
    assert_int_equal(raw_connect_unsealed(&c, path, features), 0);
    memset((void *)(uintptr_t)c.request, 1, c.w.request_size);
    shutdown(c.fd, SHUT_RDWR);
    assert_emptied(c.fds[0]);
    assert_emptied(c.fds[1]);
    raw_close(&c);
    /* Holes that were made before are filled when it is sealed. */
    assert_int_equal(raw_connect_unsealed(&c, path, features), 0);
    assert_int_equal(fallocate(c.fds[0], PUNCH, 0, (off_t)c.w.request_size), 0);
    assert_int_equal(raw_seal(&c), 0);
    raw_write_record(&c, 0, &r);
    raw_publish(&c, 1);
    assert_int_equal(raw_wait_event(&c, 0, &event, HANG_UP_MS), 1);
    raw_close(&c);
    assert_honest_is_served();
    end(1);
}

/* ---- All at once -------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Submits, and writes any byte of its region at any time; connects again when it is hung up on. */
static _Noreturn void be_a_liar(uint64_t seed)
{
    uint64_t s = seed * 0x9e3779b97f4a7c15 + 1;

    for (;;) {
        struct raw_client c;

        if (raw_connect(&c, path, next_random(&s) % 2 ? IPC_FEATURES : 0) < 0)
            _exit(0);
        for (uint64_t i = 0; i < 400; i++) {
            struct ipc_request_record r = raw_record(i + 1, (uint32_t)(next_random(&s) % 1000));
            uint8_t *bytes = (uint8_t *)&r;

            if (next_random(&s) % 4 == 0)
                bytes[next_random(&s) % sizeof(r)] ^= (uint8_t)(1 << next_random(&s) % 8);
            raw_write_record(&c, i, &r);
            raw_publish(&c, next_random(&s) % 50 == 0 ? next_random(&s) % 1000 : i + 1);
            for (int k = 0; k < 200; k++) /* mostly the bytes that mean something */
                c.request[next_random(&s) %
                          (next_random(&s) % 2 ? 4096 + 16 * 128 : c.w.request_size)] ^=
                    (uint8_t)(next_random(&s) % 8 ? 0 : next_random(&s));
            if (next_random(&s) % 2 == 0) {
                uint64_t tail = c.theirs->event_tail;

                c.ours->event_head = tail;
            }
            if (raw_wait_hang_up(&c, 0))
                break;
        }
        raw_close(&c);
    }
}

static _Noreturn void be_honest(unsigned seed, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        quern *q;
        int e = quern_connect(&q, path);

        if (e < 0)
            _exit(1);
        for (unsigned k = 0; k < 5; k++)
            if (ask(q, seed * 1000 + i * 10 + k) != 0)
                _exit(2);
        quern_close(q);
    }
    _exit(0);
}

/* ---- Traps ---------------------------------------------------------------------------------------
 *
 * What the service does with a client's descriptors may wait for that client, and not even a signal
 * ends the wait: the client holds a lock in the kernel, in a call that faults in a page which never
 * comes (tests/support/trap.h).
 */

enum trap {
    TRAP_REFUSED,     /* a descriptor whose close waits, where the socket takes none */
    TRAP_SENT,        /* where it takes them: instead of a hello */
    TRAP_AFTER_HELLO, /* behind a hello, and hung up: it is never read */
    TRAP_WRITE,       /* write(2) to the request region, whose file is locked meanwhile */
    TRAP_WRITE_UNSEALED,
};

/* Sends it, right behind a hello or without. False: not taken. */
static bool send_trap(int fd, int event_fd, enum trap trap)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct ipc_hello hello;
    struct iovec iov[2] = {{&hello, sizeof(hello)}, {"x", 1}};
    struct mmsghdr packets[2] = {{.msg_hdr = {.msg_iov = &iov[0], .msg_iovlen = 1}},
                                 {.msg_hdr = {.msg_iov = &iov[1],
                                              .msg_iovlen = 1,
                                              .msg_control = control,
                                              .msg_controllen = sizeof(control)}}};
    struct cmsghdr *cmsg = (void *)control;
    int first = trap == TRAP_AFTER_HELLO ? 0 : 1;

    ipc_plan_hello(&ipc_limits_default.preset, &hello);
    *cmsg = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(cmsg), &event_fd, sizeof(int));
    return sendmmsg(fd, packets + first, (unsigned)(2 - first), MSG_NOSIGNAL) == 2 - first;
}

/* fate: 's' set, 'r' the socket refused it, 'n' there is no userfaultfd. */
static _Noreturn void set_trap(enum trap trap, volatile char *fate)
{
    struct epoll_event level = {.events = EPOLLIN};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), event_fd = eventfd(1, EFD_CLOEXEC);
    struct raw_client c = {.fd = -1};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* to be killed with the holder, since its own end waits for the lock as well */
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event_fd, &level);
    bool write_trap = trap == TRAP_WRITE || trap == TRAP_WRITE_UNSEALED;
    if (write_trap &&
        (trap == TRAP_WRITE ? raw_connect : raw_connect_unsealed)(&c, path, features) < 0)
        _exit(4);
    if (!trap_hold_lock(write_trap ? c.fds[0] : epoll_fd, !write_trap, event_fd)) {
        *fate = 'n';
        _exit(0);
    }
    if (write_trap) {
        c.ours->submit_tail = 99; /* to be hung up on */
        do
            raw_publish(&c, 99);
        while (!raw_wait_hang_up(&c, 10));
        *fate = 's';
    } else {
        bool sent = false;

        while ((c.fd = ipc_connect(path)) >= 0 && !(sent = send_trap(c.fd, event_fd, trap)) &&
               trap == TRAP_AFTER_HELLO)
            close(c.fd); /* the service was faster: it had shut this direction down */
        *fate = sent ? 's' : 'r';
        close(event_fd); /* not to be the last one, which waits */
        if (trap == TRAP_AFTER_HELLO)
            close(c.fd);
    }
    for (;;)
        pause();
}

/* Is an honest client served? Asked by a child: the service may hang. */
static bool honest_is_served(void)
{
    pid_t pid = fork_client();
    int status, ended = 0;

    if (pid == 0)
        be_honest(3, 1);
    for (int i = 0; i < HANG_UP_MS / 10 && (ended = waitpid(pid, &status, WNOHANG)) == 0; i++)
        usleep(10000);
    if (ended == pid)
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return false;
}

static void spring(enum trap trap, char expected, unsigned long violations)
{
    volatile char *fate =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(fate, MAP_FAILED);
    pid_t pid = fork_client();
    if (pid == 0)
        set_trap(trap, fate);
    while (*fate == 0 && waitpid(pid, NULL, WNOHANG) == 0)
        usleep(10000);
    if (*fate == 's')
        usleep(200000); /* until the service has dealt with it */
    bool served = honest_is_served() && honest_is_served();
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(served);
    if (*fate == 'n') {
        print_message("note: no userfaultfd: not tried\n");
        end(0);
    } else {
        assert_int_equal(*fate, expected);
        end(violations);
    }
    munmap((void *)(uintptr_t)fate, 4096);
}

static void test_descriptor_refused(void **state)
{
    (void)state;
    if (refuses_fds()) {
        spring(TRAP_REFUSED, 'r', 0);
    } else {
        print_message("note: no SO_PASSRIGHTS (Linux 6.16): not tried\n");
        end(0);
    }
}

static void test_descriptor_trap(void **state)
{
    (void)state;
    spring(TRAP_SENT, 's', 1);
}

static void test_unread_descriptor_trap(void **state)
{
    (void)state;
    spring(TRAP_AFTER_HELLO, 's', 0);
}

static void test_write_trap(void **state)
{
    (void)state;
    spring(TRAP_WRITE, 's', 1);
}

static void test_unsealed_write_trap(void **state)
{
    (void)state;
    spring(TRAP_WRITE_UNSEALED, 's', 1);
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

/* 32 clients: honest ones, ones that are killed, stopped and continued at random moments, liars. */
static void test_crowd(void **state)
{
    enum { HONEST = 12, KILLED = 8, STOPPED = 4, LIARS = 8, ALL = 32 };
    pid_t pids[ALL];
    int before = n_open_fds();
    uint64_t s = 88172645463325252u;

    (void)state;
    for (int i = 0; i < ALL; i++) {
        pids[i] = fork_client();
        if (pids[i] != 0)
            continue;
        if (i < HONEST + STOPPED)
            be_honest((unsigned)i, 20);
        else if (i < HONEST + STOPPED + KILLED)
            be_honest((unsigned)i, 1000000);
        else
            be_a_liar((uint64_t)i);
    }
    int left = HONEST + STOPPED;
    while (left > 0) {
        int victim = HONEST + STOPPED + (int)(next_random(&s) % KILLED);
        int sleeper = HONEST + (int)(next_random(&s) % STOPPED);
        int status;

        if (pids[sleeper] > 0)
            kill(pids[sleeper], SIGSTOP);
        usleep((useconds_t)(next_random(&s) % 20000));
        kill(pids[victim], SIGKILL);
        waitpid(pids[victim], NULL, 0);
        pids[victim] = fork_client();
        if (pids[victim] == 0)
            be_honest((unsigned)victim, 1000000);
        if (pids[sleeper] > 0)
            kill(pids[sleeper], SIGCONT);
        for (int i = 0; i < HONEST + STOPPED; i++) {
            if (pids[i] > 0 && waitpid(pids[i], &status, WNOHANG) == pids[i]) {
                assert_true(WIFEXITED(status));
                assert_int_equal(WEXITSTATUS(status), 0);
                pids[i] = 0;
                left--;
            }
        }
    }
    for (int i = HONEST + STOPPED; i < ALL; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    assert_honest_is_served();
    for (int i = 0; i < 1000 && (n_open_fds() != before || n_ring_maps() != 0); i++)
        usleep(10000);
    assert_int_equal(n_open_fds(), before);
    assert_int_equal(n_ring_maps(), 0);
    echo_stop(echo);
    pthread_join(thread, NULL);
    assert_true(echo_counts(echo)->violations > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_index_lies, start, stop),
        cmocka_unit_test_setup_teardown(test_index_lies, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_record_lies, start, stop),
        cmocka_unit_test_setup_teardown(test_ids_and_limits, start, stop),
        cmocka_unit_test_setup_teardown(test_ids_and_limits, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_socket_garbage, start, stop),
        cmocka_unit_test_setup_teardown(test_socket_shut, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_descriptor_refused, start, stop),
        cmocka_unit_test_setup_teardown(test_descriptor_trap, start_taking, stop),
        cmocka_unit_test_setup_teardown(test_unread_descriptor_trap, start_taking, stop),
        cmocka_unit_test_setup_teardown(test_write_trap, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_unsealed_write_trap, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_kept_regions, start, stop),
        cmocka_unit_test_setup_teardown(test_half_sealed_region, start, stop),
        cmocka_unit_test_setup_teardown(test_unsealed_region, start, stop),
        cmocka_unit_test_setup_teardown(test_unsealed_region, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_regions, start_edges, stop),
        cmocka_unit_test_setup_teardown(test_crowd, start, stop),
    };
    char lock[128];

    snprintf(folder, sizeof(folder), "/tmp/quern-hostile-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof(path), "%s/s", folder);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(lock);
    rmdir(folder);
    return r;
}
