/* quern embed: a text as a vector, the model's last hidden state. */
#include "client/cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vector {
    enum cli_output output;
    json_t *values; /* json */
    size_t n;
};

static int take(void *arg, const struct quern_event *event)
{
    struct vector *v = arg;
    if (event->type != QUERN_EVENT_DATA || event->u.data.kind != QUERN_DATA_FLOATS)
        return 0;
    for (size_t at = 0; at + sizeof(float) <= event->data_size; at += sizeof(float), v->n++) {
        float x;
        memcpy(&x, event->data + at, sizeof x);
        if (v->output == CLI_OUTPUT_TEXT)
            printf("%s%.9g", v->n ? " " : "", (double)x); /* 9 digits: the same float again */
        else if (json_array_append_new(v->values, json_real(x)))
            return cli_fail(1, "out of memory");
    }
    return 0;
}

int cli_embed(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "embed", "mean normalize output json model", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.output == CLI_OUTPUT_IDS)
        return cli_fail(CLI_USAGE, "embed prints text or json; quern embed --help");
    char *text = NULL;
    quern *q = NULL;
    struct vector v = {.output = o.output, .values = json_array()};
    rc = cli_input(&o, &text, &o.request.input_size);
    if (!rc)
        rc = cli_connect(&q, &o);
    if (!rc) {
        struct quern_result result;
        o.request.op = QUERN_OP_EMBED;
        o.request.input = text;
        o.request.flags = o.flags;
        rc = cli_run(q, &o.request, take, &v, &result);
        if (rc == CLI_OK && o.output == CLI_OUTPUT_JSON)
            json_dumpf(v.values, stdout, JSON_COMPACT);
        if (rc == CLI_OK)
            putchar('\n');
    }
    quern_close(q);
    json_decref(v.values);
    free(text);
    return rc;
}
