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
