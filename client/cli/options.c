/* The options of the shell tool: the same names for every verb. Numbers are checked here only for
 * being numbers; what range a parameter has is the service's to say. */
#include "client/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_SOCKET = 256,
    OPT_HELP,
    OPT_PROMPT,
    OPT_TOKENS,
    OPT_SYSTEM,
    OPT_OUTPUT,
    OPT_WAIT,
    OPT_MODEL,
    OPT_MAX_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPETITION,
    OPT_PRESENCE,
    OPT_FREQUENCY,
    OPT_SEED,
    OPT_STOP,
    OPT_STOP_ID,
    OPT_PRIORITY,
    OPT_DEADLINE,
    OPT_MESSAGES,
    OPT_TOOLS,
    OPT_FAMILY,
    OPT_TEMPLATE,
    OPT_IDS,
    OPT_LANGUAGE,
    OPT_PARALLEL_CALLS,
    OPT_NO_GENERATION_PROMPT,
    OPT_MIN_TOKENS,
    OPT_LOGIT_BIAS,
    OPT_JSON,
    OPT_ECHO,
    OPT_MEAN,
    OPT_NORMALIZE,
    OPT_COUNT,
    OPT_PARALLEL,
    OPT_INTERVAL,
    OPT_FOLDER,
    OPT_SHA256,
    OPT_PREFIX,
};

static const struct option table[] = {
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"help", no_argument, NULL, OPT_HELP},
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"tokens", required_argument, NULL, OPT_TOKENS},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"wait", no_argument, NULL, OPT_WAIT},
    {"model", required_argument, NULL, OPT_MODEL},
    {"max-tokens", required_argument, NULL, OPT_MAX_TOKENS},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-k", required_argument, NULL, OPT_TOP_K},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"min-p", required_argument, NULL, OPT_MIN_P},
    {"repetition-penalty", required_argument, NULL, OPT_REPETITION},
    {"presence-penalty", required_argument, NULL, OPT_PRESENCE},
    {"frequency-penalty", required_argument, NULL, OPT_FREQUENCY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"stop", required_argument, NULL, OPT_STOP},
    {"stop-id", required_argument, NULL, OPT_STOP_ID},
    {"priority", required_argument, NULL, OPT_PRIORITY},
    {"deadline-ms", required_argument, NULL, OPT_DEADLINE},
    {"messages", required_argument, NULL, OPT_MESSAGES},
    {"tools", required_argument, NULL, OPT_TOOLS},
    {"family", required_argument, NULL, OPT_FAMILY},
    {"template", required_argument, NULL, OPT_TEMPLATE},
    {"ids", no_argument, NULL, OPT_IDS},
    {"language", required_argument, NULL, OPT_LANGUAGE},
    {"parallel-calls", no_argument, NULL, OPT_PARALLEL_CALLS},
    {"no-generation-prompt", no_argument, NULL, OPT_NO_GENERATION_PROMPT},
    {"min-tokens", required_argument, NULL, OPT_MIN_TOKENS},
    {"logit-bias", required_argument, NULL, OPT_LOGIT_BIAS},
    {"json", no_argument, NULL, OPT_JSON},
    {"echo", no_argument, NULL, OPT_ECHO},
    {"mean", no_argument, NULL, OPT_MEAN},
    {"normalize", no_argument, NULL, OPT_NORMALIZE},
    {"count", required_argument, NULL, OPT_COUNT},
    {"parallel", required_argument, NULL, OPT_PARALLEL},
    {"interval-ms", required_argument, NULL, OPT_INTERVAL},
    {"folder", required_argument, NULL, OPT_FOLDER},
    {"sha256", required_argument, NULL, OPT_SHA256},
    {"prefix", required_argument, NULL, OPT_PREFIX},
    {NULL, 0, NULL, 0},
};

static const char *name_of(int value)
{
    for (const struct option *o = table; o->name; o++)
        if (o->val == value)
            return o->name;
    return "?";
}

static int read_unsigned(const char *name, const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!*text || *end || errno || strchr(text, '-') || v > max)
        return cli_fail(CLI_USAGE, "--%s wants a whole number from 0 to %llu, not \"%s\"", name,
                        (unsigned long long)max, text);
    *ret = v;
    return 0;
}

