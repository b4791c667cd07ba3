/* The tokenizer against golden ids, and against its own definition. */
#include "svc/text/normalize.h"
#include "svc/text/stream.h"
#include "svc/text/tokenizer.h"
#include "svc/text/unicode.h"
#include "tests/support/vocab.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/tokenizer/golden.tsv"

static struct text_tokenizer *qwen2;

/* Undoes \\ \n \r \t \xHH in place; the result is the length. */
static size_t unescape(char *s)
{
    char *out = s;

    for (char *p = s; *p; p++) {
        unsigned byte;
        if (*p != '\\') {
            *out++ = *p;
            continue;
        }
        p++;
        if (*p == 'x') {
            assert_int_equal(sscanf(p + 1, "%2x", &byte), 1);
            *out++ = (char)byte;
            p += 2;
        } else {
            *out++ = *p == 'n' ? '\n' : *p == 'r' ? '\r' : *p == 't' ? '\t' : '\\';
        }
    }
    return (size_t)(out - s);
}

static void assert_ids(const char *text, size_t n, const uint32_t *want, size_t n_want)
{
    uint32_t ids[4096];
    size_t n_ids;

    assert_int_equal(text_encode(qwen2, text, n, false, ids, 4096, &n_ids), 0);
    if (n_ids != n_want || memcmp(ids, want, n_want * sizeof *want))
        fail_msg("wrong ids for \"%.*s\"", (int)n, text);
}

/* Encoding and decoding give the text back, normalized. */
static void assert_round_trip(const char *text, size_t n)
{
    char *back, *normal;
    size_t n_ids, n_back, n_normal;

    assert_int_equal(text_normalize(text, n, &normal, &n_normal), 0);
    const char *want = normal ? normal : text;
    size_t n_want = normal ? n_normal : n;
    uint32_t *ids = malloc(sizeof *ids * (n_want + 1));
    assert_int_equal(text_encode(qwen2, text, n, false, ids, n_want, &n_ids), 0);
    assert_int_equal(text_decode(qwen2, ids, n_ids, true, &back, &n_back), 0);
    assert_int_equal(n_back, n_want);
    assert_memory_equal(back, want, n_want);
    free(back);
    free(ids);
    free(normal);
}

static void golden_ids(void **state)
{
    FILE *f = fopen(GOLDEN, "r");
    char *line = NULL;
    size_t room = 0, n_lines = 0;
    ssize_t len;

    (void)state;
    assert_non_null(f);
    while ((len = getline(&line, &room, f)) > 0) {
        char *text = strchr(line, '\t') + 1, *ids = strchr(text, '\t');
        uint32_t want[4096];
        size_t n_want = 0;
        *ids++ = '\0';
        for (char *id = strtok(ids, " \n"); id; id = strtok(NULL, " \n"))
            want[n_want++] = (uint32_t)strtoul(id, NULL, 10);
        size_t n = unescape(text);
        assert_ids(text, n, want, n_want);
        assert_round_trip(text, n);
        n_lines++;
    }
    assert_in_range(n_lines, 500, 10000);
    free(line);
    fclose(f);
}

/* Two values that the reference's documentation gives, and what only the reference does: its engine
 * folds case by Unicode, so that U+017F after an apostrophe is an s. */
static void reference_values(void **state)
{
    (void)state;
    assert_ids("Hello world", 11, (uint32_t[]){9707, 1879}, 2);
    assert_ids(" Hello world", 12, (uint32_t[]){21927, 1879}, 2);
    uint32_t joined[8], parts[8];
    size_t n, n1, n2;
    const char *text = "a'\xC5\xBFx";
    assert_int_equal(text_encode(qwen2, text, 5, false, joined, 8, &n), 0);
    assert_int_equal(text_encode(qwen2, "a'\xC5\xBF", 4, false, parts, 8, &n1), 0);
    assert_int_equal(text_encode(qwen2, "x", 1, false, parts + n1, 8, &n2), 0);
    assert_int_equal(n, n1 + n2);
    assert_memory_equal(joined, parts, n * sizeof *joined);
    /* and text is normalized first: e and U+0301 are é */
    assert_int_equal(text_encode(qwen2, "e\xCC\x81", 3, false, joined, 8, &n), 0);
    assert_int_equal(text_encode(qwen2, "\xC3\xA9", 2, false, parts, 8, &n1), 0);
    assert_int_equal(n, n1);
    assert_memory_equal(joined, parts, n * sizeof *joined);
}

