/* UTF-8 by the table of well-formed sequences (Unicode 14, table 3-7); classes by a two-stage table
 * of two bits a code point (8 KiB that stay in the first cache), what normalization asks by one of bytes. */
#include "svc/text/unicode.h"

#include "svc/text/tokenizer.h"
#include "svc/text/unicode-tables.h"

#include <string.h>

const char *unicode_version(void)
{
    return UNICODE_TABLES_VERSION;
}

enum unicode_class unicode_class_of(uint32_t cp)
{
    if (cp > 0x10FFFF)
        return UNICODE_OTHER;
    unsigned packed = class_stage2[class_stage1[cp >> 8]][(cp & 255) >> 2];
    return (enum unicode_class)(packed >> ((cp & 3) * 2) & 3);
}

struct unicode_kind unicode_kind_of(uint32_t cp)
{
    if (cp > 0x10FFFF)
        return normal_kinds[0];
    return normal_kinds[normal_stage2[normal_stage1[cp >> 8]][cp & 255]];
}

/* The length that a first byte announces, and the range of the second byte (table 3-7); 0 for a
 * byte that begins nothing. */
static unsigned sequence_of(uint8_t first, uint8_t *ret_low, uint8_t *ret_high)
{
    *ret_low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    *ret_high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

enum unicode_part unicode_part_at(const char *s, size_t n, size_t *ret_len)
{
    const uint8_t *p = (const uint8_t *)s;
    uint8_t low, high;
    unsigned need = sequence_of(p[0], &low, &high);

    *ret_len = 1;
    if (need == 0)
        return UNICODE_INVALID;
    for (unsigned i = 1; i < need; i++) {
        if (i == n)
            return UNICODE_CUT;
        if (p[i] < (i == 1 ? low : 0x80) || p[i] > (i == 1 ? high : 0xBF))
            return UNICODE_INVALID;
        *ret_len = i + 1;
    }
    return UNICODE_WHOLE;
}

unsigned unicode_decode(const char *s, size_t n, uint32_t *ret_cp)
{
    size_t len;

    if (unicode_part_at(s, n, &len) != UNICODE_WHOLE)
        return 0;
    return unicode_decode_valid(s, ret_cp);
}

unsigned unicode_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool text_utf8_valid(const char *s, size_t n, size_t *ret_offset)
{
    size_t i = 0;

    while (i < n) {
        uint64_t word;
        if (n - i >= 8 && (memcpy(&word, s + i, 8), !(word & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        size_t len;
        if (unicode_part_at(s + i, n - i, &len) != UNICODE_WHOLE) {
            if (ret_offset)
                *ret_offset = i;
            return false;
        }
        i += len;
    }
    return true;
}
