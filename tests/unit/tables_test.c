/* A tokenizer's tables kept as a block: what comes back encodes as before; damage is found; and what
 * a stranger wrote, with a checksum that fits, is refused or does the same. */
#include "svc/text/stream.h"
#include "svc/text/tables.h"
#include "tests/support/vocab.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include <cmocka.h>

#define IDS_MAX  4096
#define N_MERGES 1500
#define N_FLIPS  10000

static const char text[] =
    "Resident weights: loaded once, at 0.5 GB/s; then (never) again.\n\n    int main(void) { "
    "return 42; }\n<|im_start|>user\nÜbergrößenträger, naïve café — 价格是 1234 元。 "
    "Привет, как дела? 안녕하세요 \xF0\x9F\x8C\x8D\xF0\x9F\x9A\x80<|im_end|><tool_call>"
    "antidisestablishmentarianism        ......... x_1+=y*z/3; don't we'll I'VE\r\n\t\tend";

struct encoding {
    uint32_t ids[IDS_MAX];
    size_t n;
};

static void encode(const struct text_tokenizer *t, bool special, struct encoding *ret)
{
    assert_int_equal(text_encode(t, text, sizeof text - 1, special, ret->ids, IDS_MAX, &ret->n), 0);
}

static void check_same(const struct text_tokenizer *t, const struct text_tokenizer *as)
{
    static struct encoding got, want;
    for (int special = 0; special < 2; special++) {
        encode(t, special, &got);
        encode(as, special, &want);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.ids, want.ids, got.n * sizeof *got.ids);
    }
}

static uint8_t *block_of(const struct text_tokenizer *t, size_t *ret_bytes)
{
    *ret_bytes = text_tables_bytes(t);
    uint8_t *block = aligned_alloc(64, (*ret_bytes + 63) / 64 * 64);
    assert_non_null(block);
    text_tables_write(t, block);
    return block;
}

static void the_bound_before_building_holds(void **state)
{
    (void)state;
    struct vocab_file file;
    struct text_tokenizer *t;
    char why[256];
    for (size_t n_merges = 100; n_merges < 1000000; n_merges *= 20) {
        assert_int_equal(vocab_file_load(&file, VOCAB_FILE_QWEN2, n_merges), 0);
        assert_int_equal(text_tokenizer_new(&t, &file.source, why, sizeof why), 0);
        size_t bytes = text_tables_bytes(t), most = text_tables_bytes_max(&file.source);
        print_message("%zu merges: %zu bytes, at most %zu\n", n_merges, bytes, most);
        assert_in_range(most, bytes, 4 * bytes + (2u << 20));
        text_tokenizer_free(t);
        vocab_file_done(&file);
    }
    struct text_span endless = {"", SIZE_MAX}, two[2] = {endless, endless};
    const struct text_vocab_source made_up = {.tokens = two, .n_tokens = 2};
    assert_int_equal(text_tables_bytes_max(&made_up), 0);
    const struct text_vocab_source none = {.n_tokens = 0};
    assert_int_equal(text_tables_bytes_max(&none), 0);
}

