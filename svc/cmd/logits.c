/* quernd logits: the raw logits of given tokens, float32, row-major, n_tokens x n_vocab. */
#include "svc/cmd/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: quernd logits --model FILE --tokens 1,2,3 --out FILE [options]\n" CMD_OPTIONS_HELP;

enum { OPT_TOKENS = CMD_OPT_OWN, OPT_OUT, OPT_HELP };

static const struct option options[] = {
    CMD_OPTIONS,
    {"tokens", required_argument, NULL, OPT_TOKENS},
    {"out", required_argument, NULL, OPT_OUT},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* "1,2,3" to ids. 0 or an exit code after saying why. */
static int parse_tokens(const char *text, uint32_t **ret, uint32_t *ret_n)
{
    uint32_t n = 1;
    for (const char *at = text; *at; at++)
        n += *at == ',';
    uint32_t *tokens = calloc(n, sizeof *tokens);
    if (!tokens)
        return CMD_OURS;
    const char *at = text;
    for (uint32_t i = 0; i < n; i++) {
        char *end;
        errno = 0;
        unsigned long value = strtoul(at, &end, 10);
        if (errno || end == at || *at == '-' || value > UINT32_MAX ||
            *end != (i + 1 < n ? ',' : '\0')) {
            fprintf(stderr, "quernd logits: --tokens takes token ids separated by commas\n");
            free(tokens);
            return CMD_USAGE;
        }
        tokens[i] = (uint32_t)value;
        at = end + 1;
    }
    *ret = tokens;
    *ret_n = n;
    return 0;
}

static int write_logits(const char *path, const float *logits, size_t n)
{
    FILE *file = fopen(path, "wbe");
    bool good = file && fwrite(logits, sizeof *logits, n, file) == n;
    if (file && fclose(file) != 0)
        good = false;
    if (!good)
        fprintf(stderr, "quernd logits: cannot write %s: %s\n", path, strerror(errno));
    return good ? CMD_OK : CMD_OURS;
}

static int run(const struct cmd_options *common, const uint32_t *tokens, uint32_t n,
               const char *out)
{
    struct cmd_session session;
    int exit_code = cmd_session_open(&session, "logits", common);
    if (exit_code)
        return exit_code;
    uint32_t n_vocab = model_shape(session.model)->n_vocab;
    float *logits = NULL;
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= n_vocab) {
            fprintf(stderr, "quernd logits: token %u is beyond the vocabulary of %u\n", tokens[i],
                    n_vocab);
            exit_code = CMD_USAGE;
            goto close_session;
        }
    logits = malloc((size_t)n * n_vocab * sizeof *logits);
    if (!logits) {
        fprintf(stderr, "quernd logits: no memory for %u rows of logits\n", n);
        exit_code = CMD_OURS;
        goto close_session;
    }
    exit_code = cmd_session_run(&session, "logits", tokens, n, 0, n, logits);
    if (exit_code == 0)
        exit_code = write_logits(out, logits, (size_t)n * n_vocab);
    if (exit_code == 0)
        printf("%u x %u logits\n", n, n_vocab);
close_session:
    free(logits);
    cmd_session_close(&session);
    return exit_code;
}

int cmd_logits(int argc, char **argv)
{
    struct cmd_options common = {.kv_type = OPS_KV_F16};
    const char *token_text = NULL, *out = NULL;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == OPT_TOKENS) {
            token_text = optarg;
        } else if (c == OPT_OUT) {
            out = optarg;
        } else if (c == OPT_HELP) {
            fputs(usage, stdout);
            return CMD_OK;
        } else if (cmd_take_option(&common, "logits", c, optarg)) {
            return CMD_USAGE;
        }
    }
    if (!token_text || !out || optind != argc) {
        fputs(usage, stderr);
        return CMD_USAGE;
    }
    uint32_t *tokens, n;
    int exit_code = parse_tokens(token_text, &tokens, &n);
    if (exit_code)
        return exit_code;
    common.n_context = n;
    exit_code = run(&common, tokens, n, out);
    free(tokens);
    return exit_code;
}
