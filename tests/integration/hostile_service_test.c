/*
 * Services that lie to the library: in the welcome, in the descriptors, in every event and index.
 * The library answers with an error, never with a crash, and never waits for ever on a dead peer.
 */
#define _GNU_SOURCE
#include "tests/support/raw_service.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static int adopt_with(const struct ipc_welcome *w, int fd0, int fd1, unsigned n_fds)
{
    struct raw_service s;
    int fds[2];
    quern *q;

    raw_service_init(&s);
    fds[0] = fd0 == -1 ? s.request.fd : fd0;
    fds[1] = fd1 == -1 ? s.reply.fd : fd1;
    raw_service_welcome(&s, w != NULL ? w : &s.w, sizeof(*w), fds, n_fds);
    int r = quern_adopt(&q, s.client_fd);
    s.client_fd = -1;
    if (r == 0)
        quern_close(q);
    else
        assert_true(strlen(quern_connect_error()) > 10);
    raw_service_done(&s);
    return r;
}

static void test_welcome_lies(void **state)
{
    struct raw_service s;
    struct ipc_welcome w;

    (void)state;
    raw_service_init(&s);
    assert_int_equal(adopt_with(NULL, -1, -1, 2), 0);
#define LIE(change)                                                                                \
    do {                                                                                           \
        w = s.w;                                                                                   \
        change;                                                                                    \
        assert_int_equal(adopt_with(&w, -1, -1, 2), -EPROTO);                                      \
    } while (0)
    LIE(w.magic++);
    LIE(w.type = IPC_PACKET_HELLO);
    LIE(w.version = 2);
    LIE(w.features = 2);
    LIE(w.reserved0 = 1);
    LIE(w.reserved1 = 1);
    LIE(w.reserved[1] = 1);
    LIE(w.request_size += IPC_PAGE);
    LIE(w.request_size -= IPC_PAGE);
    LIE(w.reply_size = UINT64_MAX);
    LIE(w.reply_size = 0);
    LIE(w.submit_offset = 0);
    LIE(w.submit_offset = UINT64_MAX - 4095);
    LIE(w.submit_offset += 8);
    LIE(w.request_offset = w.submit_offset);
    LIE(w.request_offset = UINT64_MAX);
    LIE(w.event_offset = w.reply_offset);
    LIE(w.reply_offset = w.reply_size);
    LIE(w.submit_entries = 0);
    LIE(w.submit_entries = 9);
    LIE(w.submit_entries = UINT32_MAX);
    LIE(w.event_entries = 65536);
    LIE(w.request_bytes = UINT32_MAX);
    LIE(w.request_bytes += IPC_PAGE);
    LIE(w.reply_bytes = 0);
    LIE(w.submit_stride = 0);
    LIE(w.event_stride = 1 << 30);
    LIE(w.requests_max = 0);
    raw_service_done(&s);
}

static void test_descriptor_lies(void **state)
{
    struct raw_service s;
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    int open_memfd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    (void)state;
    raw_service_init(&s);
    assert_int_equal(ftruncate(open_memfd, (off_t)s.w.request_size), 0);
    assert_int_equal(adopt_with(NULL, -1, -1, 0), -EPROTO);
    assert_int_equal(adopt_with(NULL, -1, -1, 1), -EPROTO);
    assert_int_equal(adopt_with(NULL, file, -1, 2), -EPROTO);
    assert_int_equal(adopt_with(NULL, -1, file, 2), -EPROTO);
    assert_int_equal(adopt_with(NULL, open_memfd, -1, 2), -EPROTO); /* no seals: could shrink */
    struct ipc_region small;
    assert_int_equal(ipc_region_make(&small, "small", IPC_PAGE, IPC_PAGE, IPC_SERVICE_WRITES), 0);
    assert_int_equal(adopt_with(NULL, -1, small.fd, 2), -EPROTO);
    ipc_region_done(&small);
    raw_service_done(&s);
    close(file);
    close(open_memfd);
}

static quern *with_request(struct raw_service *s, uint64_t *ret_id)
{
    struct quern_request r;

    raw_service_init(s);
    quern *q = raw_service_adopt(s);
    quern_request_init(&r);
    r.input = "x";
    r.input_size = 1;
    assert_int_equal(quern_submit(q, &r, ret_id), 0);
    assert_int_equal(*ret_id, 1);
    return q;
}

/* One event, true but for one lie: −EPROTO, and for ever after. */
static void event_lie(struct ipc_event_record e, uint64_t tail)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    struct raw_service s;
    uint64_t id;
    quern *q = with_request(&s, &id);

    raw_service_event(&s, 0, &e, tail);
    assert_int_equal(quern_next(q, id, &event, 1000), -EPROTO);
    assert_int_equal(quern_next(q, 0, &event, -1), -EPROTO);
    quern_request_init(&r);
    assert_int_equal(quern_submit(q, &r, &id), -EPROTO);
    assert_true(strlen(quern_error(q)) > 10);
    quern_event_done(&event);
    quern_close(q);
    raw_service_done(&s);
}

