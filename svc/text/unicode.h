/* UTF-8, the character classes of the split pattern, and the properties of normalization. */
#ifndef QUERN_SVC_TEXT_UNICODE_H
#define QUERN_SVC_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the pattern tells apart: \p{L}, \p{N}, \s (White_Space), and the rest (marks too). */
enum unicode_class {
    UNICODE_OTHER = 0,
    UNICODE_LETTER = 1,
    UNICODE_NUMBER = 2,
    UNICODE_SPACE = 3,
};

/* The Unicode version of the tables, "14.0.0". */
const char *unicode_version(void);

/* The class of a code point; UNICODE_OTHER above U+10FFFF. */
enum unicode_class unicode_class_of(uint32_t cp);

/* What the quick check of normalization form C asks (Unicode Standard Annex 15). */
enum unicode_normal {
    UNICODE_NFC_NO = 1,    /* never in normalized text */
    UNICODE_NFC_MAYBE = 2, /* may compose with a character before it */
    UNICODE_NFC_FIRST = 4, /* it or a part of it may compose with one after it */
};

struct unicode_kind {
    uint8_t ccc;    /* canonical combining class; 0: a starter */
    uint8_t normal; /* flags of enum unicode_normal */
};

/* The kind of a code point; {0, 0} above U+10FFFF. */
struct unicode_kind unicode_kind_of(uint32_t cp);

/* Decodes the character at s, which holds n ≥ 1 bytes. The result is its length, 1 to 4, with
 * *ret_cp; 0 if the bytes are no valid UTF-8 (overlong, surrogate, above U+10FFFF, cut off). */
unsigned unicode_decode(const char *s, size_t n, uint32_t *ret_cp);

/* The same for bytes that are known to be valid. */
static inline unsigned unicode_decode_valid(const char *s, uint32_t *ret_cp)
{
    const uint8_t *p = (const uint8_t *)s;

    if (p[0] < 0x80) {
        *ret_cp = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *ret_cp = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
        return 2;
    }
    if (p[0] < 0xF0) {
        *ret_cp = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        return 3;
    }
    *ret_cp = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    return 4;
}

/* Writes a code point (a Unicode scalar value) as UTF-8; the result is its length. */
unsigned unicode_encode(uint32_t cp, char out[4]);

/* How the bytes at s begin: *ret_len is the length of the longest part that could start a character
 * (at least 1 where n ≥ 1). The result says what that part is. */
enum unicode_part {
    UNICODE_WHOLE,   /* a valid character */
    UNICODE_CUT,     /* valid so far, and the bytes end here: more may make it whole */
    UNICODE_INVALID, /* a maximal subpart of an invalid sequence: one U+FFFD */
};
enum unicode_part unicode_part_at(const char *s, size_t n, size_t *ret_len);

#endif
