/*
 * One session and the words of its client, in one process: when it asks for doorbells, and for
 * what. A service may let a session sleep while it still computes for it.
 */
#include "ipc/region.h"
#include "ipc/ring.h"
#include "ipc/session.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct client {
    int fd;
    struct ipc_session *session;
    struct ipc_welcome w;
    struct ipc_region request, reply;
    volatile struct ipc_request_words *ours;
    const volatile struct ipc_reply_words *theirs;
};

static void start(struct client *c)
{
    const struct ipc_limits limits = {
        {8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN}, {8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN}, 4};
    struct ipc_hello hello;
    int pair[2], fds[2];
    char why[200];
    unsigned n_fds;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    const struct ipc_peer peer = {.fd = pair[1], .pidfd = -1};
    c->fd = pair[0];
    assert_int_equal(ipc_session_new(&c->session, &peer), 0);
    ipc_plan_hello(&limits.preset, &hello);
    assert_int_equal(ipc_send(c->fd, &hello, sizeof(hello), NULL, 0), 0);
    assert_int_equal(ipc_session_receive(c->session, 0), IPC_RECEIVED_HELLO);
    assert_int_equal(ipc_session_open(c->session, &limits, 1), 0);
    assert_int_equal(ipc_receive(c->fd, &c->w, sizeof(c->w), fds, 2, &n_fds, 0), sizeof(c->w));
    assert_int_equal(
        ipc_region_map(&c->request, fds[0], c->w.request_size, IPC_CLIENT_WRITES, why, sizeof(why)),
        0);
    assert_int_equal(
        ipc_region_map(&c->reply, fds[1], c->w.reply_size, IPC_SERVICE_WRITES, why, sizeof(why)),
        0);
    c->ours = (volatile void *)c->request.base;
    c->theirs = (const volatile void *)c->reply.base;
}

static void stop(struct client *c)
{
    ipc_session_free(c->session);
    ipc_region_done(&c->request);
    ipc_region_done(&c->reply);
    close(c->fd);
}

static void submit(struct client *c, uint64_t id)
{
    const struct ipc_request_record r = {
        .id = id, .op = IPC_OP_GENERATE, .input = IPC_INPUT_TEXT, .input_bytes = 1};
    struct ipc_request request;
    uint8_t buffer[IPC_BYTES_MIN];

    ipc_copy_to_shared(c->request.base + c->w.submit_offset + (id - 1) % 8 * sizeof(r), &r,
                       sizeof(r));
    c->ours->submit_tail = id;
    assert_int_equal(ipc_session_take(c->session, &request, buffer, sizeof(buffer)), 1);
    assert_int_equal(request.r.id, id);
}

/* Fills the event ring as far as it goes. */
static unsigned fill(struct client *c, uint64_t id)
{
    const struct ipc_event_record e = {.id = id, .type = IPC_EVENT_TOKEN};
    unsigned n = 0;
    int r;

    while ((r = ipc_session_post(c->session, &e, NULL, 0)) == 0)
        n++;
    assert_int_equal(r, -EAGAIN);
    return n;
}

/* Asleep for records, then a sequence parks: from then on it asks for room too. */
static void test_park_while_armed(void **state)
{
    struct client c;

    (void)state;
    start(&c);
    submit(&c, 1);
    assert_int_equal(ipc_session_arm(c.session), 0);
    assert_int_equal(c.theirs->service_wants & IPC_WANT_MASK, IPC_WANT_RECORDS);
    uint64_t word = c.theirs->service_wants;
    assert_int_equal(fill(&c, 1), 63); /* a slot is kept */
    assert_int_equal(c.theirs->service_wants & IPC_WANT_MASK, IPC_WANT_RECORDS | IPC_WANT_ROOM);
    assert_int_not_equal(c.theirs->service_wants / IPC_WANT_STEP, word / IPC_WANT_STEP);
    assert_int_equal(ipc_session_poll(c.session), 0);
    c.ours->event_head = 1;
    assert_int_equal(ipc_session_poll(c.session), IPC_WANT_ROOM);
    assert_int_equal(fill(&c, 1), 1);
    stop(&c);
}

/* Parked while awake, then armed: the same; and room that came before the arming is found. */
static void test_park_then_arm(void **state)
{
    struct ipc_event_record final = {.id = 1};
    struct client c;

    (void)state;
    start(&c);
    ipc_session_disarm(c.session);
    submit(&c, 1);
    fill(&c, 1);
    assert_int_equal(c.theirs->service_wants & IPC_WANT_MASK, 0);
    assert_int_equal(ipc_session_arm(c.session), 0);
    assert_int_equal(c.theirs->service_wants & IPC_WANT_MASK, IPC_WANT_RECORDS | IPC_WANT_ROOM);
    ipc_session_disarm(c.session);
    c.ours->event_head = 5;
    assert_int_equal(ipc_session_arm(c.session), 1);
    assert_int_equal(c.theirs->service_wants & IPC_WANT_MASK, 0);
    assert_int_equal(ipc_session_poll(c.session), IPC_WANT_ROOM);
    fill(&c, 1);
    assert_int_equal(ipc_session_finish(c.session, &final, NULL), 0); /* the kept slot */
    assert_int_equal(c.theirs->event_tail - c.ours->event_head, 64);
    assert_int_equal(ipc_session_finish(c.session, &final, NULL), -ENOENT); /* only once */
    stop(&c);
}

/* A submission for whose final event nothing can be kept waits in the ring, and asks for room. */
static void test_held(void **state)
{
    const struct ipc_request_record r = {
        .id = 2, .op = IPC_OP_GENERATE, .input = IPC_INPUT_TEXT, .input_bytes = 1};
    struct ipc_request request;
    uint8_t buffer[IPC_BYTES_MIN];
    struct client c;

    (void)state;
    start(&c);
    submit(&c, 1);
    fill(&c, 1);
    ipc_copy_to_shared(c.request.base + c.w.submit_offset + sizeof(r), &r, sizeof(r));
    c.ours->submit_tail = 2;
    assert_int_equal(ipc_session_take(c.session, &request, buffer, sizeof(buffer)), 0);
    assert_int_equal(c.theirs->submit_head, 1);
    assert_int_equal(ipc_session_arm(c.session), 0);
    assert_int_equal(c.theirs->service_wants & IPC_WANT_MASK, IPC_WANT_RECORDS | IPC_WANT_ROOM);
    c.ours->event_head = 1;
    assert_int_equal(ipc_session_arm(c.session), 1);
    assert_int_equal(ipc_session_take(c.session, &request, buffer, sizeof(buffer)), 1);
    assert_int_equal(request.r.id, 2);
    stop(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_park_while_armed),
        cmocka_unit_test(test_park_then_arm),
        cmocka_unit_test(test_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
