/* A text that grows (see text.h). */
#include "chat/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void chat_text_add(struct chat_text *text, const char *s, size_t n)
{
    size_t need;

    if (text->failed)
        return;
    if (__builtin_add_overflow(text->n, n, &need) || need > SIZE_MAX / 2 - 1) {
        text->failed = true;
        return;
    }
    if (need + 1 > text->capacity) {
        size_t capacity = 2 * need + 64;
        char *more = realloc(text->s, capacity);
        if (!more) {
            text->failed = true;
            return;
        }
        text->s = more;
        text->capacity = capacity;
    }
    if (n > 0)
        memcpy(text->s + text->n, s, n);
    text->n = need;
    text->s[need] = '\0';
}

void chat_text_puts(struct chat_text *text, const char *s)
{
    chat_text_add(text, s, strlen(s));
}

void chat_text_done(struct chat_text *text)
{
    free(text->s);
    *text = (struct chat_text){0};
}

bool chat_span_is(struct chat_span span, const char *s)
{
    return span.len == strlen(s) && memcmp(span.s, s, span.len) == 0;
}

/* Bytes of the white space that s begins (or, with `at_end`, ends) with; 0: none. */
static size_t space_at(struct chat_span s, bool at_end)
{
    static const char *const spaces[] = {"\xc2\x85", "\xc2\xa0", "\u1680", "\u2000", "\u2001",
                                         "\u2002",   "\u2003",   "\u2004", "\u2005", "\u2006",
                                         "\u2007",   "\u2008",   "\u2009", "\u200a", "\u2028",
                                         "\u2029",   "\u202f",   "\u205f", "\u3000"};
    unsigned char c = s.len > 0 ? (unsigned char)s.s[at_end ? s.len - 1 : 0] : 'x';

    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        size_t n = strlen(spaces[i]);
        if (n <= s.len && !memcmp(at_end ? s.s + s.len - n : s.s, spaces[i], n))
            return n;
    }
    return 0;
}

struct chat_span chat_span_trim(struct chat_span s, bool begin, bool end)
{
    size_t n;

    while (begin && (n = space_at(s, false)))
        s = (struct chat_span){s.s + n, s.len - n};
    while (end && (n = space_at(s, true)))
        s.len -= n;
    return s;
}

unsigned chat_word_distance(const char *a, const char *b)
{
    enum { WORD = 40 }; /* letters that count */
    unsigned rows[3][WORD + 1];
    const size_t n = strnlen(a, WORD), m = strnlen(b, WORD);
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *row = rows[i % 3];
        const unsigned *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two_above[j - 2] + 1 < best)
                best = two_above[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[n % 3][m];
}