static int read_count(int option, const char *text, uint32_t *ret)
{
    uint64_t v;
    int rc = read_unsigned(name_of(option), text, UINT32_MAX, &v);
    if (!rc)
        *ret = (uint32_t)v;
    return rc;
}

static int read_float(int option, const char *text, float *ret)
{
    char *end;
    float v = strtof(text, &end);
    if (!*text || *end || !isfinite(v))
        return cli_fail(CLI_USAGE, "--%s wants a number, not \"%s\"", name_of(option), text);
    *ret = v;
    return 0;
}

static int read_word(int option, const char *text, const char *const *words, int n, int *ret)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(text, words[i])) {
            *ret = i;
            return 0;
        }
    return cli_fail(CLI_USAGE, "--%s does not know \"%s\"; quern --help VERB lists the words",
                    name_of(option), text);
}

/* Sampling parameters: each sets its bit in `given`. */
static int read_sampling(struct quern_request *r, int option, const char *text)
{
    switch (option) {
    case OPT_MAX_TOKENS:
        r->given |= QUERN_GIVEN_MAX_TOKENS;
        return read_count(option, text, &r->max_tokens);
    case OPT_MIN_TOKENS:
        r->given |= QUERN_GIVEN_MIN_TOKENS;
        return read_count(option, text, &r->min_tokens);
    case OPT_TEMPERATURE:
        r->given |= QUERN_GIVEN_TEMPERATURE;
        return read_float(option, text, &r->temperature);
    case OPT_TOP_K:
        r->given |= QUERN_GIVEN_TOP_K;
        return read_count(option, text, &r->top_k);
    case OPT_TOP_P:
        r->given |= QUERN_GIVEN_TOP_P;
        return read_float(option, text, &r->top_p);
    case OPT_MIN_P:
        r->given |= QUERN_GIVEN_MIN_P;
        return read_float(option, text, &r->min_p);
    case OPT_REPETITION:
        r->given |= QUERN_GIVEN_REPETITION;
        return read_float(option, text, &r->repetition);
    case OPT_PRESENCE:
        r->given |= QUERN_GIVEN_PRESENCE;
        return read_float(option, text, &r->presence);
    case OPT_FREQUENCY:
        r->given |= QUERN_GIVEN_FREQUENCY;
        return read_float(option, text, &r->frequency);
    default:
        r->given |= QUERN_GIVEN_SEED;
        return read_unsigned(name_of(option), text, UINT64_MAX, &r->seed);
    }
}

/* --logit-bias ID=BIAS, where a BIAS of -inf bans the token. */
static int read_bias(struct cli_options *o, const char *text)
{
    struct quern_bias *bias = &o->biases[o->request.n_biases];
    char *end;
    unsigned long long id;

    if (o->request.n_biases == CLI_BIASES_MAX)
        return cli_fail(CLI_USAGE, "--logit-bias may be given at most %d times", CLI_BIASES_MAX);
    errno = 0;
    id = strtoull(text, &end, 10);
    if (end == text || *end != '=' || errno || *text == '-' || id > UINT32_MAX)
        return cli_fail(CLI_USAGE, "--logit-bias wants ID=BIAS, not \"%s\"", text);
    bias->token = (uint32_t)id;
    bias->bias = strtof(end + 1, &end);
    if (end[-1] == '=' || *end)
        return cli_fail(CLI_USAGE, "--logit-bias wants ID=BIAS, not \"%s\"", text);
    o->request.biases = o->biases;
    o->request.n_biases++;
    return 0;
}

/* Options of prompts. Returns -1 where it is none of them. */
static int read_prompt_option(struct cli_options *o, int option, const char *text)
{
    static const char *const languages[] = {"en", "zh"};
    int word = 0, rc;

    switch (option) {
    case OPT_MESSAGES:
        o->messages = text;
        return 0;
    case OPT_TOOLS:
        o->tools = text;
        return 0;
    case OPT_FAMILY:
        o->family = text;
        return 0;
    case OPT_TEMPLATE:
        o->template = text;
        return 0;
    case OPT_IDS:
        o->ids = true;
        return 0;
    case OPT_LANGUAGE:
        rc = read_word(option, text, languages, 2, &word);
        o->chinese = word == 1;
        return rc;
    case OPT_PARALLEL_CALLS:
        o->parallel_calls = true;
        return 0;
    case OPT_NO_GENERATION_PROMPT:
        o->no_generation_prompt = true;
        return 0;
    default:
        return -1;
    }
}

