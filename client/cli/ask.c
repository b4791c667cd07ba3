/* quern ask and quern generate: an answer, streamed. */
#include "client/cli/cli.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAMPLING                                                                                   \
    "model max-tokens temperature top-k top-p min-p repetition-penalty presence-penalty "          \
    "frequency-penalty seed stop stop-id priority deadline-ms min-tokens logit-bias"

static int print_text(void *arg, const struct quern_event *event)
{
    bool *line_open = arg;
    if (event->type == QUERN_EVENT_TOKEN && event->data_size) {
        fwrite(event->data, 1, event->data_size, stdout);
        fflush(stdout); /* it streams, also into a pipe */
        *line_open = event->data[event->data_size - 1] != '\n';
    }
    return 0;
}

/* The question: the words, then what was piped in. *ret is freed by the caller. */
static int question(const struct cli_options *o, char **ret, size_t *ret_size)
{
    if (o->n_words == 0 || !cli_has_piped_input())
        return cli_input(o, ret, ret_size);
    char *words = NULL, *piped = NULL;
    size_t n_words = 0, n_piped = 0;
    int rc = cli_input(o, &words, &n_words);
    if (!rc)
        rc = cli_read_all(STDIN_FILENO, &piped, &n_piped);
    if (rc || n_piped == 0) {
        free(piped);
        *ret = words;
        *ret_size = n_words;
        return rc;
    }
    char *both = realloc(words, n_words + 2 + n_piped + 1);
    if (!both) {
        free(words);
        free(piped);
        return cli_fail(CLI_OURS, "out of memory");
    }
    memcpy(both + n_words, "\n\n", 2);
    memcpy(both + n_words + 2, piped, n_piped + 1);
    free(piped);
    *ret = both;
    *ret_size = n_words + 2 + n_piped;
    return 0;
}

int cli_ask(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "ask", "system prefix " SAMPLING, argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.n_words == 0 && isatty(STDIN_FILENO))
        return cli_fail(CLI_USAGE, "ask what? quern ask \"WORDS\", or pipe the question in");
    char *text = NULL;
    size_t size = 0;
    quern *q = NULL;
    rc = question(&o, &text, &size);
    if (!rc && !size) /* a pipe that brought nothing: the command before it failed */
        rc = cli_fail(CLI_USAGE, "the question is empty");
    if (!rc)
        rc = cli_connect(&q, &o);
    if (!rc) {
        struct quern_message messages[2];
        size_t n = 0;
        if (o.system)
            messages[n++] = (struct quern_message){QUERN_ROLE_SYSTEM, o.system, strlen(o.system)};
        messages[n++] = (struct quern_message){QUERN_ROLE_USER, text, size};
        o.request.kind = QUERN_INPUT_CHAT;
        o.request.messages = messages;
        o.request.n_messages = n;
        struct quern_result result;
        bool line_open = true;
        rc = cli_run(q, &o.request, print_text, &line_open, &result);
        if (line_open && (rc == CLI_OK || rc == CLI_INTERRUPTED))
            putchar('\n');
    }
    quern_close(q);
    free(text);
    return rc;
}

/* ---- generate -------------------------------------------------------------------------------- */

struct answer {
    enum cli_output output;
    json_t *ids; /* json: all of them */
    char *text;  /* json: text so far, text_size bytes */
    size_t text_size;
    size_t n;       /* ids printed */
    json_t *scores; /* --echo: of the prompt; else NULL */
};

static int collect_scores(struct answer *a, const struct quern_event *event)
{
    struct quern_score s;
    for (size_t at = 0; at + sizeof s <= event->data_size; at += sizeof s) {
        memcpy(&s, event->data + at, sizeof s);
        json_t *logprob = isnan(s.logprob) ? json_null() : json_real(s.logprob);
        json_t *pair = json_pack("[I, o]", (json_int_t)s.token, logprob);
        if (json_array_append_new(a->scores, pair))
            return cli_fail(1, "out of memory");
    }
    return 0;
}

static int collect(void *arg, const struct quern_event *event)
{
    struct answer *a = arg;
    if (a->scores && event->type == QUERN_EVENT_DATA && event->u.data.kind == QUERN_DATA_SCORES)
        return collect_scores(a, event);
    if (event->type != QUERN_EVENT_TOKEN)
        return 0;
    switch (a->output) {
    case CLI_OUTPUT_TEXT:
        fwrite(event->data, 1, event->data_size, stdout);
        break;
    case CLI_OUTPUT_IDS:
        printf("%s%u", a->n++ ? " " : "", event->u.token.token);
        break;
    case CLI_OUTPUT_JSON: {
        char *more = realloc(a->text, a->text_size + event->data_size + 1);
        if (!more || json_array_append_new(a->ids, json_integer(event->u.token.token)))
            return cli_fail(1, "out of memory");
        a->text = more;
        memcpy(a->text + a->text_size, event->data, event->data_size);
        a->text_size += event->data_size;
        return 0;
    }
    }
    fflush(stdout);
    return 0;
}

static void print_json(const struct answer *a, const struct quern_result *r)
{
    json_t *all = json_pack(
        "{s:s%, s:O, s:s, s:i, s:i, s:i, s:I, s:I, s:I}", "text", a->text ? a->text : "",
        a->text_size, "ids", a->ids, "reason", quern_reason_name(r->final_.reason), "prompt_tokens",
        (int)r->final_.prompt_tokens, "cached_tokens", (int)r->final_.cached_tokens, "generated",
        (int)r->final_.generated, "queue_us", (json_int_t)r->final_.queue_us, "prefill_us",
        (json_int_t)r->final_.prefill_us, "decode_us", (json_int_t)r->final_.decode_us);
    if (all && a->scores)
        json_object_set(all, "prompt_scores", a->scores);
    if (all)
        json_dumpf(all, stdout, JSON_COMPACT);
    json_decref(all);
}

int cli_generate(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "generate", "prompt tokens output json echo prefix " SAMPLING,
                              argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.n_words || (o.prompt && o.tokens))
        return cli_fail(CLI_USAGE, "generate takes one of --prompt TEXT, --tokens IDS, or standard "
                                   "input");
    if (o.echo && o.output != CLI_OUTPUT_JSON)
        return cli_fail(CLI_USAGE, "--echo is printed as json only; add --json");
    char *text = NULL;
    uint32_t *ids = NULL;
    quern *q = NULL;
    struct answer a = {.output = o.output, .ids = json_array()};
    if (o.echo) {
        a.scores = json_array();
        o.request.flags |= QUERN_ECHO;
    }
    if (o.tokens) {
        o.request.kind = QUERN_INPUT_IDS;
        rc = cli_parse_ids(o.tokens, &ids, &o.request.n_ids);
        o.request.ids = ids;
    } else if (o.prompt) {
        o.request.input = o.prompt;
        o.request.input_size = strlen(o.prompt);
    } else {
        rc = cli_read_all(STDIN_FILENO, &text, &o.request.input_size);
        o.request.input = text;
    }
    if (!rc)
        rc = cli_connect(&q, &o);
    if (!rc) {
        struct quern_result result;
        rc = cli_run(q, &o.request, collect, &a, &result);
        if (o.output == CLI_OUTPUT_JSON && (rc == CLI_OK || rc == CLI_INTERRUPTED))
            print_json(&a, &result);
        if (rc == CLI_OK || rc == CLI_INTERRUPTED)
            putchar('\n');
    }
    quern_close(q);
    json_decref(a.scores);
    json_decref(a.ids);
    free(a.text);
    free(ids);
    free(text);
    return rc;
}
