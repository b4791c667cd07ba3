/* Stop strings across token boundaries (see stop.h).
 *
 * A text of a few bytes comes in at a time and strings are short (IPC_STOP_BYTES_MAX), so each new
 * byte is matched against the end of the text directly; what is held back is the longest end of
 * the text that is the beginning of some stop string. */
#include "svc/stop.h"

#include "ipc/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct stop {
    uint8_t *list; /* own copy */
    uint32_t n_strings;
    struct ipc_part strings[IPC_STOPS_MAX]; /* point into list */
    char *text;                             /* [0, n_out) was handed out, [n_out, n) is held back */
    size_t n_out, n, capacity;
};

int stop_new(struct stop **ret, const uint8_t *list, uint32_t list_bytes)
{
    struct stop *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    if (list_bytes) {
        s->list = malloc(list_bytes);
        if (!s->list) {
            free(s);
            return -ENOMEM;
        }
        memcpy(s->list, list, list_bytes);
        uint32_t cursor = 0;
        while (s->n_strings < IPC_STOPS_MAX &&
               ipc_stop_next(s->list, list_bytes, &cursor, &s->strings[s->n_strings]) == 1)
            s->n_strings += s->strings[s->n_strings].length > 0;
    }
    *ret = s;
    return 0;
}

void stop_free(struct stop *stop)
{
    if (!stop)
        return;
    free(stop->list);
    free(stop->text);
    free(stop);
}

/* The longest stop string that text[0 … n) ends with; 0 if none. */
static size_t match_at_end(const struct stop *s, const char *text, size_t n)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < s->n_strings; i++) {
        size_t length = s->strings[i].length;
        if (length <= n && length > longest &&
            !memcmp(text + n - length, s->strings[i].bytes, length))
            longest = length;
    }
    return longest;
}

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t held_back(const struct stop *s, const char *text, size_t n)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < s->n_strings; i++) {
        size_t length = s->strings[i].length - 1;
        if (length > n)
            length = n;
        for (; length > longest; length--)
            if (!memcmp(text + n - length, s->strings[i].bytes, length))
                longest = length;
    }
    return longest;
}

int stop_push(struct stop *stop, const char *text, size_t n, const char **ret_text, size_t *ret_n,
              bool *ret_stopped)
{
    struct stop *s = stop;
    *ret_stopped = false;
    if (s->n_strings == 0) {
        *ret_text = text;
        *ret_n = n;
        return 0;
    }
    size_t held = s->n - s->n_out;
    if (held + n > s->capacity) {
        size_t capacity = 2 * (held + n) + IPC_STOP_BYTES_MAX;
        char *bigger = malloc(capacity);
        if (!bigger)
            return -ENOMEM;
        if (held)
            memcpy(bigger, s->text + s->n_out, held);
        free(s->text);
        s->text = bigger;
        s->capacity = capacity;
    } else if (held) {
        memmove(s->text, s->text + s->n_out, held);
    }
    s->n_out = 0;
    s->n = held;
    *ret_text = s->text;
    for (size_t i = 0; i < n; i++) {
        s->text[s->n++] = text[i];
        size_t length = match_at_end(s, s->text, s->n);
        if (length) {
            *ret_n = s->n - length;
            *ret_stopped = true;
            s->n = s->n_out = 0;
            return 0;
        }
    }
    s->n_out = s->n - held_back(s, s->text, s->n);
    *ret_n = s->n_out;
    return 0;
}

void stop_finish(struct stop *stop, const char **ret_text, size_t *ret_n)
{
    *ret_text = stop->text ? stop->text + stop->n_out : "";
    *ret_n = stop->n - stop->n_out;
    stop->n_out = stop->n;
}
