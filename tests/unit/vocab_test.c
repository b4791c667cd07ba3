/* What a vocabulary from a stranger may do wrong, and merges against their definition on small
 * vocabularies made at random. */
#include "svc/text/tokenizer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TOKENS_MAX = 700 };

/* A vocabulary of the 256 bytes and what a test adds. */
struct toy {
    struct text_vocab_source source;
    struct text_span tokens[TOKENS_MAX], merges[TOKENS_MAX];
    int32_t types[TOKENS_MAX];
    char text[TOKENS_MAX * 80];
    size_t used;
};

static struct text_span keep(struct toy *toy, const char *s, size_t n)
{
    struct text_span span = {memcpy(toy->text + toy->used, s, n), n};

    toy->used += n;
    assert_true(toy->used <= sizeof toy->text);
    return span;
}

static void token_add(struct toy *toy, const char *s, size_t n, int32_t type)
{
    toy->tokens[toy->source.n_tokens] = keep(toy, s, n);
    toy->types[toy->source.n_tokens++] = type;
}

static void merge_add(struct toy *toy, const char *s)
{
    toy->merges[toy->source.n_merges++] = keep(toy, s, strlen(s));
}

/* Bytes in order of value, in GPT-2's coding. */
static struct toy *toy_new(void)
{
    struct toy *toy = calloc(1, sizeof *toy);
    unsigned other = 0x100;

    for (unsigned b = 0; b < 256; b++) {
        bool own = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        unsigned cp = own ? b : other++;
        char s[2] = {(char)cp};
        if (cp >= 0x80) {
            s[0] = (char)(0xC0 | cp >> 6);
            s[1] = (char)(0x80 | (cp & 0x3F));
        }
        token_add(toy, s, cp < 0x80 ? 1 : 2, TEXT_TOKEN_NORMAL);
    }
    toy->source.model = (struct text_span){"gpt2", 4};
    toy->source.pre = (struct text_span){"qwen2", 5};
    toy->source.tokens = toy->tokens;
    toy->source.types = toy->types;
    toy->source.merges = toy->merges;
    toy->source.bos_id = toy->source.eos_id = toy->source.pad_id = TEXT_NO_ID;
    return toy;
}

static struct text_tokenizer *toy_tokenizer(const struct toy *toy)
{
    struct text_tokenizer *t = NULL;
    char why[256];
    int r = text_tokenizer_new(&t, &toy->source, why, sizeof why);

    if (r < 0)
        fail_msg("%s", why);
    return t;
}

/* Expects a refusal with `part` in its sentence; frees the toy. */
static void assert_refused(struct toy *toy, int r, const char *part)
{
    struct text_tokenizer *t = NULL;
    char why[256] = "";

    assert_int_equal(text_tokenizer_new(&t, &toy->source, why, sizeof why), r);
    assert_null(t);
    if (!strstr(why, part))
        fail_msg("the sentence is: %s", why);
    free(toy);
}

static void plain_bytes_suffice(void **state)
{
    struct toy *toy = toy_new();
    struct text_tokenizer *t = toy_tokenizer(toy);
    uint32_t ids[8];
    size_t n;

    (void)state;
    free(toy);
    assert_int_equal(text_encode(t, "h\xC3\xA9", 3, false, ids, 8, &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], 'h');
    assert_int_equal(ids[2], 0xA9);
    assert_int_equal(text_tokenizer_ids(t)->im_end, TEXT_NO_ID);
    assert_in_range(text_tokenizer_bytes(t), 1000, 1 << 20);
    text_tokenizer_free(t);
}