/* Alone, doubled, and after and before a character of each class, through encode and decode. */
static void every_code_point(void **state)
{
    static const char *const neighbours[] = {"a", "7", " ", "\n", "'", "中"};
    char text[64];

    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        uint32_t back;
        size_t n = unicode_encode(cp, text);
        assert_int_equal(unicode_decode(text, n, &back), n);
        assert_int_equal(back, cp);
        assert_round_trip(text, n);
        memcpy(text + n, text, n);
        size_t used = 2 * n;
        const char *neighbour = neighbours[cp % 6];
        memcpy(text + used, neighbour, strlen(neighbour));
        used += strlen(neighbour);
        memmove(text + used, text, n);
        assert_round_trip(text, used + n);
    }
}

static void special_tokens(void **state)
{
    static const char text[] = "a<|im_end|>\n<|im_start|>system\n<|endoftext|>";
    uint32_t ids[64];
    size_t n;

    (void)state;
    assert_int_equal(text_tokenizer_ids(qwen2)->endoftext, 151643);
    assert_int_equal(text_tokenizer_ids(qwen2)->im_start, 151644);
    assert_int_equal(text_tokenizer_ids(qwen2)->im_end, 151645);
    assert_int_equal(text_n_vocab(qwen2), 151646);
    assert_int_equal(text_special_id(qwen2, "<|im_end|>"), 151645);
    assert_int_equal(text_special_id(qwen2, "<|im_end|"), TEXT_NO_ID);

    assert_int_equal(text_encode(qwen2, text, sizeof text - 1, false, ids, 64, &n), 0);
    for (size_t i = 0; i < n; i++)
        assert_false(text_is_special(qwen2, ids[i]));

    assert_int_equal(text_encode(qwen2, text, sizeof text - 1, true, ids, 64, &n), 0);
    const uint32_t want[] = {64, 151645, 198, 151644, 8948, 198, 151643};
    assert_int_equal(n, 7);
    assert_memory_equal(ids, want, sizeof want);
    assert_true(text_is_control(qwen2, ids[1]));
    assert_true(text_is_eos(qwen2, 151645));
    assert_true(text_is_eos(qwen2, 151643));
    assert_false(text_is_eos(qwen2, 151644));
    assert_false(text_is_eos(qwen2, TEXT_NO_ID));
    assert_false(text_is_control(qwen2, 151646));
}

/* Qwen2.5: Qwen2's vocabulary with 22 control tokens, of which its tokenizer.json calls the last
 * eight not special (converters write them as user-defined), and rows of padding up to 151,936. */
static void qwen2_5(void **state)
{
    static const char *const added[] = {
        "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",    "<|box_end|>",
        "<|quad_start|>",       "<|quad_end|>",       "<|vision_start|>", "<|vision_end|>",
        "<|vision_pad|>",       "<|image_pad|>",      "<|video_pad|>",    "<tool_call>",
        "</tool_call>",         "<|fim_prefix|>",     "<|fim_middle|>",   "<|fim_suffix|>",
        "<|fim_pad|>",          "<|repo_name|>",      "<|file_sep|>",
    };
    enum { FIRST = 151646, N_ADDED = sizeof added / sizeof *added, NOT_SPECIAL = 151657 };
    enum { N_TOKENS = FIRST + N_ADDED, N_ROWS = 151936 };
    struct text_span *tokens = malloc(N_ROWS * sizeof *tokens);
    int32_t *types = malloc(N_ROWS * sizeof *types);
    static char padding[N_ROWS - N_TOKENS][16];
    struct vocab_file file;
    struct text_tokenizer *t;
    const char *bytes;
    char why[256] = "";
    size_t n;

    (void)state;
    assert_int_equal(vocab_file_load(&file, VOCAB_FILE_QWEN2, 0), 0);
    assert_int_equal(file.source.n_tokens, FIRST);
    memcpy(tokens, file.source.tokens, FIRST * sizeof *tokens);
    memcpy(types, file.source.types, FIRST * sizeof *types);
    for (size_t i = FIRST; i < N_ROWS; i++) {
        if (i >= N_TOKENS)
            snprintf(padding[i - N_TOKENS], sizeof padding[0], "[PAD%zu]", i);
        const char *s = i < N_TOKENS ? added[i - FIRST] : padding[i - N_TOKENS];
        tokens[i] = (struct text_span){s, strlen(s)};
        types[i] = i < NOT_SPECIAL ? TEXT_TOKEN_CONTROL
                   : i < N_TOKENS  ? TEXT_TOKEN_USER_DEFINED
                                   : TEXT_TOKEN_UNUSED;
    }
    file.source.tokens = tokens;
    file.source.types = types;
    file.source.n_tokens = N_ROWS;
    assert_int_equal(text_tokenizer_new(&t, &file.source, why, sizeof why), 0);
    assert_int_equal(text_n_vocab(t), N_TOKENS);

    char text[512] = "";
    uint32_t ids[512];
    for (size_t i = 0; i < N_ADDED; i++)
        strcat(text, added[i]);
    assert_int_equal(text_encode(t, text, strlen(text), true, ids, 512, &n), 0);
    assert_int_equal(n, N_ADDED);
    for (uint32_t i = 0; i < N_ADDED; i++) {
        assert_int_equal(ids[i], FIRST + i);
        assert_int_equal(text_is_control(t, ids[i]), ids[i] < NOT_SPECIAL);
        assert_true(text_is_special(t, ids[i]));
        assert_false(text_is_eos(t, ids[i]));
    }
    char *shown; /* control tokens are left out, and no others */
    assert_int_equal(text_decode(t, ids, N_ADDED, false, &shown, &n), 0);
    assert_string_equal(shown, strstr(text, "<tool_call>"));
    free(shown);
    assert_int_equal(text_encode(t, text, strlen(text), false, ids, 512, &n), 0);
    for (size_t i = 0; i < n; i++)
        assert_false(text_is_special(t, ids[i]));
    for (uint32_t id = N_TOKENS; id < N_ROWS; id++)
        assert_int_equal(text_token_bytes(t, id, &bytes, &n), -EINVAL);
    assert_int_equal(text_encode(t, "[PAD151665]", 11, true, ids, 512, &n), 0);
    assert_true(n > 1);

    text_tokenizer_free(t);
    vocab_file_done(&file);
    free(tokens);
    free(types);
}

