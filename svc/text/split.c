/* The scanner reads a character's class and decides by it which alternative of the pattern is the
 * first to match; each alternative then is one greedy run. ASCII, the common case, is classed by a
 * table of bytes; the rest is decoded. */
#include "svc/text/split.h"

#include "svc/text/unicode.h"

#include <stdint.h>

/* Classes of ASCII; 4 marks a first byte of a longer character. */
#define L UNICODE_LETTER
#define N UNICODE_NUMBER
#define W UNICODE_SPACE
enum { CLASS_LONG = 4 };
/* clang-format off */
static const uint8_t byte_class[256] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, W, W, W, W, W, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    W, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, N, N, N, N, N, N, N, N, N, N, 0, 0, 0, 0, 0, 0,
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0,
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0,
    [128 ... 255] = CLASS_LONG,
};
/* clang-format on */
#undef L
#undef N
#undef W

/* The class of the character at s and its length. */
static inline enum unicode_class class_at(const char *s, unsigned *ret_len)
{
    uint8_t class = byte_class[(uint8_t)s[0]];

    if (class != CLASS_LONG) {
        *ret_len = 1;
        return (enum unicode_class) class;
    }
    uint32_t cp;
    *ret_len = unicode_decode_valid(s, &cp);
    return unicode_class_of(cp);
}

/* The end of the run of characters of one class that begins at i. */
static inline size_t run_end(const char *s, size_t n, size_t i, enum unicode_class class)
{
    unsigned len;

    while (i < n && class_at(s + i, &len) == class)
        i += len;
    return i;
}

/* The length of 's, 't, 're, 've, 'm, 'll or 'd at s, in either case; 0 if there is none. */
static size_t contraction(const char *s, size_t n)
{
    if (n < 2 || s[0] != '\'')
        return 0;
    if ((uint8_t)s[1] == 0xC5)
        return n >= 3 && (uint8_t)s[2] == 0xBF ? 3 : 0; /* U+017F folds to s */
    char a = (char)(s[1] | 0x20), b = n >= 3 ? (char)(s[2] | 0x20) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    return 0;
}

/* A run of white space from the start of s: up to its last line end if it has one; else all of it
 * at the end of the text; else all but the last character, which belongs to what follows. */
static size_t space_piece(const char *s, size_t n)
{
    size_t i = 0, last = 0, line_end = 0;
    unsigned len;

    while (i < n && class_at(s + i, &len) == UNICODE_SPACE) {
        last = i;
        i += len;
        if (s[last] == '\r' || s[last] == '\n')
            line_end = i;
    }
    if (line_end > 0)
        return line_end;
    return i == n || last == 0 ? i : last;
}

size_t text_split_next(const char *s, size_t n)
{
    unsigned len, len2;
    enum unicode_class class = class_at(s, &len);

    if (class == UNICODE_LETTER)
        return run_end(s, n, len, UNICODE_LETTER);
    if (class == UNICODE_NUMBER)
        return len;
    if (s[0] == '\'') {
        size_t k = contraction(s, n);
        if (k > 0)
            return k;
    }
    bool line_end = s[0] == '\r' || s[0] == '\n';
    enum unicode_class next = UNICODE_SPACE;
    if (len < n)
        next = class_at(s + len, &len2);
    if (!line_end && next == UNICODE_LETTER)
        return run_end(s, n, len + len2, UNICODE_LETTER);
    if (class == UNICODE_OTHER || (s[0] == ' ' && next == UNICODE_OTHER)) {
        size_t i = run_end(s, n, len, UNICODE_OTHER);
        while (i < n && (s[i] == '\r' || s[i] == '\n'))
            i++;
        return i;
    }
    return space_piece(s, n);
}