static void the_whole_vocabulary_comes_back(void **state)
{
    (void)state;
    struct text_tokenizer *t = vocab_tokenizer(), *again;
    char why[256] = "";
    size_t bytes;
    uint8_t *block = block_of(t, &bytes);
    for (int own = 0; own < 2; own++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        assert_int_equal(text_tables_open(&again, block, bytes, own, why, sizeof why), 0);
        clock_gettime(CLOCK_MONOTONIC, &b);
        print_message("%zu bytes opened in %.1f ms, %s\n", bytes,
                      (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6,
                      own ? "known" : "proven");
        check_same(again, t);
        assert_int_equal(text_n_vocab(again), text_n_vocab(t));
        assert_memory_equal(text_tokenizer_ids(again), text_tokenizer_ids(t),
                            sizeof(struct text_ids));
        struct text_span x = text_tokenizer_template(again), y = text_tokenizer_template(t);
        assert_int_equal(x.len, y.len);
        assert_memory_equal(x.s, y.s, x.len);
        for (uint32_t id = 0; id < text_n_vocab(t); id++) {
            const char *s, *s_again;
            size_t n, n_again;
            assert_int_equal(text_token_bytes(t, id, &s, &n),
                             text_token_bytes(again, id, &s_again, &n_again));
            assert_int_equal(text_is_control(t, id), text_is_control(again, id));
            assert_int_equal(n, n_again);
            assert_memory_equal(s, s_again, n);
        }
        /* What was read from a block can be written again, the same. */
        size_t bytes_again;
        uint8_t *block_again = block_of(again, &bytes_again);
        assert_int_equal(bytes_again, bytes);
        assert_memory_equal(block_again, block, bytes);
        free(block_again);
        text_tokenizer_free(again);
    }
    free(block);
    text_tokenizer_free(t);
}

static struct text_tokenizer *small_tokenizer(void)
{
    struct vocab_file file;
    struct text_tokenizer *t;
    char why[256] = "";
    assert_int_equal(vocab_file_load(&file, VOCAB_FILE_QWEN2, N_MERGES), 0);
    assert_int_equal(text_tokenizer_new(&t, &file.source, why, sizeof why), 0);
    vocab_file_done(&file);
    return t;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void damage_is_found(void **state)
{
    (void)state;
    struct text_tokenizer *t = small_tokenizer(), *again;
    char why[256];
    size_t bytes;
    uint8_t *block = block_of(t, &bytes);
    uint64_t random = 1;
    for (int i = 0; i < N_FLIPS; i++) {
        size_t at = next_random(&random) % bytes;
        uint8_t bit = (uint8_t)(1u << next_random(&random) % 8);
        block[at] ^= bit;
        int r = text_tables_open(&again, block, bytes, i % 2, why, sizeof why);
        assert_int_equal(r, at < 8 ? -ENOENT : -EBADMSG);
        block[at] ^= bit;
    }
    for (size_t n = 0; n < bytes; n += 1 + n / 3)
        assert_true(text_tables_open(&again, block, n, true, why, sizeof why) < 0);
    assert_int_equal(text_tables_open(&again, block, bytes, true, why, sizeof why), 0);
    text_tokenizer_free(again);
    free(block);
    text_tokenizer_free(t);
}

/* The header as tables.c has it: the checksum at 16 covers the bytes from 24 on. */
static void fix_checksum(uint8_t *block, size_t bytes)
{
    uint64_t checksum = XXH3_64bits(block + 24, bytes - 24);
    memcpy(block + 16, &checksum, sizeof checksum);
}

static void what_a_stranger_wrote_is_proven(void **state)
{
    (void)state;
    struct text_tokenizer *t = small_tokenizer(), *again;
    char why[256];
    size_t bytes, n_taken = 0;
    uint8_t *block = block_of(t, &bytes);
    uint8_t *original = block_of(t, &bytes);
    uint64_t random = 2;
    for (int i = 0; i < N_FLIPS; i++) {
        size_t at = 24 + next_random(&random) % (bytes - 24);
        if (i % 4 == 0)
            at = 24 + next_random(&random) % 104; /* the counts */
        block[at] ^= (uint8_t)(1u << next_random(&random) % 8);
        fix_checksum(block, bytes);
        if (text_tables_open(&again, block, bytes, false, why, sizeof why) == 0) {
            check_same(again, t);
            text_tokenizer_free(again);
            n_taken++;
        }
        block[at] = original[at];
    }
    print_message("%zu of %d changes were without effect\n", n_taken, N_FLIPS);
    assert_true(n_taken < N_FLIPS / 2);
    free(original);
    free(block);
    text_tokenizer_free(t);
}

static void the_version_is_stable(void **state)
{
    (void)state;
    assert_int_equal(text_tables_version(), text_tables_version());
    assert_true(text_tables_version() > UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bound_before_building_holds),
        cmocka_unit_test(the_whole_vocabulary_comes_back),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(what_a_stranger_wrote_is_proven),
        cmocka_unit_test(the_version_is_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
