/* The tokenizer against digests of a plain implementation of its definition: 100,000 texts of random
 * snippets, and every code point alone, doubled, and beside a character of each class.
 * tests/tools/golden-corner.py made the digests, and says what the texts are. */
#include "svc/text/tokenizer.h"
#include "svc/text/unicode.h"
#include "tests/support/vocab.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SNIPPETS "tests/golden/tokenizer/snippets.tsv"
#define DIGESTS  "tests/golden/tokenizer/digests.tsv"

enum { CORNER_TEXTS = 1000, POINTS = 1024, SNIPPETS_MAX = 400 };

static struct text_tokenizer *qwen2;
static char *snippets[SNIPPETS_MAX];
static unsigned n_snippets;

/* Undoes \n \r \t \u{HEX}; NUL becomes a character of the text by \u{0}, so lengths are
 * kept in the byte before. */
static void unescape(char *s, char *out)
{
    char *start = out++;

    while (*s) {
        if (*s != '\\') {
            *out++ = *s++;
        } else if (s[1] == 'u') {
            out += unicode_encode((uint32_t)strtoul(s + 3, &s, 16), out);
            s++;
        } else {
            *out++ = s[1] == 'n' ? '\n' : s[1] == 'r' ? '\r' : '\t';
            s += 2;
        }
    }
    *start = (char)(out - start - 1);
}

static uint64_t digest_text(uint64_t h, const char *text, size_t n)
{
    uint32_t ids[2048];
    size_t n_ids;

    assert_int_equal(text_encode(qwen2, text, n, false, ids, 2048, &n_ids), 0);
    for (size_t i = 0; i < n_ids; i++)
        h = (h ^ ids[i]) * 0x100000001B3;
    return (h ^ 0xFFFFFFFF) * 0x100000001B3;
}

static uint64_t seed;

static unsigned draw(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((seed >> 33) % n);
}

static uint64_t corner_digest(unsigned block)
{
    uint64_t h = 0xCBF29CE484222325;
    char text[2048];

    seed = block;
    for (unsigned k = 0; k < CORNER_TEXTS; k++) {
        size_t n = 0;
        for (unsigned left = 1 + draw(12); left > 0; left--) {
            const char *snippet = snippets[draw(n_snippets)];
            memcpy(text + n, snippet + 1, (uint8_t)snippet[0]);
            n += (uint8_t)snippet[0];
        }
        h = digest_text(h, text, n);
    }
    return h;
}

static uint64_t points_digest(unsigned block)
{
    static const char *const neighbours[] = {"a", "7", " ", "\t", "\n", "!", "'", "中", "\xCC\x81"};
    uint64_t h = 0xCBF29CE484222325;

    for (uint32_t cp = block * POINTS; cp < (block + 1) * POINTS; cp++) {
        char text[16];
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        unsigned len = unicode_encode(cp, text);
        memcpy(text + len, text, len);
        h = digest_text(h, text, len);
        h = digest_text(h, text, 2 * len);
        for (unsigned i = 0; i < sizeof neighbours / sizeof *neighbours; i++) {
            size_t n = strlen(neighbours[i]);
            memcpy(text, neighbours[i], n);
            unicode_encode(cp, text + n);
            h = digest_text(h, text, n + len);
            unicode_encode(cp, text);
            memcpy(text + len, neighbours[i], n);
            h = digest_text(h, text, len + n);
        }
    }
    return h;
}

static void digests(void **state)
{
    FILE *f = fopen(DIGESTS, "r");
    char kind[16];
    unsigned block, n = 0;
    uint64_t want;

    (void)state;
    assert_non_null(f);
    while (fscanf(f, "%15s %u %" SCNx64, kind, &block, &want) == 3) {
        uint64_t got = kind[0] == 'c' ? corner_digest(block) : points_digest(block);
        if (got != want)
            fail_msg("%s block %u differs", kind, block);
        n++;
    }
    assert_int_equal(n, 100 + 0x110000 / POINTS);
    fclose(f);
}

static int setup(void **state)
{
    static char memory[SNIPPETS_MAX * 64];
    char line[256], *out = memory;
    FILE *f = fopen(SNIPPETS, "r");

    (void)state;
    if (!f)
        return -1;
    while (n_snippets < SNIPPETS_MAX && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        unescape(line, out);
        snippets[n_snippets++] = out;
        out += 1 + (uint8_t)out[0];
    }
    fclose(f);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(digests)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