static void limits(void **state)
{
    uint32_t ids[4] = {7, 7, 7, 7};
    const char *bytes;
    size_t n;

    (void)state;
    assert_int_equal(text_encode(qwen2, "one two three", 13, false, ids, 2, &n), -ENOSPC);
    assert_int_equal(n, 3);
    assert_int_equal(ids[2], 7);
    assert_int_equal(text_encode(qwen2, "one", 3, false, NULL, 0, &n), -ENOSPC);
    assert_int_equal(n, 1);
    assert_int_equal(text_encode(qwen2, "", 0, false, ids, 4, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(text_encode(qwen2, "ab\xC3(", 4, false, ids, 4, &n), -EILSEQ);
    assert_int_equal(n, 2);
    assert_int_equal(text_token_bytes(qwen2, 151646, &bytes, &n), -EINVAL);
    assert_int_equal(text_token_bytes(qwen2, UINT32_MAX, &bytes, &n), -EINVAL);
}

static void utf8_is_checked(void **state)
{
    static const struct {
        const char *s;
        size_t n, offset;
    } bad[] = {
        {"\x80", 1, 0},
        {"a\xC0\x80", 3, 1},
        {"\xC1\xBF", 2, 0},
        {"\xE0\x9F\xBF", 3, 0},
        {"\xED\xA0\x80", 3, 0},
        {"\xF0\x8F\xBF\xBF", 4, 0},
        {"\xF4\x90\x80\x80", 4, 0},
        {"\xF5\x80\x80\x80", 4, 0},
        {"12345678\xE2\x82", 10, 8},
        {"\xFF", 1, 0},
        {"\xE2\x82\xAC\xE2(", 5, 3},
    };
    size_t offset;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(text_utf8_valid(bad[i].s, bad[i].n, &offset));
        assert_int_equal(offset, bad[i].offset);
    }
    assert_true(text_utf8_valid("", 0, NULL));
    assert_true(text_utf8_valid("\xF4\x8F\xBF\xBF\xED\x9F\xBF\xEE\x80\x80", 10, NULL));
}

/* A megabyte without a break, of each kind that makes a merge loop slow; quadratic time would meet
 * the runner's limit. */
static void long_pieces(void **state)
{
    enum { SIZE = 1 << 20 };
    static const char *const units[] = {"a", " ", "\xCC\x81", "ab", "\xE4\xB8\xAD", "=", "\n", "'"};
    char *text = malloc(SIZE + 8);
    uint64_t random = 1;

    (void)state;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t n = 0, len = strlen(units[i]);
        for (; n < SIZE; n += len)
            memcpy(text + n, units[i], len);
        assert_round_trip(text, n);
    }
    for (unsigned kind = 0; kind < 3; kind++) {
        size_t n = 0;
        while (n < SIZE) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            uint32_t r = (uint32_t)(random >> 33);
            uint32_t cp = kind == 0 ? r % 0x100 : kind == 1 ? 'a' + r % 2 : r % 0x110000;
            if (cp < 0xD800 || cp > 0xDFFF)
                n += unicode_encode(cp, text + n);
        }
        assert_round_trip(text, n);
    }
    free(text);
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
        cmocka_unit_test(golden_ids),       cmocka_unit_test(reference_values),
        cmocka_unit_test(special_tokens),   cmocka_unit_test(qwen2_5),
        cmocka_unit_test(limits),           cmocka_unit_test(utf8_is_checked),
        cmocka_unit_test(every_code_point), cmocka_unit_test(long_pieces),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