static void test_event_lies(void **state)
{
    const struct ipc_event_record good = {.id = 1, .type = IPC_EVENT_TOKEN};
    struct ipc_event_record e;

    (void)state;
#define EVENT_LIE(change)                                                                          \
    do {                                                                                           \
        e = good;                                                                                  \
        change;                                                                                    \
        event_lie(e, 1);                                                                           \
    } while (0)
    EVENT_LIE(e.id = 2);
    EVENT_LIE(e.id = 0);
    EVENT_LIE(e.type = 0);
    EVENT_LIE(e.type = IPC_EVENT_LAST + 1);
    EVENT_LIE(e.bytes = IPC_DATA_MAX + 1);
    EVENT_LIE(e.bytes = UINT32_MAX);
    EVENT_LIE(e.pos = 1);
    EVENT_LIE(e.pos = UINT64_MAX);
    EVENT_LIE((e.type = IPC_EVENT_FINAL, e.u.final.reason = 6));
    EVENT_LIE((e.type = IPC_EVENT_FINAL, e.u.final.code = 13));
    EVENT_LIE((e.type = IPC_EVENT_FINAL, e.bytes = IPC_SENTENCE_MAX + 1));
    EVENT_LIE((e.type = IPC_EVENT_DATA, e.u.data.kind = IPC_DATA_LAST + 1));
    EVENT_LIE((e.type = IPC_EVENT_DATA, e.u.data.kind = IPC_DATA_IDS, e.bytes = 3));
    EVENT_LIE((e.type = IPC_EVENT_DATA, e.u.data.kind = IPC_DATA_HANDLE, e.bytes = 4));
    EVENT_LIE((e.type = IPC_EVENT_PROGRESS));
    EVENT_LIE((e.type = IPC_EVENT_ACCEPTED, e.bytes = 1));
    event_lie(good, 65);
    event_lie(good, UINT64_MAX);
    event_lie(good, UINT64_C(1) << 32);
}

static void test_index_lies(void **state)
{
    struct ipc_event_record e = {.id = 1, .type = IPC_EVENT_TOKEN};
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    struct raw_service s;
    uint64_t id;
    quern *q = with_request(&s, &id);
    int result = 0;

    (void)state;
    raw_service_event(&s, 0, &e, 1);
    assert_int_equal(quern_next(q, id, &event, 1000), 0);
    raw_service_event(&s, 0, &e, 0); /* the tail goes back */
    assert_int_equal(quern_next(q, id, &event, 1000), -EPROTO);
    quern_close(q);
    raw_service_done(&s);

    q = with_request(&s, &id); /* more taken than was submitted */
    s.ours->submit_head = 1000;
    quern_request_init(&r);
    for (int i = 0; i < 20 && result == 0; i++)
        result = quern_submit(q, &r, &id);
    assert_int_equal(result, -EPROTO);
    quern_close(q);
    raw_service_done(&s);

    q = with_request(&s, &id); /* an event after the final one, and a second final one */
    e.type = IPC_EVENT_FINAL;
    raw_service_event(&s, 0, &e, 1);
    raw_service_event(&s, 1, &e, 2);
    assert_int_equal(quern_next(q, 0, &event, 1000), 0);
    assert_int_equal(event.type, QUERN_EVENT_FINAL);
    assert_int_equal(quern_next(q, 0, &event, 1000), -EPROTO);
    quern_close(q);
    raw_service_done(&s);
    quern_event_done(&event);
}

/* A hang-up ends every wait; what was in the ring before it is still read; memory that was taken
 * back is a hang-up too, and garbage on the socket is no event. */
static void test_hang_up(void **state)
{
    struct ipc_event_record e = {.id = 1, .type = IPC_EVENT_TOKEN};
    struct quern_event event = QUERN_EVENT_INIT;
    struct raw_service s;
    uint64_t id;
    quern *q = with_request(&s, &id);

    (void)state;
    assert_int_equal(send(s.fd, "garbage of any length", 21, 0), 21);
    assert_int_equal(quern_next(q, id, &event, 20), -EAGAIN);
    raw_service_event(&s, 0, &e, 1);
    close(s.fd);
    s.fd = -1;
    assert_int_equal(quern_next(q, id, &event, -1), 0);
    assert_int_equal(event.type, QUERN_EVENT_TOKEN);
    assert_int_equal(quern_next(q, id, &event, -1), -ECONNRESET);
    quern_close(q);
    raw_service_done(&s);

    q = with_request(&s, &id);
    raw_service_event(&s, 0, &e, 1);
    assert_int_equal(quern_next(q, id, &event, -1), 0);
    assert_int_equal(ipc_region_punch(s.reply.fd), 0);
    close(s.fd);
    s.fd = -1;
    assert_int_equal(quern_next(q, id, &event, -1), -ECONNRESET);
    quern_close(q);
    raw_service_done(&s);
    quern_event_done(&event);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_welcome_lies), cmocka_unit_test(test_descriptor_lies),
        cmocka_unit_test(test_event_lies),   cmocka_unit_test(test_index_lies),
        cmocka_unit_test(test_hang_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
