/* A text that grows: what the renderer and the tool parser write into. */
#ifndef QUERN_CHAT_TEXT_H
#define QUERN_CHAT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes that belong to somebody else; not terminated. */
struct chat_span {
    const char *s;
    size_t len;
};

/* Begin with zeros. Where memory runs out, `failed` stays set and nothing more is added, so that a
 * caller looks once at the end. */
struct chat_text {
    char *s; /* n bytes and a zero byte after them; NULL while nothing was added */
    size_t n, capacity;
    bool failed;
};

void chat_text_add(struct chat_text *text, const char *s, size_t n);
void chat_text_puts(struct chat_text *text, const char *s);
void chat_text_done(struct chat_text *text);

bool chat_span_is(struct chat_span span, const char *s);

/* Without the white space at its begin, its end, or both, as Python's str.strip has it. */
struct chat_span chat_span_trim(struct chat_span s, bool begin, bool end);

/* How many letters must be changed, put in, left out or swapped with their neighbour to get from one word to
 * the other (optimal string alignment; 40 letters are looked at): which name is meant by a misspelt one. */
unsigned chat_word_distance(const char *a, const char *b);

#endif