static void refusals(void **state)
{
    struct toy *toy;
    (void)state;

    toy = toy_new();
    toy->source.model = (struct text_span){"llama", 5};
    assert_refused(toy, -ENOTSUP, "\"llama\"");
    toy = toy_new();
    toy->source.pre = (struct text_span){"tekken", 6};
    assert_refused(toy, -ENOTSUP, "\"tekken\"");
    toy = toy_new();
    toy->source.n_tokens = 0;
    assert_refused(toy, -EINVAL, "0 tokens");
    toy = toy_new();
    toy->source.n_tokens = (size_t)TEXT_TOKENS_MAX + 1;
    assert_refused(toy, -EINVAL, "tokens");
    toy = toy_new();
    toy->source.n_merges = SIZE_MAX;
    assert_refused(toy, -EINVAL, "merges");
    toy = toy_new();
    toy->source.n_tokens = 255;
    assert_refused(toy, -EINVAL, "byte 0xff");
    toy = toy_new();
    toy->tokens[3].len = 0;
    assert_refused(toy, -EINVAL, "token 3");
    toy = toy_new();
    toy->tokens[3].len = SIZE_MAX;
    assert_refused(toy, -EINVAL, "token 3");
    toy = toy_new();
    toy->tokens[3] = (struct text_span){"a b", 3};
    assert_refused(toy, -EINVAL, "token 3 of the vocabulary is not in GPT-2's byte coding");
    toy = toy_new();
    toy->tokens[3] = (struct text_span){"\xC4", 1};
    assert_refused(toy, -EINVAL, "token 3");
    toy = toy_new();
    toy->types[9] = 6;
    assert_refused(toy, -EINVAL, "token 9 of the vocabulary has type 6");
    toy = toy_new();
    token_add(toy, "a", 1, TEXT_TOKEN_NORMAL);
    assert_refused(toy, -EINVAL, "tokens 97 and 256 of the vocabulary are the same");
    toy = toy_new();
    token_add(toy, "<x>", 3, TEXT_TOKEN_CONTROL);
    token_add(toy, "<x>", 3, TEXT_TOKEN_USER_DEFINED);
    assert_refused(toy, -EINVAL, "tokens 256 and 257");
    toy = toy_new();
    token_add(toy, "<\xFF>", 3, TEXT_TOKEN_CONTROL);
    assert_refused(toy, -EINVAL, "token 256");
    toy = toy_new();
    toy->source.eos_id = 256;
    assert_refused(toy, -EINVAL, "eos token of the vocabulary is 256");
}

static void refused_merges(void **state)
{
    static const char *const bad[] = {"", "ab", "a", " ", "a b c", "a zz", "zz a", "a \xFF", "a c"};
    struct toy *toy;
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        toy = toy_new();
        token_add(toy, "ab", 2, TEXT_TOKEN_NORMAL);
        merge_add(toy, "a b");
        merge_add(toy, bad[i]);
        assert_refused(toy, -EINVAL, "merge 1 of the vocabulary");
    }
    toy = toy_new();
    token_add(toy, "ab", 2, TEXT_TOKEN_NORMAL);
    merge_add(toy, "a b");
    merge_add(toy, "a b");
    assert_refused(toy, -EINVAL, "twice");
    toy = toy_new();
    token_add(toy, "ab", 2, TEXT_TOKEN_NORMAL);
    token_add(toy, "abc", 3, TEXT_TOKEN_NORMAL);
    merge_add(toy, "ab c");
    merge_add(toy, "a b");
    assert_refused(toy, -EINVAL, "later merge");
    toy = toy_new();
    token_add(toy, "<a>", 3, TEXT_TOKEN_CONTROL);
    merge_add(toy, "< a>");
    assert_refused(toy, -EINVAL, "names a token that is not");
}

/* Padding rows are no tokens: those at the end are not counted, others not found. */
static void padding_rows(void **state)
{
    struct toy *toy = toy_new();
    struct text_tokenizer *t;
    const char *bytes;
    uint32_t id;
    size_t n;
    (void)state;

    token_add(toy, "[PAD256]", 8, TEXT_TOKEN_USER_DEFINED);
    token_add(toy, "<|im_end|>", 10, TEXT_TOKEN_NORMAL);
    token_add(toy, "[PAD258]", 8, TEXT_TOKEN_USER_DEFINED);
    token_add(toy, "unused", 6, TEXT_TOKEN_UNUSED);
    t = toy_tokenizer(toy);
    free(toy);
    assert_int_equal(text_n_vocab(t), 258);
    assert_int_equal(text_token_bytes(t, 256, &bytes, &n), -EINVAL);
    assert_int_equal(text_token_bytes(t, 258, &bytes, &n), -EINVAL);
    assert_true(text_is_control(t, 257));
    assert_int_equal(text_encode(t, "[PAD256]", 8, true, &id, 1, &n), -ENOSPC);
    assert_int_equal(n, 8);
    text_tokenizer_free(t);
}

