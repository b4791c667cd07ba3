/* quernd perplexity: exp of the mean negative log probability that a model gives a text, or the
 * answers of a file of chats.
 *
 * The text is one sequence of tokens, read in windows that begin `stride` tokens apart. A window
 * begins with an empty cache; it scores the tokens that no window before it scored, and what comes
 * before them in the window is their context. Every token but the first is scored exactly once, and
 * all count alike, so that the sum over windows is token-weighted.
 *
 * In a chat file each line is a request, a tab, and an answer. The tokens of the answers and the
 * <|im_end|> after each are scored, given the prompt that the chat template makes of the request. */
#include "svc/cmd/session.h"

#include "ops/vector.h"
#include "svc/text/chat.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: quernd perplexity --model FILE --text FILE | --chat FILE [options]\n"
    "  --text FILE        UTF-8\n"
    "  --chat FILE        lines of request, tab, answer: the answers are scored\n"
    "  --window N         tokens of a window (512)\n"
    "  --stride N         tokens between the beginnings of two windows (half a window)\n"
    "  --json             one line of JSON\n" CMD_OPTIONS_HELP;

enum { OPT_TEXT = CMD_OPT_OWN, OPT_CHAT, OPT_WINDOW, OPT_STRIDE, OPT_HELP };

static const struct option options[] = {
    CMD_OPTIONS,
    {"text", required_argument, NULL, OPT_TEXT},
    {"chat", required_argument, NULL, OPT_CHAT},
    {"window", required_argument, NULL, OPT_WINDOW},
    {"stride", required_argument, NULL, OPT_STRIDE},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

enum {
    WINDOW_DEFAULT = 512,
    ROWS =
        64, /* logits rows at a time: a window of them all would be large with a real vocabulary */
    TEXT_BYTES_MAX = 1 << 30,
};

struct perplexity {
    uint64_t window, stride; /* 0: the default */
    uint32_t *tokens;
    size_t n_tokens;
    size_t n_scored;
    double sum; /* of −log p, in nats */
};

static int read_text(const char *path, char **ret, size_t *ret_size)
{
    FILE *file = fopen(path, "rbe");
    long size = -1;
    char *text = NULL;
    if (file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 &&
        size <= TEXT_BYTES_MAX && fseek(file, 0, SEEK_SET) == 0)
        text = malloc((size_t)size + 1);
    bool good = text && fread(text, 1, (size_t)size, file) == (size_t)size;
    if (!good)
        fprintf(stderr, "quernd perplexity: cannot read %s: %s\n", path,
                size > TEXT_BYTES_MAX ? "larger than 1 GiB" : strerror(errno));
    if (file)
        fclose(file);
    if (!good) {
        free(text);
        return CMD_NO_INPUT;
    }
    *ret = text;
    *ret_size = (size_t)size;
    return 0;
}

static int tokenize(struct perplexity *p, const struct model *model, const char *text, size_t size)
{
    const struct text_tokenizer *tokenizer = model_tokenizer(model);
    if (!tokenizer) {
        fprintf(stderr, "quernd perplexity: the model file has no tokenizer\n");
        return CMD_BAD_DATA;
    }
    p->tokens = malloc((size + 1) * sizeof *p->tokens); /* a token has at least one byte */
    if (!p->tokens)
        return CMD_OURS;
    int r = text_encode(tokenizer, text, size, false, p->tokens, size + 1, &p->n_tokens);
    if (r == -EILSEQ)
        fprintf(stderr, "quernd perplexity: the text is not UTF-8 at byte %zu\n", p->n_tokens);
    else if (r < 0)
        fprintf(stderr, "quernd perplexity: the text cannot be tokenized: %s\n", strerror(-r));
    else if (p->n_tokens < 2)
        fprintf(stderr, "quernd perplexity: the text has %zu tokens; two are needed\n",
                p->n_tokens);
    return r < 0 || p->n_tokens < 2 ? CMD_BAD_DATA : 0;
}

/* Runs the window [begin, end) and scores the tokens from `first` on: the row before a token holds
 * its logits. */
static int score_window(struct perplexity *p, struct cmd_session *session, size_t begin, size_t end,
                        size_t first, float *logits)
{
    const struct model_shape *shape = model_shape(session->model);
    for (size_t at = begin; at < end - 1;) {
        /* rows whose next token is not scored are run without logits, up to the first that is */
        bool scored = at + 1 >= first;
        size_t n = scored ? end - 1 - at : first - 1 - at;
        if (scored && n > ROWS)
            n = ROWS;
        int r = cmd_session_run(session, "perplexity", p->tokens + at, (uint32_t)n,
                                (uint32_t)(at - begin), scored ? (uint32_t)n : 0, logits);
        if (r)
            return r;
        for (size_t i = 0; scored && i < n; i++) {
            const float *row = logits + i * shape->n_vocab;
            p->sum +=
                (double)ops_log_sum_exp(row, shape->n_tokens) - (double)row[p->tokens[at + i + 1]];
            p->n_scored++;
        }
        at += n;
    }
    return 0;
}

static int run_windows(struct perplexity *p, struct cmd_session *session)
{
    const bool terminal = isatty(STDERR_FILENO);
    float *logits = malloc((size_t)ROWS * model_shape(session->model)->n_vocab * sizeof *logits);
    if (!logits) {
        fprintf(stderr, "quernd perplexity: no memory for %d rows of logits\n", ROWS);
        return CMD_OURS;
    }
    int r = 0;
    size_t first = 1;
    for (size_t begin = 0; r == 0 && first < p->n_tokens; begin += p->stride) {
        size_t end = begin + p->window < p->n_tokens ? begin + p->window : p->n_tokens;
        r = score_window(p, session, begin, end, first, logits);
        first = end;
        if (terminal)
            fprintf(stderr, "\r%zu of %zu tokens, perplexity %.4f", p->n_scored, p->n_tokens - 1,
                    exp(p->sum / (double)p->n_scored));
    }
    if (terminal)
        fputs("\r\033[K", stderr);
    free(logits);
    return r;
}

/* The tokens of one line's chat; *ret_first is where the answer begins. 0 or an exit code. */
static int encode_chat(struct perplexity *p, const struct text_tokenizer *tokenizer,
                       const char *line, size_t size, size_t *ret_first)
{
    const char *tab = memchr(line, '\t', size);
    if (!tab) {
        fprintf(stderr, "quernd perplexity: a line of the chat file has no tab\n");
        return CMD_BAD_DATA;
    }
    const size_t n_request = (size_t)(tab - line), n_answer = size - n_request - 1;
    const struct chat_message message = {.role = {"user", 4}, .content = {line, n_request}};
    const struct chat_conversation conversation = {.messages = &message, .n_messages = 1};
    const struct chat_options plain = {0};
    struct text_chat chat = {0};
    char why[256] = "";
    size_t n_prompt, n;
    int r = text_chat_init(&chat, tokenizer, why, sizeof why);
    if (r == 0)
        r = text_chat_prompt(tokenizer, &chat, &conversation, &plain, p->tokens, p->window,
                             &n_prompt, why, sizeof why);
    text_chat_done(&chat);
    if (r == 0)
        r = text_encode(tokenizer, tab + 1, n_answer, false, p->tokens + n_prompt,
                        p->window - n_prompt, &n);
    if (r == 0 && n_prompt + n == p->window)
        r = -ENOSPC;
    if (r < 0) {
        fprintf(stderr, "quernd perplexity: a chat cannot be encoded in a window of %llu: %s\n",
                (unsigned long long)p->window, *why ? why : strerror(-r));
        return CMD_BAD_DATA;
    }
    p->tokens[n_prompt + n] = text_tokenizer_ids(tokenizer)->im_end;
    p->n_tokens = n_prompt + n + 1;
    *ret_first = n_prompt;
    return 0;
}

static int run_chats(struct perplexity *p, struct cmd_session *session, const char *text,
                     size_t size)
{
    const struct text_tokenizer *tokenizer = model_tokenizer(session->model);
    if (!tokenizer || text_tokenizer_ids(tokenizer)->im_end == TEXT_NO_ID) {
        fprintf(stderr, "quernd perplexity: the model has no chat tokens\n");
        return CMD_BAD_DATA;
    }
    float *logits = malloc((size_t)ROWS * model_shape(session->model)->n_vocab * sizeof *logits);
    p->tokens = malloc(p->window * sizeof *p->tokens);
    int r = logits && p->tokens ? 0 : CMD_OURS;
    for (const char *line = text, *end = text + size; r == 0 && line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((newline ? newline : end) - line), first;
        r = encode_chat(p, tokenizer, line, n, &first);
        if (r == 0)
            r = score_window(p, session, 0, p->n_tokens, first, logits);
        line += n + 1;
    }
    free(logits);
    return r;
}

static void print(const struct perplexity *p, bool json)
{
    const double nll = p->sum / (double)p->n_scored;
    if (json)
        printf("{\"perplexity\": %.6f, \"nll\": %.8f, \"scored\": %zu, \"window\": %llu, "
               "\"stride\": %llu}\n",
               exp(nll), nll, p->n_scored, (unsigned long long)p->window,
               (unsigned long long)p->stride);
    else
        printf("perplexity %.4f over %zu tokens (%.4f nats a token; windows of %llu, %llu apart)\n",
               exp(nll), p->n_scored, nll, (unsigned long long)p->window,
               (unsigned long long)p->stride);
}

static int run(struct perplexity *p, struct cmd_options *common, const char *text, size_t size,
               bool chats)
{
    struct cmd_session session;
    common->n_context = (uint32_t)p->window;
    int r = cmd_session_open(&session, "perplexity", common);
    if (r)
        return r;
    if (chats)
        r = run_chats(p, &session, text, size);
    else if (!(r = tokenize(p, session.model, text, size)))
        r = run_windows(p, &session);
    if (!r)
        print(p, common->json);
    free(p->tokens);
    cmd_session_close(&session);
    return r;
}

int cmd_perplexity(int argc, char **argv)
{
    struct cmd_options common = {.kv_type = OPS_KV_F16};
    struct perplexity p = {0};
    const char *path = NULL;
    bool chats = false;
    int c, r = 0;
    while (r == 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == OPT_TEXT || c == OPT_CHAT) {
            path = optarg;
            chats = c == OPT_CHAT;
        } else if (c == OPT_WINDOW) {
            r = cmd_number("perplexity", "window", optarg, 2, 1 << 20, &p.window);
        } else if (c == OPT_STRIDE) {
            r = cmd_number("perplexity", "stride", optarg, 1, 1 << 20, &p.stride);
        } else if (c == OPT_HELP) {
            fputs(usage, stdout);
            return CMD_OK;
        } else {
            r = cmd_take_option(&common, "perplexity", c, optarg);
        }
    }
    if (r)
        return r;
    if (!common.model || !path || optind != argc) {
        fputs(usage, stderr);
        return CMD_USAGE;
    }
    p.window = p.window ? p.window : WINDOW_DEFAULT;
    p.stride = p.stride ? p.stride : p.window / 2;
    if (p.stride >= p.window) {
        fprintf(stderr,
                "quernd perplexity: --stride %llu leaves no context in a --window of %llu\n",
                (unsigned long long)p.stride, (unsigned long long)p.window);
        return CMD_USAGE;
    }
    char *text;
    size_t size;
    r = read_text(path, &text, &size);
    if (r)
        return r;
    r = run(&p, &common, text, size, chats);
    free(text);
    return r;
}
