/* The rings alone, both sides in one process: going around, lies about indices, sleep and wake. */
#include "ipc/ring.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ENTRIES 8

struct pair {
    uint64_t tail, head, bytes_head, consumer_wants;
    uint8_t slots[ENTRIES * 16];
    uint8_t memory[100];
    struct ipc_out out;
    struct ipc_in in;
    struct ipc_bytes_out bytes_out;
    struct ipc_bytes_in bytes_in;
    struct ipc_want want;
    struct ipc_bell bell;
};

static void pair_init(struct pair *p)
{
    memset(p, 0, sizeof(*p));
    p->out = (struct ipc_out){&p->tail, &p->head, p->slots, ENTRIES, 16, 0, 0};
    p->in = (struct ipc_in){&p->tail, &p->head, p->slots, ENTRIES, 16, 0, 0};
    p->bytes_out = (struct ipc_bytes_out){&p->bytes_head, p->memory, sizeof(p->memory), 0, 0};
    p->bytes_in = (struct ipc_bytes_in){&p->bytes_head, p->memory, sizeof(p->memory), 0};
    p->want.word = &p->consumer_wants;
    p->bell.word = &p->consumer_wants;
}

static void test_around(void **state)
{
    struct pair p;
    uint64_t record[2], next = 0, sent = 0;

    (void)state;
    pair_init(&p);
    assert_int_equal(ipc_in_peek(&p.in, record, 16), 0);
    for (int round = 0; round < 100; round++) {
        while (ipc_out_has_room(&p.out, 1) == 1) {
            record[0] = sent;
            record[1] = ~sent++;
            ipc_out_put(&p.out, record, 16);
            if (round == 0)
                assert_int_equal(ipc_in_waiting(&p.in), 0); /* not before it is published */
        }
        ipc_out_publish(&p.out);
        assert_int_equal(sent - next, ENTRIES);
        assert_int_equal(ipc_out_has_room(&p.out, 1), 0);
        for (int i = 0; i < 1 + round % ENTRIES; i++) {
            assert_int_equal(ipc_in_peek(&p.in, record, 16), 1);
            assert_int_equal(record[0], next);
            assert_int_equal(record[1], ~next);
            next++;
            ipc_in_next(&p.in);
            ipc_in_release(&p.in);
        }
    }
}

/* Every distance that cannot be is refused at full width, and nothing moves. */
static void test_lies(void **state)
{
    static const uint64_t far[] = {ENTRIES + 1,       UINT32_MAX,
                                   UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1,
                                   UINT64_C(1) << 63, UINT64_MAX};
    struct pair p;
    uint64_t record[2] = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
        pair_init(&p);
        p.tail = far[i];
        assert_int_equal(ipc_in_peek(&p.in, record, 16), -EPROTO);
        assert_int_equal(p.in.read, 0);
        assert_int_equal(p.in.produced, 0);

        pair_init(&p);
        p.head = far[i];
        assert_int_equal(ipc_out_has_room(&p.out, ENTRIES), 1); /* known without a look */
        assert_int_equal(ipc_out_has_room(&p.out, ENTRIES + 1), -EPROTO);

        pair_init(&p);
        p.bytes_head = far[i];
        assert_int_equal(ipc_bytes_out_has_room(&p.bytes_out, 101), -EPROTO);
    }
    /* Backwards. */
    pair_init(&p);
    for (int i = 0; i < 4; i++)
        ipc_out_put(&p.out, record, 16);
    ipc_out_publish(&p.out);
    assert_int_equal(ipc_in_waiting(&p.in), 4);
    p.tail = 3;
    assert_int_equal(ipc_in_waiting(&p.in), -EPROTO);
    p.tail = 4;
    p.head = 3;
    assert_int_equal(ipc_out_has_room(&p.out, ENTRIES), 0);
    p.head = 2;
    assert_int_equal(ipc_out_has_room(&p.out, ENTRIES), -EPROTO);
}