/* ---- merges by their definition ------------------------------------------------------------ */

static uint64_t seed;

static unsigned draw(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((seed >> 33) % n);
}

struct pair {
    uint32_t left, right, token;
};

/* The process itself: the best pair, leftmost first, until there is none. */
static size_t merge_by_definition(const struct pair *pairs, size_t n_pairs, const char *s, size_t n,
                                  uint32_t *ids)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint8_t)s[i];
    for (;;) {
        size_t best = n_pairs, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t p = 0; p < best; p++)
                if (pairs[p].left == ids[i] && pairs[p].right == ids[i + 1])
                    best = p, at = i;
        if (best == n_pairs)
            return n;
        ids[at] = pairs[best].token;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

/* A vocabulary of random merges over few letters, as many as fit; tokens may come about in two
 * ways, and some are not the encoding of their own bytes. */
static size_t random_merges(struct toy *toy, struct pair *pairs, size_t n_max, unsigned n_letters)
{
    size_t n_pairs = 0;

    for (unsigned tries = 0; n_pairs < n_max && tries < 4000; tries++) {
        char name[64], merge[64];
        uint32_t candidates = n_letters + (uint32_t)toy->source.n_tokens - 256, part[2];
        for (unsigned k = 0; k < 2; k++) {
            uint32_t c = draw(candidates);
            part[k] = c < n_letters ? 'a' + c : 256 + c - n_letters;
        }
        struct text_span left = toy->tokens[part[0]], right = toy->tokens[part[1]];
        bool there = left.len + right.len > 24;
        for (size_t p = 0; p < n_pairs; p++)
            there |= pairs[p].left == part[0] && pairs[p].right == part[1];
        if (there)
            continue;
        snprintf(name, sizeof name, "%.*s%.*s", (int)left.len, left.s, (int)right.len, right.s);
        snprintf(merge, sizeof merge, "%.*s %.*s", (int)left.len, left.s, (int)right.len, right.s);
        uint32_t id = 256;
        while (id < toy->source.n_tokens && (toy->tokens[id].len != strlen(name) ||
                                             memcmp(toy->tokens[id].s, name, strlen(name))))
            id++;
        if (id == toy->source.n_tokens)
            token_add(toy, name, strlen(name), TEXT_TOKEN_NORMAL);
        merge_add(toy, merge);
        pairs[n_pairs++] = (struct pair){part[0], part[1], id};
    }
    return n_pairs;
}

static void merges_by_definition(void **state)
{
    (void)state;
    unsigned n_compared = 0;
    for (unsigned round = 0; round < 400; round++) {
        struct pair pairs[200];
        struct toy *toy = toy_new();
        unsigned n_letters = 1 + round % 4;
        struct text_tokenizer *t = NULL;
        char why[256], text[200];
        uint32_t want[200], got[200];

        seed = round;
        size_t n_pairs = random_merges(toy, pairs, 5 + draw(195), n_letters), n_got;
        int r = text_tokenizer_new(&t, &toy->source, why, sizeof why);
        free(toy);
        if (r < 0) { /* a token that an earlier merge made only in name, and a later one truly */
            assert_non_null(strstr(why, "later merge"));
            continue;
        }
        for (unsigned k = 0; k < 200; k++, n_compared++) {
            size_t n = 1 + draw(k % 4 == 0 ? 200 : 20);
            for (size_t i = 0; i < n; i++)
                text[i] = (char)('a' + draw(n_letters));
            size_t n_want = merge_by_definition(pairs, n_pairs, text, n, want);
            assert_int_equal(text_encode(t, text, n, false, got, 200, &n_got), 0);
            if (n_got != n_want || memcmp(got, want, n_want * sizeof *want))
                fail_msg("round %u, text %.*s: %zu ids, not %zu", round, (int)n, text, n_got,
                         n_want);
        }
        text_tokenizer_free(t);
    }
    assert_in_range(n_compared, 20000, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_bytes_suffice),  cmocka_unit_test(refusals),
        cmocka_unit_test(refused_merges),       cmocka_unit_test(padding_rows),
        cmocka_unit_test(merges_by_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
