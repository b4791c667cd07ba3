/* Stop strings on arbitrary texts, in arbitrary pieces, against a search in the whole text.
 *
 * First byte: how many strings (0 … 3); each: its length (1 … 8) and bytes; one byte: the size of
 * pieces; the rest is the text. */
#include "svc/stop.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

/* Where the text ends: before the string that ends first, the longest of those that end there. */
static size_t end_of(const uint8_t *list, uint32_t n_list, const uint8_t *text, size_t n,
                     int *found)
{
    *found = 0;
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (uint32_t at = 0; at < n_list;) {
            uint32_t length;
            memcpy(&length, list + at, sizeof length);
            if (length <= end && length > longest &&
                !memcmp(text + end - length, list + at + sizeof length, length))
                longest = length;
            at += (uint32_t)sizeof length + length;
        }
        if (longest) {
            *found = 1;
            return end - longest;
        }
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t list[3 * 12];
    uint32_t n_list = 0;
    struct stop *stop;
    size_t at = 1, n_out = 0, n;
    const char *text;
    bool stopped = false;
    int found;

    if (size < 1)
        return 0;
    for (unsigned i = 0; i < data[0] % 4u && at < size; i++) {
        uint32_t length = 1 + data[at] % 8u;
        if (size - ++at < length)
            return 0;
        memcpy(list + n_list, &length, sizeof length);
        memcpy(list + n_list + sizeof length, data + at, length);
        n_list += (uint32_t)sizeof length + length;
        at += length;
    }
    if (at >= size)
        return 0;
    size_t piece = 1 + data[at++] % 32u;
    const uint8_t *whole = data + at;
    size_t n_whole = size - at, want = end_of(list, n_list, whole, n_whole, &found);

    check(stop_new(&stop, list, n_list) == 0);
    for (size_t i = 0; i < n_whole && !stopped; i += piece) {
        size_t n_piece = n_whole - i < piece ? n_whole - i : piece;
        check(stop_push(stop, (const char *)whole + i, n_piece, &text, &n, &stopped) == 0);
        check(n_out + n <= want && (n == 0 || !memcmp(text, whole + n_out, n)));
        n_out += n;
    }
    check(stopped == (found != 0));
    if (!stopped) {
        stop_finish(stop, &text, &n);
        check(n == 0 || !memcmp(text, whole + n_out, n));
        n_out += n;
    }
    check(n_out == want);
    stop_free(stop);
    return 0;
}
