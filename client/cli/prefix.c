/* quern prefix: beginnings of prompts that the service keeps computed, by handle, so that a script
 * pays for a long one once. They outlive the call (QUERN_KEEP): who pins, unpins. */
#include "client/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_handle(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!*text || *end || errno || strchr(text, '-') || v == 0)
        return cli_fail(CLI_USAGE, "\"%s\" is no handle of a prefix; quern prefix pin prints one",
                        text);
    *ret = v;
    return 0;
}

static int take_handle(void *arg, const struct quern_event *event)
{
    if (event->type == QUERN_EVENT_DATA && event->u.data.kind == QUERN_DATA_HANDLE &&
        event->data_size == sizeof(uint64_t))
        memcpy(arg, event->data, sizeof(uint64_t));
    return 0;
}

/* Pins what the options say, after o->request.prefix where that is one, and prints the handle. */
static int pin(struct cli_options *o)
{
    struct quern_message system = {QUERN_ROLE_SYSTEM, o->system, 0};
    struct quern_result result;
    quern *q = NULL;
    uint32_t *ids = NULL;
    char *text = NULL;
    uint64_t handle = 0;
    int rc = 0;

    if (!!o->system + !!o->tokens + (o->n_words > 0) > 1)
        return cli_fail(CLI_USAGE, "a prefix is one of words, --tokens IDS, or --system TEXT");
    if (o->system) {
        system.text_size = strlen(o->system);
        o->request.kind = QUERN_INPUT_CHAT;
        o->request.messages = &system;
        o->request.n_messages = 1;
    } else if (o->tokens) {
        o->request.kind = QUERN_INPUT_IDS;
        rc = cli_parse_ids(o->tokens, &ids, &o->request.n_ids);
        o->request.ids = ids;
    } else {
        rc = cli_input(o, &text, &o->request.input_size);
        o->request.input = text;
    }
    if (!rc)
        rc = cli_connect(&q, o);
    if (!rc) {
        o->request.op = QUERN_OP_PIN;
        o->request.flags = QUERN_KEEP;
        rc = cli_run(q, &o->request, take_handle, &handle, &result);
    }
    if (!rc && handle == 0)
        rc = cli_fail(CLI_OURS, "the service pinned the prefix without saying its handle");
    if (!rc)
        printf("%" PRIu64 "\n", handle);
    quern_close(q);
    free(ids);
    free(text);
    return rc;
}

/* Gives up every handle, also after one that is unknown. */
static int unpin(const struct cli_options *o)
{
    quern *q = NULL;
    int rc, all = CLI_OK;

    if (o->n_words == 0 || o->system || o->tokens)
        return cli_fail(CLI_USAGE, "unpin takes handles and nothing else; quern prefix --help");
    rc = cli_connect(&q, o);
    if (rc)
        return rc;
    for (int i = 0; i < o->n_words; i++) {
        uint64_t handle;
        rc = read_handle(o->words[i], &handle);
        if (!rc) {
            int error = quern_prefix_unpin(q, handle);
            if (error)
                rc = cli_fail(error == -ENOENT ? CLI_USAGE : cli_exit_of_errno(error), "%s: %s",
                              o->words[i], quern_error(q));
        }
        if (rc)
            all = rc;
    }
    quern_close(q);
    return all;
}

int cli_prefix(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "prefix", "system tokens model", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    const char *action = o.n_words ? o.words[0] : "";
    if (o.n_words) {
        o.words++;
        o.n_words--;
    }
    if (!strcmp(action, "pin"))
        return pin(&o);
    if (!strcmp(action, "unpin"))
        return unpin(&o);
    if (strcmp(action, "fork"))
        return cli_fail(CLI_USAGE, "prefix takes pin, fork or unpin; quern prefix --help");
    if (o.n_words == 0)
        return cli_fail(CLI_USAGE, "fork takes the handle to go on from; quern prefix --help");
    rc = read_handle(o.words[0], &o.request.prefix);
    if (rc)
        return rc;
    o.words++;
    o.n_words--;
    return pin(&o);
}