static void test_bytes(void **state)
{
    struct pair p;
    uint8_t data[64], got[64];
    uint64_t pos = 0;

    (void)state;
    pair_init(&p);
    for (unsigned i = 0; i < 500; i++) {
        uint32_t n = (i * 7) % 64;

        for (uint32_t k = 0; k < n; k++)
            data[k] = (uint8_t)(i + k);
        assert_int_equal(ipc_bytes_out_has_room(&p.bytes_out, n), 1);
        assert_int_equal(ipc_bytes_out_put(&p.bytes_out, data, n), pos);
        memset(got, 0xee, sizeof(got));
        assert_int_equal(ipc_bytes_in_get(&p.bytes_in, pos + 1, n, got), -EPROTO);
        assert_int_equal(got[0], 0xee);
        assert_int_equal(ipc_bytes_in_get(&p.bytes_in, pos, n, got), 0);
        assert_memory_equal(got, data, n);
        ipc_bytes_in_release(&p.bytes_in);
        pos += n;
    }
    assert_int_equal(ipc_bytes_in_get(&p.bytes_in, pos, 101, got), -EPROTO);
    assert_int_equal(ipc_bytes_out_has_room(&p.bytes_out, 101), 0);
}

static void test_bell(void **state)
{
    struct pair p;

    (void)state;
    pair_init(&p);
    assert_false(ipc_bell_due(&p.bell)); /* nothing moved */
    ipc_bell_moved(&p.bell, IPC_WANT_RECORDS);
    assert_false(ipc_bell_due(&p.bell)); /* nobody sleeps */
    ipc_want_arm(&p.want, IPC_WANT_RECORDS);
    assert_false(ipc_bell_due(&p.bell)); /* what moved before was there for the second look */
    ipc_bell_moved(&p.bell, IPC_WANT_ROOM);
    assert_false(ipc_bell_due(&p.bell)); /* not what it sleeps for */
    ipc_bell_moved(&p.bell, IPC_WANT_RECORDS);
    assert_true(ipc_bell_due(&p.bell));
    ipc_bell_moved(&p.bell, IPC_WANT_RECORDS);
    assert_false(ipc_bell_due(&p.bell)); /* once for each arming */
    ipc_want_arm(&p.want, IPC_WANT_RECORDS | IPC_WANT_ROOM);
    ipc_bell_moved(&p.bell, IPC_WANT_ROOM);
    assert_true(ipc_bell_due(&p.bell));
    ipc_want_arm(&p.want, IPC_WANT_RECORDS);
    ipc_want_disarm(&p.want);
    ipc_bell_moved(&p.bell, IPC_WANT_RECORDS);
    assert_false(ipc_bell_due(&p.bell));
}

/* Copies of every alignment and length, byte for byte, and not one byte more. */
static void test_copies(void **state)
{
    uint8_t from[96], to[96];

    (void)state;
    for (size_t i = 0; i < sizeof(from); i++)
        from[i] = (uint8_t)(i * 37 + 1);
    for (size_t a = 0; a < 16; a++) {
        for (size_t b = 0; b < 16; b++) {
            for (size_t n = 0; n < 64; n++) {
                memset(to, 0, sizeof(to));
                if (a & 1)
                    ipc_copy_from_shared(to + b, from + a, n);
                else
                    ipc_copy_to_shared(to + b, from + a, n);
                assert_memory_equal(to + b, from + a, n);
                assert_int_equal(to[b + n], 0);
                assert_true(b == 0 || to[b - 1] == 0);
            }
        }
    }
}

static void *produce(void *arg)
{
    struct pair *p = arg;
    uint64_t record[2];

    for (uint64_t i = 0; i < 200000;) {
        while (i < 200000 && ipc_out_has_room(&p->out, 1) == 1) {
            record[0] = i;
            record[1] = ~i;
            ipc_out_put(&p->out, record, 16);
            i++;
        }
        ipc_out_publish(&p->out);
    }
    return NULL;
}

/* Two threads over one mapping: what ThreadSanitizer is to see. */
static void test_threads(void **state)
{
    static struct pair p;
    pthread_t thread;
    uint64_t record[2];

    (void)state;
    pair_init(&p);
    assert_int_equal(pthread_create(&thread, NULL, produce, &p), 0);
    for (uint64_t i = 0; i < 200000;) {
        if (ipc_in_peek(&p.in, record, 16) == 0)
            continue;
        assert_int_equal(record[0], i);
        assert_int_equal(record[1], ~i);
        ipc_in_next(&p.in);
        ipc_in_release(&p.in);
        i++;
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_around), cmocka_unit_test(test_lies),
        cmocka_unit_test(test_bytes),  cmocka_unit_test(test_bell),
        cmocka_unit_test(test_copies), cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