static int read_option(struct cli_options *o, int option, const char *text)
{
    static const char *const outputs[] = {"text", "ids", "json"};
    static const char *const priorities[] = {"normal", "interactive", "batch"};
    int word = 0, rc = read_prompt_option(o, option, text);
    if (rc >= 0)
        return rc;
    switch (option) {
    case OPT_SOCKET:
        o->socket = text;
        return 0;
    case OPT_PROMPT:
        o->prompt = text;
        return 0;
    case OPT_TOKENS:
        o->tokens = text;
        return 0;
    case OPT_SYSTEM:
        o->system = text;
        return 0;
    case OPT_FOLDER:
        o->folder = text;
        return 0;
    case OPT_SHA256:
        o->sha256 = text;
        return 0;
    case OPT_WAIT:
        o->wait = true;
        return 0;
    case OPT_MODEL:
        o->request.model = text;
        return 0;
    case OPT_PREFIX:
        return read_unsigned(name_of(option), text, UINT64_MAX, &o->request.prefix);
    case OPT_OUTPUT:
        rc = read_word(option, text, outputs, 3, &word);
        o->output = (enum cli_output)word;
        return rc;
    case OPT_JSON:
        o->output = CLI_OUTPUT_JSON;
        return 0;
    case OPT_ECHO:
        o->echo = true;
        return 0;
    case OPT_MEAN:
        o->flags |= QUERN_MEAN;
        return 0;
    case OPT_NORMALIZE:
        o->flags |= QUERN_NORMALIZE;
        return 0;
    case OPT_COUNT:
        return read_count(option, text, &o->count);
    case OPT_PARALLEL:
        return read_count(option, text, &o->parallel);
    case OPT_INTERVAL:
        return read_count(option, text, &o->interval_ms);
    case OPT_PRIORITY:
        rc = read_word(option, text, priorities, 3, &word);
        o->request.priority = (enum quern_priority)word;
        return rc;
    case OPT_LOGIT_BIAS:
        return read_bias(o, text);
    case OPT_DEADLINE:
        return read_count(option, text, &o->request.deadline_ms);
    case OPT_STOP:
        if (o->request.n_stops == CLI_STOPS_MAX)
            return cli_fail(CLI_USAGE, "--stop may be given at most %d times", CLI_STOPS_MAX);
        o->stops[o->request.n_stops++] = text;
        return 0;
    case OPT_STOP_ID:
        if (o->request.n_stop_ids == CLI_STOP_IDS_MAX)
            return cli_fail(CLI_USAGE, "--stop-id may be given at most %d times", CLI_STOP_IDS_MAX);
        return read_count(option, text, &o->stop_ids[o->request.n_stop_ids++]);
    default:
        return read_sampling(&o->request, option, text);
    }
}

/* Whether `name` is one of the space-separated words of `allowed`. */
static bool is_allowed(const char *allowed, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = allowed; (p = strstr(p, name)); p += n)
        if ((p == allowed || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
            return true;
    return false;
}

int cli_options_read(struct cli_options *ret, const char *verb, const char *allowed, int argc,
                     char **argv)
{
    memset(ret, 0, sizeof *ret);
    quern_request_init(&ret->request);
    ret->request.stops = ret->stops;
    ret->request.stop_ids = ret->stop_ids;
    optind = 0; /* glibc: start anew */
    opterr = 0;
    for (;;) {
        int at = optind ? optind : 1;
        int c = getopt_long(argc, argv, "h", table, NULL);
        if (c == -1)
            break;
        if (c == OPT_HELP || c == 'h') {
            cli_help(verb);
            return -1;
        }
        if (c == '?')
            return cli_fail(CLI_USAGE,
                            "%s: \"%s\" is no option, or lacks its value; quern %s --help", verb,
                            argv[at], verb);
        if (c != OPT_SOCKET && !is_allowed(allowed, name_of(c)))
            return cli_fail(CLI_USAGE, "%s takes no --%s; quern %s --help", verb, name_of(c), verb);
        int rc = read_option(ret, c, optarg);
        if (rc)
            return rc;
    }
    ret->words = argv + optind;
    ret->n_words = argc - optind;
    return CLI_OK;
}
