/* A chat with tools (see tools.h). */
#include "client/cli/tools.h"

#include "chat/calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_tools_open(struct cli_tools *ret, quern *q, const struct cli_options *options)
{
    int rc = CLI_OK;

    *ret = (struct cli_tools){0};
    if (!options->tools)
        return CLI_OK;
    ret->tools = cli_load_json(options->tools, &rc);
    if (!rc && json_array_size(ret->tools) == 0)
        rc = cli_fail(CLI_USAGE, "%s holds no list of tools", options->tools);
    if (!rc)
        rc = cli_template(q, options, &ret->template);
    if (!rc && ret->template.calls == CHAT_CALLS_NONE)
        rc = cli_fail(CLI_USAGE, ret->template.program
                                     ? "the form in which the model's own template asks for calls "
                                       "is not known"
                                     : "the model's family was not taught to call tools");
    return rc;
}

void cli_tools_close(struct cli_tools *tools)
{
    json_decref(tools->tools);
    tools->tools = NULL;
    cli_template_done(&tools->template);
}

/* The answer as it comes. */
struct answer {
    struct chat_parser *parser;
    struct chat_text text;  /* outside of calls */
    struct chat_text name;  /* of the call under way */
    json_t *calls;          /* as "tool_calls" has them */
    bool line_open, failed; /* failed: memory ran out */
};

static void print(struct answer *a, const char *s, size_t n)
{
    if (n == 0)
        return;
    fwrite(s, 1, n, stdout);
    a->line_open = s[n - 1] != '\n';
    fflush(stdout);
}

static void call_ends(struct answer *a, const struct chat_event *event)
{
    json_t *arguments = json_loadb(event->s, event->n, JSON_ALLOW_NUL, NULL);
    json_t *call = json_pack("{s:s, s:{s:s%, s:o*}}", "type", "function", "function", "name",
                             a->name.s, a->name.n, "arguments", arguments);

    if (!call || json_array_append_new(a->calls, call))
        a->failed = true;
}

static void take_event(void *arg, const struct chat_event *event)
{
    struct answer *a = arg;

    switch (event->type) {
    case CHAT_EVENT_TEXT:
        chat_text_add(&a->text, event->s, event->n);
        print(a, event->s, event->n);
        return;
    case CHAT_EVENT_BEGIN:
        a->name.n = 0;
        chat_text_add(&a->name, event->s, event->n);
        if (a->line_open)
            print(a, "\n", 1);
        print(a, "call ", 5);
        print(a, event->s, event->n);
        print(a, " ", 1);
        return;
    case CHAT_EVENT_ARGUMENTS:
        print(a, event->s, event->n);
        return;
    case CHAT_EVENT_END:
        print(a, "\n", 1);
        call_ends(a, event);
        return;
    case CHAT_EVENT_MALFORMED:
        if (a->line_open)
            print(a, "\n", 1);
        cli_fail(0, "what follows was meant as a call, but is malformed: it counts as text");
        chat_text_add(&a->text, event->s, event->n);
        print(a, event->s, event->n);
        return;
    }
}

static int take(void *arg, const struct quern_event *event)
{
    struct answer *a = arg;

    if (event->type == QUERN_EVENT_TOKEN || event->type == QUERN_EVENT_DATA)
        if (chat_parser_push(a->parser, event->data, event->data_size) < 0)
            a->failed = true;
    return a->failed;
}

/* The user's stop strings and those of the form. */
static void add_stops(struct quern_request *r, enum chat_call_form form,
                      const char *stops[CLI_STOPS_MAX])
{
    const char *own[2];
    size_t n = chat_parser_stops(form, own), count = r->n_stops;

    if (count > 0)
        memcpy(stops, r->stops, count * sizeof *stops);
    for (size_t i = 0; i < n && count < CLI_STOPS_MAX; i++)
        stops[count++] = own[i];
    r->stops = stops;
    r->n_stops = count;
}

static json_t *message_of(const struct answer *a)
{
    json_t *message = json_pack("{s:s, s:s%}", "role", "assistant", "content",
                                a->text.s ? a->text.s : "", a->text.n);

    if (message && json_array_size(a->calls) > 0)
        json_object_set(message, "tool_calls", a->calls);
    return message;
}

int cli_tools_answer(const struct cli_tools *tools, quern *q, const struct cli_options *options,
                     const struct quern_request *r, json_t *messages, json_t **ret_message,
                     struct quern_result *ret)
{
    enum chat_call_form form = tools->template.calls;
    const char *stops[CLI_STOPS_MAX];
    struct answer a = {.calls = json_array()};
    struct quern_request request = *r;
    struct quern_segment *segments = NULL;
    struct chat_prompt prompt = {0};
    int rc = cli_render_messages(&prompt, &tools->template, messages, tools->tools, options);

    add_stops(&request, form, stops);
    if (!rc)
        rc = cli_prompt_input(&prompt, &request, &segments);
    if (!rc && chat_parser_new(&a.parser, form, take_event, &a) < 0)
        rc = cli_fail(CLI_OURS, "out of memory");
    if (!rc)
        rc = cli_run(q, &request, take, &a, ret);
    if (rc == CLI_OK || rc == CLI_INTERRUPTED) {
        a.failed = chat_parser_finish(a.parser) < 0 || a.failed;
        if (a.line_open)
            print(&a, "\n", 1);
        *ret_message = a.failed ? NULL : message_of(&a);
        if (!*ret_message)
            rc = cli_fail(CLI_OURS, "the answer could not be kept: no memory, or no valid UTF-8");
    }
    chat_parser_free(a.parser);
    chat_prompt_done(&prompt);
    chat_text_done(&a.text);
    chat_text_done(&a.name);
    json_decref(a.calls);
    free(segments);
    return rc;
}
