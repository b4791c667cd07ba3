/* Normalization form C of arbitrary text: the same as utf8proc's own, valid, and final. Characters
 * that came after our Unicode version are left out of the comparison. */
#include "svc/text/normalize.h"
#include "svc/text/tokenizer.h"
#include "svc/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE_MAX_COMPARED = 4096 }; /* utf8proc orders marks in quadratic time */

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* Whether both know the same of all characters. NUL ends utf8proc's text, and it (2.8.0) takes
 * U+11A7 for a final consonant, which loses it after a syllable; it never is in a doubtful stretch. */
static bool comparable(const char *s, size_t n)
{
    uint32_t cp;

    for (size_t i = 0; i < n; i += unicode_decode_valid(s + i, &cp)) {
        unicode_decode_valid(s + i, &cp);
        if (cp == 0 || cp == 0x11A7 ||
            utf8proc_get_property((utf8proc_int32_t)cp)->combining_class != unicode_kind_of(cp).ccc)
            return false;
    }
    return n <= SIZE_MAX_COMPARED;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data;
    char *normal, *again;
    size_t n_normal, n_again;

    if (!text_utf8_valid(s, size, NULL))
        return 0;
    check(text_normalize(s, size, &normal, &n_normal) == 0);
    const char *text = normal ? normal : s;
    size_t n = normal ? n_normal : size;
    check(n <= 3 * size && text_utf8_valid(text, n, NULL));
    check(text_normalize(text, n, &again, &n_again) == 0);
    check(!again || (n_again == n && !memcmp(again, text, n)));
    free(again);
    if (comparable(s, size)) {
        utf8proc_uint8_t *want = NULL;
        utf8proc_ssize_t n_want =
            utf8proc_map(data, (utf8proc_ssize_t)size, &want, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        check(n_want == (utf8proc_ssize_t)n && !memcmp(want, text, n));
        free(want);
    }
    free(normal);
    return 0;
}
