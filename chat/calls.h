/* Tool calls in an answer, found while it streams.
 *
 * The answer goes in piece by piece, cut anywhere; events come out: text, the begin of a call with its
 * name, its arguments as they come, its end. What a call says is JSON by the time that it ends; one that
 * is not comes back as text with a flag, whole, and nothing is lost: the text events, and the
 * sources of the calls between them, are the answer.
 *
 * Nothing is ever run here: a call is news for whoever asked. */
#ifndef QUERN_CHAT_CALLS_H
#define QUERN_CHAT_CALLS_H

#include "chat/family.h"

enum chat_event_type {
    CHAT_EVENT_TEXT,      /* a piece of the answer that belongs to no call */
    CHAT_EVENT_BEGIN,     /* a call: its name */
    CHAT_EVENT_ARGUMENTS, /* the next piece of its arguments, JSON */
    CHAT_EVENT_END,       /* the call is complete: all of its arguments, a JSON object */
    CHAT_EVENT_MALFORMED, /* it was none: its text as it stood in the answer. Where it had begun, what
                             was said of it is void */
};

struct chat_event {
    enum chat_event_type type;
    const char *s; /* n bytes, not terminated; valid during the call of the function */
    size_t n;
    unsigned call; /* number of the call, from 0; of text: of the next one */
    bool begun;    /* malformed: its begin was told */
};
typedef void chat_event_fn(void *arg, const struct chat_event *event);

struct chat_parser;

/* `form` is not CHAT_CALLS_NONE. -ENOMEM. */
int chat_parser_new(struct chat_parser **ret, enum chat_call_form form, chat_event_fn *fn,
                    void *arg);
void chat_parser_free(struct chat_parser *parser);

/* Takes the next n bytes of the answer. -ENOMEM (then only free it). */
int chat_parser_push(struct chat_parser *parser, const char *s, size_t n);

/* The answer has ended: what was held back is decided. The parser is ready for another. -ENOMEM. */
int chat_parser_finish(struct chat_parser *parser);

/* Where generation must stop in this form, so that the model does not make up what a tool says: up to
 * 2 strings for the request's stop list. */
size_t chat_parser_stops(enum chat_call_form form, const char *ret[2]);

#endif
