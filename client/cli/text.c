/* quern tokenize, detokenize and score: between text and token ids, and what the model thinks. */
#include "client/cli/cli.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints the ids of an event, the first after `first`, the others after `next`; counts them in *n. */
static int print_ids(size_t *n, const struct quern_event *event, const char *first,
                     const char *next)
{
    if (event->type != QUERN_EVENT_DATA || event->u.data.kind != QUERN_DATA_IDS)
        return 0;
    for (size_t at = 0; at + sizeof(uint32_t) <= event->data_size; at += sizeof(uint32_t)) {
        uint32_t id;
        memcpy(&id, event->data + at, sizeof id);
        printf("%s%u", (*n)++ ? next : first, id);
    }
    return 0;
}

int cli_print_ids(void *arg, const struct quern_event *event)
{
    return print_ids(arg, event, "", " ");
}

static int print_json_ids(void *arg, const struct quern_event *event)
{
    return print_ids(arg, event, "[", ", ");
}

int cli_tokenize(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "tokenize", "output json model", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    char *text = NULL;
    quern *q = NULL;
    rc = cli_input(&o, &text, &o.request.input_size);
    if (!rc)
        rc = cli_connect(&q, &o);
    if (!rc) {
        struct quern_result result;
        size_t n = 0;
        o.request.op = QUERN_OP_TOKENIZE;
        o.request.input = text;
        const bool json = o.output == CLI_OUTPUT_JSON;
        rc = cli_run(q, &o.request, json ? print_json_ids : cli_print_ids, &n, &result);
        if (rc == CLI_OK)
            puts(!json ? "" : n ? "]" : "[]");
    }
    quern_close(q);
    free(text);
    return rc;
}

static int print_bytes(void *arg, const struct quern_event *event)
{
    (void)arg;
    if (event->type == QUERN_EVENT_DATA && event->u.data.kind == QUERN_DATA_TEXT)
        fwrite(event->data, 1, event->data_size, stdout);
    return 0;
}

int cli_detokenize(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "detokenize", "model", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    char *text = NULL;
    size_t size = 0;
    uint32_t *ids = NULL;
    quern *q = NULL;
    rc = cli_input(&o, &text, &size);
    if (!rc)
        rc = cli_parse_ids(text, &ids, &o.request.n_ids);
    if (!rc)
        rc = cli_connect(&q, &o);
    if (!rc) {
        struct quern_result result;
        o.request.op = QUERN_OP_DETOKENIZE;
        o.request.kind = QUERN_INPUT_IDS;
        o.request.ids = ids;
        o.request.flags = QUERN_SPECIAL; /* the reverse of tokenize: every id has its text */
        rc = cli_run(q, &o.request, print_bytes, NULL, &result);
    }
    quern_close(q);
    free(ids);
    free(text);
    return rc;
}

/* ---- score ------------------------------------------------------------------------------------ */

struct bytes {
    char *data;
    size_t size;
};

static int collect_data(void *arg, const struct quern_event *event)
{
    struct bytes *b = arg;
    if (event->type != QUERN_EVENT_DATA)
        return 0;
    char *more = realloc(b->data, b->size + event->data_size + 1);
    if (!more)
        return cli_fail(1, "out of memory");
    b->data = more;
    memcpy(b->data + b->size, event->data, event->data_size);
    b->size += event->data_size;
    b->data[b->size] = 0;
    return 0;
}

/* Prints the text of one token so that every byte can be told: printable ASCII and whole UTF-8
 * characters as they are, others as \xNN. */
static void print_quoted(const char *text, size_t n)
{
    putchar('"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)text[i];
        size_t length = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
        size_t have = 1;
        while (have < length && i + have < n && ((unsigned char)text[i + have] & 0xc0) == 0x80)
            have++;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c == '\n')
            fputs("\\n", stdout);
        else if (length == 0 || have < length || (length == 1 && !isprint(c)))
            printf("\\x%02x", c), have = 1;
        else
            fwrite(text + i, 1, have, stdout);
        i += have;
    }
    putchar('"');
}

static int print_scores(quern *q, const struct bytes *scores, enum cli_output output)
{
    size_t n = scores->size / sizeof(struct quern_score), counted = 0;
    double sum = 0;
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        struct quern_score s;
        memcpy(&s, scores->data + i * sizeof s, sizeof s);
        if (!isnan(s.logprob)) {
            sum += s.logprob;
            counted++;
        }
        if (output == CLI_OUTPUT_JSON) {
            json_t *logprob = isnan(s.logprob) ? json_null() : json_real(s.logprob);
            json_array_append_new(list, json_pack("[i, o]", (int)s.token, logprob));
            continue;
        }
        struct quern_request r;
        quern_request_init(&r);
        r.op = QUERN_OP_DETOKENIZE;
        r.kind = QUERN_INPUT_IDS;
        r.ids = &s.token;
        r.n_ids = 1;
        r.flags = QUERN_SPECIAL;
        struct quern_result result;
        struct bytes text = {0};
        int rc = cli_run(q, &r, collect_data, &text, &result);
        if (rc) {
            free(text.data);
            json_decref(list);
            return rc;
        }
        if (isnan(s.logprob))
            printf("%u\t-\t", s.token);
        else
            printf("%u\t%.6f\t", s.token, s.logprob);
        print_quoted(text.data ? text.data : "", text.size);
        putchar('\n');
        free(text.data);
    }
    double perplexity = counted ? exp(-sum / (double)counted) : NAN;
    if (output == CLI_OUTPUT_JSON) {
        json_t *all = json_pack("{s:o, s:f, s:I, s:f}", "tokens", list, "sum", sum, "counted",
                                (json_int_t)counted, "perplexity", counted ? perplexity : 0.0);
        json_dumpf(all, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(all);
        return CLI_OK;
    }
    json_decref(list);
    if (counted)
        printf("sum %.6f over %zu tokens, perplexity %.4f\n", sum, counted, perplexity);
    return CLI_OK;
}

int cli_score(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "score", "model output json", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.output == CLI_OUTPUT_IDS)
        return cli_fail(CLI_USAGE, "score prints text or json; quern score --help");
    char *text = NULL;
    quern *q = NULL;
    rc = cli_input(&o, &text, &o.request.input_size);
    if (!rc)
        rc = cli_connect(&q, &o);
    if (!rc) {
        struct quern_result result;
        struct bytes scores = {0};
        o.request.op = QUERN_OP_SCORE;
        o.request.input = text;
        rc = cli_run(q, &o.request, collect_data, &scores, &result);
        if (rc == CLI_OK)
            rc = print_scores(q, &scores, o.output);
        free(scores.data);
    }
    quern_close(q);
    free(text);
    return rc;
}
