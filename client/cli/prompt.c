/* Prompts that the tool renders itself (see prompt.h). */
#define _GNU_SOURCE /* memmem */
#include "client/cli/prompt.h"

#include "chat/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

json_t *cli_load_json(const char *path, int *ret_rc)
{
    char *text = NULL, why[300];
    size_t size = 0;
    json_t *value = NULL;
    int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;

    if (fd < 0) {
        *ret_rc = cli_fail(CLI_USAGE, "could not open %s: %m", path);
        return NULL;
    }
    *ret_rc = cli_read_all(fd, &text, &size);
    if (*ret_rc == 0)
        value = chat_json_read(text, size, path, why, sizeof why);
    if (*ret_rc == 0 && !value)
        *ret_rc = cli_fail(CLI_USAGE, "%s", why);
    free(text);
    if (fd != STDIN_FILENO)
        close(fd);
    return value;
}

static int read_text_file(const char *path, char **ret, size_t *ret_n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

    if (fd < 0)
        return cli_fail(CLI_USAGE, "could not open %s: %m", path);
    rc = cli_read_all(fd, ret, ret_n);
    close(fd);
    return rc;
}

static int collect(void *arg, const struct quern_event *event)
{
    struct chat_text *text = arg;

    if (event->type == QUERN_EVENT_DATA)
        chat_text_add(text, event->data, event->data_size);
    return text->failed;
}

/* The value of one key of info's lines, up to the end of its line. */
static struct chat_span value_of(const struct chat_text *lines, const char *key)
{
    size_t n_key = strlen(key);

    for (const char *at = lines->s; at && *at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (!strncmp(at, key, n_key) && at[n_key] == '=')
            return (struct chat_span){at + n_key + 1, strcspn(at + n_key + 1, "\n")};
    }
    return (struct chat_span){"", 0};
}

/* A program, and the form of calls that it asks for as far as its words say. */
static int compile(struct cli_template *t, const char *s, size_t n)
{
    char why[300] = "";
    int r = jinja_new(&t->program, s, n, why, sizeof why);

    if (r < 0)
        return cli_fail(r == -ENOMEM ? CLI_OURS : CLI_USAGE, "%s", why);
    t->calls = memmem(s, n, "<tool_call>", 11) && memmem(s, n, "arguments", 9) ? CHAT_CALLS_TAGS
                                                                               : CHAT_CALLS_NONE;
    return CLI_OK;
}

static int take_program(struct cli_template *t, struct chat_span text)
{
    char why[200];
    const json_t *template;

    t->info = chat_json_read(text.s, text.len, "what the service says", why, sizeof why);
    template = json_object_get(t->info, "template");
    if (!json_is_string(template))
        return cli_fail(CLI_OURS, "the service's model has a prompt template that did not arrive");
    return compile(t, json_string_value(template), json_string_length(template));
}

static int ask_template(quern *q, const struct cli_options *options, struct cli_template *ret)
{
    struct chat_text lines = {0};
    struct quern_request r;
    struct quern_result result;
    struct chat_span family, program;
    char name[64] = "";

    quern_request_init(&r);
    r.op = QUERN_OP_INFO;
    r.model = options->request.model;
    int rc = cli_run(q, &r, collect, &lines, &result);
    family = value_of(&lines, "chat_family");
    program = value_of(&lines, "chat_program");
    if (family.len < sizeof name)
        memcpy(name, family.s, family.len);
    if (rc == CLI_OK && !chat_family_by_name(name, &ret->family))
        rc = cli_fail(CLI_OURS, "the service's model has no prompt template that this tool knows; "
                                "--family names one");
    ret->calls = chat_family_calls(ret->family);
    if (rc == CLI_OK && program.len > 0)
        rc = take_program(ret, program);
    chat_text_done(&lines);
    return rc;
}

int cli_template(quern *q, const struct cli_options *options, struct cli_template *ret)
{
    char *text = NULL;
    size_t n = 0;

    if (options->template) {
        int rc = read_text_file(options->template, &text, &n);
        if (!rc)
            rc = compile(ret, text, n);
        free(text);
        return rc;
    }
    if (!options->family)
        return ask_template(q, options, ret);
    if (!chat_family_by_name(options->family, &ret->family))
        return cli_fail(CLI_USAGE, "--family does not know \"%s\"; quern render --help lists them",
                        options->family);
    ret->calls = chat_family_calls(ret->family);
    return CLI_OK;
}

void cli_template_done(struct cli_template *t)
{
    jinja_free(t->program);
    json_decref(t->info);
    *t = (struct cli_template){0};
}

static const char *token_of(const struct cli_template *t, const char *key)
{
    const char *name = json_string_value(json_object_get(t->info, key));

    return name && *name ? name : NULL;
}

static int execute(struct chat_prompt *ret, const struct cli_template *t, json_t *messages,
                   json_t *tools, const struct cli_options *options, char *why, size_t why_size)
{
    json_t *extra = options->parallel_calls ? json_pack("{s:b}", "parallel_tool_calls", 1) : NULL;
    const struct jinja_options render = {.no_generation_prompt = options->no_generation_prompt,
                                         .bos_token = token_of(t, "bos"),
                                         .eos_token = token_of(t, "eos"),
                                         .extra = extra};
    int r = -EINVAL;

    if (json_array_size(messages) == 0)
        snprintf(why, why_size, "the messages are no JSON list, or an empty one");
    else
        r = jinja_render(t->program, ret, messages, tools, &render, why, why_size);
    json_decref(extra);
    return r;
}

int cli_render_messages(struct chat_prompt *ret, const struct cli_template *t, json_t *messages,
                        json_t *tools, const struct cli_options *options)
{
    struct chat_options render = {.no_generation_prompt = options->no_generation_prompt,
                                  .parallel_calls = options->parallel_calls,
                                  .chinese = options->chinese};
    struct chat_document *document = NULL;
    char why[300] = "";
    int r;

    if (t->program) {
        r = execute(ret, t, messages, tools, options, why, sizeof why);
    } else {
        r = chat_document_new(&document, messages, tools, why, sizeof why);
        if (r == 0)
            r = chat_render(ret, t->family, chat_document_conversation(document), &render, NULL,
                            why, sizeof why);
        chat_document_free(document);
    }
    return r < 0 ? cli_fail(r == -ENOMEM ? CLI_OURS : CLI_USAGE, "%s", why) : CLI_OK;
}

int cli_prompt_input(const struct chat_prompt *prompt, struct quern_request *r,
                     struct quern_segment **ret_segments)
{
    struct quern_segment *segments = calloc(prompt->n + 1, sizeof *segments);

    if (!segments)
        return cli_fail(CLI_OURS, "out of memory");
    for (size_t i = 0; i < prompt->n; i++) {
        const struct chat_segment *s = &prompt->segments[i];
        segments[i] = (struct quern_segment){(enum quern_segment_kind)s->kind,
                                             prompt->text.s + s->offset, s->length};
    }
    _Static_assert((int)CHAT_TOKEN == (int)QUERN_SEGMENT_TOKEN &&
                       (int)CHAT_CONTROL == (int)QUERN_SEGMENT_CONTROL,
                   "segments have the same numbers");
    r->kind = QUERN_INPUT_SEGMENTS;
    r->segments = segments;
    r->n_segments = prompt->n;
    *ret_segments = segments;
    return CLI_OK;
}
