/* Prompts that the tool renders itself (see prompt.h). */
#include "client/cli/prompt.h"

#include "chat/json.h"

#include <errno.h>
#include <fcntl.h>
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

/* The value of one key of what info says. */
struct wanted {
    const char *key;
    char line[256]; /* the line that is coming in */
    size_t n;
    char value[64];
};

static int look_for_key(void *arg, const struct quern_event *event)
{
    struct wanted *w = arg;
    size_t n_key = strlen(w->key);

    for (size_t i = 0; event->type == QUERN_EVENT_DATA && i < event->data_size; i++) {
        if (event->data[i] != '\n') {
            if (w->n + 1 < sizeof w->line)
                w->line[w->n++] = event->data[i];
            continue;
        }
        w->line[w->n] = '\0';
        if (!strncmp(w->line, w->key, n_key) && w->line[n_key] == '=' &&
            w->n - n_key - 1 < sizeof w->value)
            strcpy(w->value, w->line + n_key + 1);
        w->n = 0;
    }
    return 0;
}

int cli_family(quern *q, const struct cli_options *options, enum chat_family *ret)
{
    struct wanted wanted = {.key = "chat_family"};
    struct quern_request r;
    struct quern_result result;

    if (options->family && chat_family_by_name(options->family, ret))
        return CLI_OK;
    if (options->family)
        return cli_fail(CLI_USAGE, "--family does not know \"%s\"; quern render --help lists them",
                        options->family);
    quern_request_init(&r);
    r.op = QUERN_OP_INFO;
    r.model = options->request.model;
    int rc = cli_run(q, &r, look_for_key, &wanted, &result);
    if (rc == CLI_OK && !chat_family_by_name(wanted.value, ret))
        rc = cli_fail(CLI_OURS, "the service's model has no prompt template that this tool knows; "
                                "--family names one");
    return rc;
}

int cli_render_messages(struct chat_prompt *ret, enum chat_family family, json_t *messages,
                        json_t *tools, const struct cli_options *options)
{
    struct chat_options render = {.no_generation_prompt = options->no_generation_prompt,
                                  .parallel_calls = options->parallel_calls,
                                  .chinese = options->chinese};
    struct chat_document *document = NULL;
    char why[300] = "";
    int r = chat_document_new(&document, messages, tools, why, sizeof why);

    if (r == 0)
        r = chat_render(ret, family, chat_document_conversation(document), &render, NULL, why,
                        sizeof why);
    chat_document_free(document);
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
