/* quern status: what the service runs and how it is. The service sends lines of key=value. */
#include "client/cli/cli.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_status_add(struct cli_status *status, const struct quern_event *event)
{
    if (event->type != QUERN_EVENT_DATA)
        return 0;
    char *more = realloc(status->text, status->size + event->data_size + 1);
    if (!more)
        return -ENOMEM;
    status->text = more;
    memcpy(status->text + status->size, event->data, event->data_size);
    status->size += event->data_size;
    status->text[status->size] = 0;
    return 0;
}

static int collect_status(void *arg, const struct quern_event *event)
{
    return cli_status_add(arg, event) ? cli_fail(1, "out of memory") : 0;
}

/* key=value lines as a table, or as one JSON object of strings. What comes from a line "model" on is of
 * one model: in JSON an object in the list "models", and the first one's keys also stand outside. */
static void print_status(char *text, enum cli_output output)
{
    json_t *object = json_object(), *models = json_array(), *model = NULL;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = 0;
        if (output != CLI_OUTPUT_JSON) {
            if (strcmp(line, "chat_program")) /* long, and for programs */
                printf("%s%-24s %s\n", strcmp(line, "model") ? "" : "\n", line, value);
            continue;
        }
        if (!strcmp(line, "model")) {
            model = json_object();
            json_array_append_new(models, model);
        }
        if (model)
            json_object_set_new(model, line, json_string(value));
        if (json_array_size(models) <= 1)
            json_object_set_new(object, line, json_string(value));
    }
    json_object_set_new(object, "models", models);
    if (output == CLI_OUTPUT_JSON) {
        json_dumpf(object, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(object);
}

int cli_status(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "status", "output json wait", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.n_words || o.output == CLI_OUTPUT_IDS)
        return cli_fail(CLI_USAGE, "status takes no words, and prints text or json");
    quern *q = NULL;
    rc = cli_connect(&q, &o);
    if (!rc && o.wait) { /* info needs the model: its answer comes when that is loaded */
        struct quern_result result;
        struct quern_request info = o.request;
        info.op = QUERN_OP_INFO;
        rc = cli_run(q, &info, NULL, NULL, &result);
    }
    if (!rc) {
        struct quern_result result;
        struct cli_status s = {0};
        o.request.op = QUERN_OP_STATUS;
        rc = cli_run(q, &o.request, collect_status, &s, &result);
        if (rc == CLI_OK && s.text)
            print_status(s.text, o.output);
        free(s.text);
    }
    quern_close(q);
    return rc;
}
