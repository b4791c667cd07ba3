/* Normalization form C against golden lines of another implementation, and its costs. */
#include "svc/text/normalize.h"
#include "svc/text/unicode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/nfc.tsv"

/* Hexadecimal code points, up to a tab or line end, as UTF-8. */
static size_t text_of(const char *codes, char *out)
{
    size_t n = 0;
    char *end;

    for (const char *p = codes;; p = end) {
        uint32_t cp = (uint32_t)strtoul(p, &end, 16);
        n += unicode_encode(cp, out + n);
        if (*end != ' ')
            return n;
    }
}

static void assert_normal(const char *text, size_t n, const char *want, size_t n_want)
{
    char *out;
    size_t n_out;

    assert_int_equal(text_normalize(text, n, &out, &n_out), 0);
    if (out) {
        assert_int_equal(n_out, n_want);
        assert_memory_equal(out, want, n_want);
    } else {
        assert_int_equal(n, n_want);
        assert_memory_equal(text, want, n_want);
    }
    free(out);
}

/* Each golden line alone, after a letter and between others; its result is normalized already. */
static void golden_lines(void **state)
{
    FILE *f = fopen(GOLDEN, "r");
    char *line = NULL;
    size_t room = 0, n_lines = 0;

    (void)state;
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        char text[256] = "plain text, then ", want[256] = "plain text, then ";
        size_t lead = strlen(text), n = lead + text_of(line, text + lead);
        size_t n_want = lead + text_of(strchr(line, '\t') + 1, want + lead);
        assert_normal(text + lead, n - lead, want + lead, n_want - lead);
        assert_normal(text, n, want, n_want);
        assert_normal(want, n_want, want, n_want);
        memcpy(text + n, "中 and so on", strlen("中 and so on"));
        memcpy(want + n_want, "中 and so on", strlen("中 and so on"));
        assert_normal(text, n + strlen("中 and so on"), want, n_want + strlen("中 and so on"));
        n_lines++;
    }
    assert_in_range(n_lines, 3500, 5000);
    free(line);
    fclose(f);
}

/* What the golden lines do not name stays as it is, and takes no memory. */
static void every_other_code_point(void **state)
{
    FILE *f = fopen(GOLDEN, "r");
    bool *changes = calloc(0x110000, sizeof *changes);
    char *line = NULL, text[4], *out;
    size_t room = 0, n_out;

    (void)state;
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        char *end;
        uint32_t cp = (uint32_t)strtoul(line, &end, 16);
        if (*end == '\t')
            changes[cp] = true;
    }
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        if (changes[cp] || (cp >= 0xD800 && cp <= 0xDFFF))
            continue;
        assert_int_equal(text_normalize(text, unicode_encode(cp, text), &out, &n_out), 0);
        assert_null(out);
    }
    free(line);
    free(changes);
    fclose(f);
}

/* Marks in the worst order: quadratic ordering would meet the runner's limit. */
static void long_stretch(void **state)
{
    enum { MARKS = 1 << 19 };
    static const char high[] = "\xCC\x81", low[] = "\xCC\xA3"; /* classes 230 and 220 */
    char *text = malloc(2 * MARKS + 1), *want = malloc(2 * MARKS + 3);

    (void)state;
    text[0] = 'q'; /* composes with neither */
    want[0] = 'q';
    for (size_t i = 0; i < MARKS; i++) {
        memcpy(text + 1 + 2 * i, i % 2 ? low : high, 2);
        memcpy(want + 1 + 2 * i, i < MARKS / 2 ? low : high, 2);
    }
    assert_normal(text, 2 * MARKS + 1, want, 2 * MARKS + 1);
    free(want);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_lines),
        cmocka_unit_test(every_other_code_point),
        cmocka_unit_test(long_stretch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
