/* JSON to a conversation (see conversation.h). Everything is checked here that a template would stumble
 * over, with a sentence that names the message or tool. */
#include "chat/conversation.h"

#include "chat/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct chat_document {
    json_t *messages, *tools; /* own references; tools may be NULL */
    struct chat_conversation conversation;
    struct chat_message *message; /* (n_messages) */
    struct chat_tool *tool;       /* (n_tools) */
    struct chat_call *calls;      /* (n_calls) of all messages */
    size_t n_calls;
    struct chat_text *texts; /* (n_texts) JSON that was spelled anew: arguments, tools */
    size_t n_texts;
};

__attribute__((format(printf, 3, 4))) static int invalid(char *why, size_t why_size,
                                                         const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, why_size, format, args);
    va_end(args);
    return -EINVAL;
}

static struct chat_span string_span(const json_t *string)
{
    if (!json_is_string(string))
        return (struct chat_span){NULL, 0};
    return (struct chat_span){json_string_value(string), json_string_length(string)};
}

/* The JSON of a value, kept by the document. s is NULL where memory ran out. */
static struct chat_span spelled(struct chat_document *d, const json_t *value)
{
    struct chat_text *text = &d->texts[d->n_texts++];

    chat_json_add(text, value);
    if (text->failed)
        return (struct chat_span){NULL, 0};
    return (struct chat_span){text->s, text->n};
}

/* ---- counting, so that what spans point to never moves --------------------------------------- */

/* A call's own object: templates take {"function": {…}} and the bare form alike. */
static const json_t *call_body(const json_t *call)
{
    const json_t *function = json_object_get(call, "function");

    return function ? function : call;
}

static size_t count_calls(const json_t *messages)
{
    size_t n = 0;

    for (size_t i = 0; i < json_array_size(messages); i++)
        n += json_array_size(json_object_get(json_array_get(messages, i), "tool_calls"));
    return n;
}

static int allocate(struct chat_document *d)
{
    size_t n_messages = json_array_size(d->messages), n_tools = json_array_size(d->tools);
    size_t n_calls = count_calls(d->messages);

    d->message = calloc(n_messages + 1, sizeof *d->message);
    d->tool = calloc(n_tools + 1, sizeof *d->tool);
    d->calls = calloc(n_calls + 1, sizeof *d->calls);
    d->texts = calloc(n_calls + 2 * n_tools + 1, sizeof *d->texts);
    if (!d->message || !d->tool || !d->calls || !d->texts)
        return -ENOMEM;
    d->conversation = (struct chat_conversation){d->message, n_messages, d->tool, n_tools};
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int read_calls(struct chat_document *d, size_t i, const json_t *calls, char *why,
                      size_t why_size)
{
    struct chat_message *m = &d->message[i];

    m->calls = d->calls + d->n_calls;
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *body = call_body(json_array_get(calls, k));
        const json_t *arguments = json_object_get(body, "arguments");
        struct chat_call *call = &d->calls[d->n_calls++];
        call->name = string_span(json_object_get(body, "name"));
        if (!call->name.s || !arguments)
            return invalid(why, why_size,
                           "call %zu of message %zu lacks a \"name\" or \"arguments\"", k, i);
        call->arguments = spelled(d, arguments);
        if (!call->arguments.s)
            return -ENOMEM;
        m->n_calls++;
    }
    return 0;
}

static int read_message(struct chat_document *d, size_t i, char *why, size_t why_size)
{
    const json_t *message = json_array_get(d->messages, i);
    const json_t *content = json_object_get(message, "content");
    const json_t *calls = json_object_get(message, "tool_calls");
    struct chat_message *m = &d->message[i];

    if (!json_is_object(message))
        return invalid(why, why_size, "message %zu is no JSON object", i);
    m->role = string_span(json_object_get(message, "role"));
    if (!m->role.s)
        return invalid(why, why_size, "message %zu has no \"role\"", i);
    if (calls && !json_is_null(calls) && !json_is_array(calls))
        return invalid(why, why_size, "\"tool_calls\" of message %zu is no list", i);
    m->content = string_span(content);
    if (!m->content.s) {
        bool missing = !content || json_is_null(content);
        if (!missing || json_array_size(calls) == 0)
            return invalid(why, why_size, "\"content\" of message %zu is %s", i,
                           missing ? "missing" : "no text; only text is taken");
        m->content = (struct chat_span){"", 0};
    }
    return read_calls(d, i, calls, why, why_size);
}

static int read_tool(struct chat_document *d, size_t i)
{
    const json_t *tool = json_array_get(d->tools, i), *function = json_object_get(tool, "function");
    const json_t *parameters = json_object_get(function, "parameters");
    struct chat_tool *t = &d->tool[i];

    t->json = spelled(d, tool);
    t->name = string_span(json_object_get(function, "name"));
    t->description = string_span(json_object_get(function, "description"));
    if (parameters)
        t->parameters = spelled(d, parameters);
    return !t->json.s || (parameters && !t->parameters.s) ? -ENOMEM : 0;
}

int chat_document_new(struct chat_document **ret, json_t *messages, json_t *tools, char *why,
                      size_t why_size)
{
    struct chat_document *d;
    int r;

    if (!json_is_array(messages))
        return invalid(why, why_size, "the messages are no JSON list");
    if (tools && !json_is_array(tools))
        return invalid(why, why_size, "the tools are no JSON list");
    d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->messages = json_incref(messages);
    d->tools = json_incref(tools);
    r = allocate(d);
    for (size_t i = 0; r == 0 && i < d->conversation.n_tools; i++)
        r = read_tool(d, i);
    for (size_t i = 0; r == 0 && i < d->conversation.n_messages; i++)
        r = read_message(d, i, why, why_size);
    if (r < 0) {
        if (r == -ENOMEM)
            snprintf(why, why_size, "not enough memory for the messages");
        chat_document_free(d);
        return r;
    }
    *ret = d;
    return 0;
}

void chat_document_free(struct chat_document *document)
{
    struct chat_document *d = document;

    if (!d)
        return;
    for (size_t i = 0; i < d->n_texts; i++)
        chat_text_done(&d->texts[i]);
    free(d->texts);
    free(d->calls);
    free(d->tool);
    free(d->message);
    json_decref(d->tools);
    json_decref(d->messages);
    free(d);
}

const struct chat_conversation *chat_document_conversation(const struct chat_document *document)
{
    return &document->conversation;
}
