/* The streaming decoder: whole characters only, and U+FFFD as a decoder of the whole would. */
#include "svc/text/stream.h"
#include "tests/support/vocab.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct text_tokenizer *qwen2;

/* The id of a single byte. */
static uint32_t byte_id(uint8_t byte)
{
    for (uint32_t id = 0; id < 256; id++) {
        const char *s;
        size_t n;
        assert_int_equal(text_token_bytes(qwen2, id, &s, &n), 0);
        if (n == 1 && (uint8_t)*s == byte)
            return id;
    }
    fail();
    return 0;
}

/* Streams bytes one token each; what every step writes is checked to be whole characters. */
static void assert_streams(const char *bytes, size_t n, const char *want, size_t n_want)
{
    struct text_stream stream;
    char out[256];
    size_t used = 0, len;

    text_stream_init(&stream, qwen2, false);
    for (size_t i = 0; i < n; i++) {
        int r = text_stream_push(&stream, byte_id((uint8_t)bytes[i]), out + used, 256 - used, &len);
        assert_int_equal(r, 0);
        assert_true(text_utf8_valid(out + used, len, NULL));
        used += len;
    }
    assert_int_equal(text_stream_finish(&stream, out + used, 256 - used, &len), 0);
    used += len;
    assert_int_equal(used, n_want);
    assert_memory_equal(out, want, n_want);
}

#define FFFD "\xEF\xBF\xBD"

/* Unicode 14, tables 3-8 to 3-11, and the ends of a text. */
static void replacement_of_maximal_subparts(void **state)
{
    static const struct {
        const char *bytes, *want;
    } cases[] = {
        {"a\xE2\x82\xAC\xF0\x9F\x98\x80z", "a\xE2\x82\xAC\xF0\x9F\x98\x80z"},
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", FFFD FFFD FFFD FFFD "A"},
        {"\xE2\x82", FFFD},
        {"x\xF0\x9F\x98", "x" FFFD},
        {"\xE2\x82\xE2\x82\xAC", FFFD "\xE2\x82\xAC"},
        {"", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_streams(cases[i].bytes, strlen(cases[i].bytes), cases[i].want,
                       strlen(cases[i].want));
}

/* Nothing is written before it is whole, and nothing waits longer. */
static void writes_when_whole(void **state)
{
    static const char text[] = "\xF0\x9F\x91\xA8\xE0\xB8\x81";
    const size_t want[] = {0, 0, 0, 4, 0, 0, 3};
    struct text_stream stream;
    char out[16];
    size_t len;

    (void)state;
    text_stream_init(&stream, qwen2, false);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(text_stream_push(&stream, byte_id((uint8_t)text[i]), out, 16, &len), 0);
        assert_int_equal(len, want[i]);
    }
    assert_int_equal(text_stream_finish(&stream, out, 16, &len), 0);
    assert_int_equal(len, 0);
}

static void control_tokens(void **state)
{
    struct text_stream stream;
    char out[64];
    size_t len;

    (void)state;
    text_stream_init(&stream, qwen2, false);
    assert_int_equal(text_stream_push(&stream, 151645, out, 64, &len), 0);
    assert_int_equal(len, 0);
    text_stream_init(&stream, qwen2, true);
    assert_int_equal(text_stream_push(&stream, 151645, out, 64, &len), 0);
    assert_int_equal(len, 10);
    assert_memory_equal(out, "<|im_end|>", 10);
}

static void failures_take_nothing(void **state)
{
    struct text_stream stream;
    char out[8], *text = NULL;
    size_t len = 99;

    (void)state;
    text_stream_init(&stream, qwen2, false);
    assert_int_equal(text_stream_push(&stream, byte_id(0xE2), out, 8, &len), 0);
    assert_int_equal(text_stream_push(&stream, byte_id(0x82), out, 8, &len), 0);
    len = 99;
    assert_int_equal(text_stream_push(&stream, byte_id(0xAC), out, 2, &len), -ENOSPC);
    assert_int_equal(text_stream_push(&stream, 151646, out, 8, &len), -EINVAL);
    assert_int_equal(text_stream_finish(&stream, out, 2, &len), -ENOSPC);
    assert_int_equal(len, 99);
    assert_int_equal(text_stream_push(&stream, byte_id(0xAC), out, 3, &len), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(out, "\xE2\x82\xAC", 3);
    const uint32_t bad[] = {5, 200000};
    assert_int_equal(text_decode(qwen2, bad, 2, false, &text, &len), -EINVAL);
    assert_null(text);
}

static int setup(void **state)
{
    (void)state;
    qwen2 = vocab_tokenizer();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    text_tokenizer_free(qwen2);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replacement_of_maximal_subparts),
        cmocka_unit_test(writes_when_whole),
        cmocka_unit_test(control_tokens),
        cmocka_unit_test(failures_take_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
