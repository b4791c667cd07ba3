/* The undertaker: it never makes the service wait, and says of each client once that all is done. */
#define _GNU_SOURCE
#include "ipc/layout.h"
#include "ipc/region.h"
#include "ipc/undertaker.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEPT = 300 /* more than one process of the undertaker watches */, WAIT_MS = 20000 };

static struct ipc_undertaker undertaker;

static int start(void **state)
{
    (void)state;
    return ipc_undertaker_start(&undertaker);
}

static int stop(void **state)
{
    (void)state;
    ipc_undertaker_stop(&undertaker);
    return 0;
}

/* A client without memory. 0 or what give said. */
static int give_socket(uint64_t tag)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int r = ipc_undertaker_give(&undertaker, pair, 1, tag);
    close(pair[0]);
    close(pair[1]);
    if (r == 0)
        assert_int_equal(ipc_undertaker_go(&undertaker), 0);
    return r;
}

/* The next tag, or 0 after so long without one. */
static uint64_t next_buried(int timeout_ms)
{
    struct pollfd buried = {.fd = undertaker.bodies_fd, .events = POLLIN};
    uint64_t tag = 0;
    int r = ipc_undertaker_buried(&undertaker, &tag);
    if (r == 0 && poll(&buried, 1, timeout_ms) == 1)
        r = ipc_undertaker_buried(&undertaker, &tag);
    assert_true(r >= 0);
    return r == 1 ? tag : 0;
}

/* Nobody listens to what it says, as in a service that is busy: it fills up, and says so. */
static void test_full(void **state)
{
    static bool told[100001];
    uint64_t n = 0;
    int r = 0;
    (void)state;
    while (r == 0 && n < 100000)
        r = give_socket(++n);
    assert_int_equal(r, -EAGAIN);
    for (uint64_t left = n - 1; left > 0; left--) {
        uint64_t tag = next_buried(WAIT_MS);
        assert_true(tag >= 1 && tag < n && !told[tag]);
        told[tag] = true;
    }
    assert_int_equal(give_socket(n), 0); /* again, after what it said was heard */
    assert_int_equal(next_buried(WAIT_MS), n);
}

/* What clients sealed, and keep: nobody waits behind it, and it is told of when it is let go. */
static void test_kept(void **state)
{
    static struct ipc_region theirs[KEPT];
    char why[200];
    (void)state;
    for (unsigned i = 0; i < KEPT; i++) {
        struct ipc_region request, reply;
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(
            ipc_region_make(&request, "request", IPC_PAGE, IPC_PAGE, IPC_CLIENT_WRITES), 0);
        assert_int_equal(ipc_region_make(&reply, "reply", IPC_PAGE, IPC_PAGE, IPC_SERVICE_WRITES),
                         0);
        int fd = ipc_region_open_for_client(&request, IPC_CLIENT_WRITES);
        assert_true(fd >= 0 && !ipc_region_is_sealed(request.fd));
        assert_int_equal(
            ipc_region_map(&theirs[i], fd, IPC_PAGE, IPC_CLIENT_WRITES, why, sizeof why), 0);
        assert_true(ipc_region_is_sealed(request.fd) && !ipc_region_is_ours_alone(request.fd));
        close(fd);
        theirs[i].fd = -1; /* the map keeps it */
        int fds[3] = {pair[0], request.fd, reply.fd};
        assert_int_equal(ipc_undertaker_give(&undertaker, fds, 3, 1000 + i), 0);
        ipc_region_done(&request);
        ipc_region_done(&reply);
        close(pair[0]);
        close(pair[1]);
        assert_int_equal(ipc_undertaker_go(&undertaker), 0);
        assert_int_equal(give_socket(1), 0);
        assert_int_equal(next_buried(WAIT_MS), 1);
    }
    bool told[KEPT] = {false};
    for (unsigned i = 0; i < KEPT; i++)
        ipc_region_done(&theirs[i]);
    for (unsigned i = 0; i < KEPT; i++) {
        uint64_t tag = next_buried(WAIT_MS);
        assert_true(tag >= 1000 && tag < 1000 + KEPT && !told[tag - 1000]);
        told[tag - 1000] = true;
    }
    assert_int_equal(next_buried(100), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_full, start, stop),
        cmocka_unit_test_setup_teardown(test_kept, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
