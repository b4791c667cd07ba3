/* The parser of tool calls on arbitrary answers: the events are the same however the answer is cut, and
 * what they say, with the sources of the calls, is the answer.
 *
 * First byte: the form, and the size of pieces; the rest is the answer. */
#include "chat/calls.h"
#include "chat/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

struct log {
    struct chat_text events; /* kind and bytes; pieces of the same kind put together */
    struct chat_text arguments;
    size_t n_text, n_malformed;
    unsigned next;
    int kind, in_call;
};

static void note(void *arg, const struct chat_event *event)
{
    struct log *log = arg;

    check(event->call == log->next);
    if ((int)event->type != log->kind ||
        (event->type != CHAT_EVENT_TEXT && event->type != CHAT_EVENT_ARGUMENTS)) {
        char kind = (char)event->type;
        chat_text_add(&log->events, &kind, 1);
    }
    chat_text_add(&log->events, event->s, event->n);
    log->kind = (int)event->type;
    switch (event->type) {
    case CHAT_EVENT_TEXT:
        check(!log->in_call && event->n > 0);
        log->n_text += event->n;
        break;
    case CHAT_EVENT_BEGIN:
        check(!log->in_call && event->n > 0);
        log->in_call = 1;
        log->arguments.n = 0;
        break;
    case CHAT_EVENT_ARGUMENTS:
        check(log->in_call && event->n > 0);
        chat_text_add(&log->arguments, event->s, event->n);
        break;
    case CHAT_EVENT_END:
        check(log->in_call && event->n == log->arguments.n &&
              !memcmp(event->s, log->arguments.s, event->n));
        log->in_call = 0;
        log->next++;
        break;
    case CHAT_EVENT_MALFORMED:
        check(event->begun == log->in_call && event->n > 0);
        log->n_malformed += event->n;
        log->in_call = 0;
        log->next++;
        break;
    }
}

static void run(enum chat_call_form form, const uint8_t *s, size_t n, size_t piece, struct log *log)
{
    struct chat_parser *parser;

    *log = (struct log){.kind = -1};
    check(chat_parser_new(&parser, form, note, log) == 0);
    for (size_t at = 0; at < n; at += piece)
        check(chat_parser_push(parser, (const char *)s + at, n - at < piece ? n - at : piece) == 0);
    check(chat_parser_finish(parser) == 0);
    chat_parser_free(parser);
    check(!log->in_call && log->n_text + log->n_malformed <= n);
    if (log->next == 0)
        check(log->n_text == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct log whole, pieces;

    if (size == 0)
        return 0;
    enum chat_call_form form = data[0] & 1 ? CHAT_CALLS_TAGS : CHAT_CALLS_FLOWER;
    run(form, data + 1, size - 1, size, &whole);
    run(form, data + 1, size - 1, 1 + data[0] / 2, &pieces);
    check(whole.events.n == pieces.events.n &&
          (whole.events.n == 0 || !memcmp(whole.events.s, pieces.events.s, whole.events.n)));
    chat_text_done(&whole.events);
    chat_text_done(&whole.arguments);
    chat_text_done(&pieces.events);
    chat_text_done(&pieces.arguments);
    return 0;
}
