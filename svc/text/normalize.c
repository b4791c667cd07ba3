/* The check (Unicode Standard Annex 15, "Detecting Normalization Forms") walks over the text with two
 * things in mind: the class of the last mark, and whether the last starter composes with anything at
 * all. Without the second, every Bengali or Korean vowel sign would be a doubt. */
#include "svc/text/normalize.h"

#include "svc/text/unicode.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Code points of the longest canonical decomposition of one (4, with room). */
enum { DECOMPOSED_MAX = 8 };
/* Stretches up to this many bytes are composed in memory of the stack. */
enum { STRETCH_STACK = 64 };

/* The next doubtful stretch at or after `from`, which begins where nothing composes across, as the
 * stretch does and what comes after it. False if the rest is normalized. */
static bool doubt_find(const char *s, size_t n, size_t from, size_t *ret_start, size_t *ret_end)
{
    size_t start = from; /* of the last safe starter */
    bool doubt = false, first = false;
    uint8_t ccc = 0;
    unsigned len;

    for (size_t i = from; i < n; i += len) {
        struct unicode_kind kind = {0, UNICODE_NFC_FIRST};
        uint64_t word;
        if (n - i >= 8 && (memcpy(&word, s + i, 8), !(word & 0x8080808080808080u)) && !doubt) {
            start = i + 7;
            first = true;
            ccc = 0;
            len = 8;
            continue;
        }
        uint32_t cp;
        len = unicode_decode_valid(s + i, &cp);
        if (cp >= 0x80)
            kind = unicode_kind_of(cp);
        if (kind.ccc == 0 && !(kind.normal & (UNICODE_NFC_NO | UNICODE_NFC_MAYBE))) {
            if (doubt) {
                *ret_start = start;
                *ret_end = i;
                return true;
            }
            start = i;
            first = kind.normal & UNICODE_NFC_FIRST;
        } else if ((kind.normal & UNICODE_NFC_NO) || ((kind.normal & UNICODE_NFC_MAYBE) && first) ||
                   (kind.ccc > 0 && kind.ccc < ccc)) {
            doubt = true;
        } else if (kind.ccc == 0) {
            first = first || (kind.normal & UNICODE_NFC_FIRST);
        }
        ccc = kind.ccc;
    }
    *ret_start = start;
    *ret_end = n;
    return doubt;
}

/* Puts the marks between starters in order of their class, those of one class as they came. */
static void marks_order(int32_t *cps, size_t n, int32_t *spare)
{
    size_t counts[256];

    for (size_t i = 0, end; i < n; i = end + 1) {
        bool ordered = true;
        uint8_t ccc, last = 0;
        memset(counts, 0, sizeof counts);
        for (end = i; end < n && (ccc = unicode_kind_of((uint32_t)cps[end]).ccc) > 0; end++) {
            counts[ccc]++;
            ordered = ordered && ccc >= last;
            last = ccc;
        }
        if (ordered)
            continue;
        size_t at = i;
        for (unsigned c = 1; c < 256; c++) {
            size_t count = counts[c];
            counts[c] = at;
            at += count;
        }
        for (size_t k = i; k < end; k++)
            spare[counts[unicode_kind_of((uint32_t)cps[k]).ccc]++] = cps[k];
        memcpy(cps + i, spare + i, (end - i) * sizeof *cps);
    }
}

/* Composes a stretch of n bytes to `out`, which has room for 3 n. The number of bytes, or -ENOMEM. */
static long stretch_compose(const char *s, size_t n, char *out)
{
    int32_t stack[2 * (3 * STRETCH_STACK + DECOMPOSED_MAX)], *cps = stack;
    size_t room = 3 * n + DECOMPOSED_MAX, n_cps = 0, used = 0;
    unsigned len;

    if (n > STRETCH_STACK && !(cps = malloc(2 * room * sizeof *cps)))
        return -ENOMEM;
    for (size_t i = 0; i < n; i += len) {
        int boundary = 0;
        uint32_t cp;
        len = unicode_decode_valid(s + i, &cp);
        n_cps += (size_t)utf8proc_decompose_char((int32_t)cp, cps + n_cps, DECOMPOSED_MAX,
                                                 UTF8PROC_DECOMPOSE, &boundary);
    }
    marks_order(cps, n_cps, cps + room);
    n_cps = (size_t)utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)n_cps,
                                             UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (size_t i = 0; i < n_cps; i++)
        used += unicode_encode((uint32_t)cps[i], out + used);
    if (cps != stack)
        free(cps);
    return (long)used;
}

int text_normalize(const char *s, size_t n, char **ret, size_t *ret_n)
{
    size_t done = 0, used = 0, start, end;
    char *out = NULL;

    while (doubt_find(s, n, done, &start, &end)) {
        if (!out && !(out = malloc(3 * n)))
            return -ENOMEM;
        memcpy(out + used, s + done, start - done);
        used += start - done;
        long len = stretch_compose(s + start, end - start, out + used);
        if (len < 0) {
            free(out);
            return (int)len;
        }
        used += (size_t)len;
        done = end;
    }
    if (out) {
        memcpy(out + used, s + done, n - done);
        used += n - done;
    }
    *ret = out;
    *ret_n = used;
    return 0;
}
