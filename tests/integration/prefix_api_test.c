/* Prefixes pinned, forked and unpinned by handle: the bytes are those of the whole prompt, and the
 * limits hold. */
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 64, N_PREFIX = 200, N_MORE = 150, N_TAIL = 20, N_TOKENS = 24 };

static struct quernd service;
static uint32_t ids[N_PREFIX + N_MORE + N_TAIL];

struct answer {
    uint32_t tokens[N_TOKENS];
    int n;
    uint32_t n_gaps;
    struct quern_result result;
};

static int take_token(void *arg, const struct quern_event *event)
{
    struct answer *a = arg;
    if (event->type == QUERN_EVENT_TOKEN && a->n < N_TOKENS) {
        assert_true(a->n > 0 || event->u.token.gap_us == 0);
        a->n_gaps += event->u.token.gap_us > 0;
        a->tokens[a->n++] = event->u.token.token;
    }
    return 0;
}

static struct answer generate(quern *q, uint64_t prefix, size_t from, size_t to)
{
    struct quern_request r;
    struct answer a = {.n = 0};
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids + from;
    r.n_ids = to - from;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED;
    r.max_tokens = N_TOKENS;
    r.temperature = 1;
    r.seed = 5;
    r.prefix = prefix;
    assert_int_equal(quern_generate(q, &r, take_token, &a, &a.result), 0);
    return a;
}

static int pin(quern *q, uint64_t prefix, size_t from, size_t to, uint32_t flags, uint64_t *ret,
               struct quern_result *result)
{
    struct quern_request r;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids + from;
    r.n_ids = to - from;
    r.flags = flags;
    return quern_prefix_fork(q, prefix, &r, ret, result);
}

static quern *connected(void)
{
    quern *q;
    assert_int_equal(quern_connect(&q, service.socket), 0);
    return q;
}

static void forks_have_the_bytes_of_the_whole_prompt(void **state)
{
    (void)state;
    quern *q = connected(), *other = connected();
    const struct answer whole = generate(q, 0, 0, N_PREFIX + N_MORE + N_TAIL);
    assert_int_equal(whole.n, N_TOKENS);
    uint64_t first, second;
    assert_int_equal(pin(q, 0, 0, N_PREFIX, 0, &first, NULL), 0);
    assert_int_equal(quernd_status(&service, "kv_pages_pinned"), N_PREFIX / PAGE);
    assert_int_equal(pin(q, first, N_PREFIX, N_PREFIX + N_MORE, 0, &second, NULL), 0);
    assert_true(first != second);
    /* Pages that both have are counted once. */
    assert_int_equal(quernd_status(&service, "kv_pages_pinned"), (N_PREFIX + N_MORE) / PAGE);
    struct answer a = generate(q, first, N_PREFIX, N_PREFIX + N_MORE + N_TAIL);
    assert_memory_equal(a.tokens, whole.tokens, sizeof whole.tokens);
    assert_int_equal(a.result.final_.prompt_tokens, N_PREFIX + N_MORE + N_TAIL);
    assert_true(a.result.final_.cached_tokens >= N_PREFIX / PAGE * PAGE);
    assert_true(a.n_gaps > 0);
    a = generate(other, second, N_PREFIX + N_MORE, N_PREFIX + N_MORE + N_TAIL);
    assert_memory_equal(a.tokens, whole.tokens, sizeof whole.tokens);
    assert_true(a.result.final_.cached_tokens >= (N_PREFIX + N_MORE) / PAGE * PAGE);
    /* Nothing more than the prefix is a prompt as well. */
    a = generate(q, second, 0, 0);
    const struct answer same = generate(q, 0, 0, N_PREFIX + N_MORE);
    assert_memory_equal(a.tokens, same.tokens, sizeof same.tokens);

    assert_int_equal(quern_prefix_unpin(other, first), 0);
    assert_int_equal(quern_prefix_unpin(q, first), -ENOENT);
    assert_true(strstr(quern_error(q), "no pinned prefix") != NULL);
    a = generate(q, first, 0, 10);
    assert_int_equal(a.result.final_.code, QUERN_CODE_INVALID);
    assert_int_equal(quernd_status(&service, "kv_pages_pinned"), (N_PREFIX + N_MORE) / PAGE);
    assert_int_equal(quern_prefix_unpin(q, second), 0);
    assert_int_equal(quernd_status(&service, "kv_pages_pinned"), 0);
    quern_close(q);
    quern_close(other);
}

static void pins_end_with_their_connection(void **state)
{
    (void)state;
    quern *q = connected(), *other = connected();
    uint64_t mine, kept;
    assert_int_equal(pin(q, 0, 0, N_PREFIX, 0, &mine, NULL), 0);
    assert_int_equal(pin(q, 0, 1, N_PREFIX, QUERN_KEEP, &kept, NULL), 0);
    quern_close(q);
    for (int i = 0; i < 500 && quernd_status(&service, "kv_pages_pinned") > N_PREFIX / PAGE; i++)
        usleep(10000);
    assert_int_equal(quernd_status(&service, "kv_pages_pinned"), (N_PREFIX - 1) / PAGE);
    assert_int_equal(quern_prefix_unpin(other, mine), -ENOENT);
    assert_int_equal(quern_prefix_unpin(other, kept), 0);
    quern_close(other);
}

/* The pool has 20 pages, of which a context needs 8: a user may pin 6. */
static void limits_have_their_numbers(void **state)
{
    (void)state;
    quern *q = connected();
    uint64_t handles[8];
    struct quern_result result;
    int n = 0;
    for (; n < 8; n++) { /* three pages each, none in common */
        assert_int_equal(
            pin(q, 0, (size_t)n + 2, (size_t)n + 2 + N_PREFIX, 0, &handles[n], &result), 0);
        if (result.final_.code != QUERN_CODE_OK)
            break;
    }
    assert_int_equal(n, 2);
    assert_int_equal(result.final_.code, QUERN_CODE_BUSY);
    assert_true(strstr(result.sentence, "may pin 6 and has 6") != NULL);
    /* What is pinned is not promised: the largest request ends all the same. */
    struct answer a = generate(q, 0, 0, N_PREFIX + N_MORE + N_TAIL);
    assert_int_equal(a.n, N_TOKENS);
    while (n > 0)
        assert_int_equal(quern_prefix_unpin(q, handles[--n]), 0);
    assert_int_equal(quernd_status(&service, "kv_pages_pinned"), 0);
    assert_int_equal(quernd_status(&service, "kv_pages_used"), 0);
    quern_close(q);
}

static int prepare(void **state)
{
    (void)state;
    uint32_t x = 9;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        x = x * 1664525 + 1013904223;
        ids[i] = (x >> 16) % 250;
    }
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "2", "--kv-bytes",
                                                 "1310720", "--sequences", "4", NULL});
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forks_have_the_bytes_of_the_whole_prompt),
        cmocka_unit_test(pins_end_with_their_connection),
        cmocka_unit_test(limits_have_their_numbers),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
