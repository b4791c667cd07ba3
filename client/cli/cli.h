/* What the verbs of the shell tool share: options, exit codes, and one way to run a request. */
#ifndef QUERN_CLIENT_CLI_H
#define QUERN_CLIENT_CLI_H

#include "client/quern.h"

#include <stdbool.h>
#include <stddef.h>

/* Exit codes, as sysexits(3) names them. */
enum cli_exit {
    CLI_OK = 0,
    CLI_USAGE = 64,       /* options, or a request that no service could answer */
    CLI_NO_SERVICE = 69,  /* nobody listens on the socket, or it hung up */
    CLI_OURS = 70,        /* a failure of the service or of this tool */
    CLI_BUSY = 75,        /* a quota or a queue is full: try again later */
    CLI_INTERRUPTED = 130 /* Ctrl-C */
};

enum cli_output { CLI_OUTPUT_TEXT, CLI_OUTPUT_IDS, CLI_OUTPUT_JSON };

#define CLI_STOPS_MAX    16
#define CLI_STOP_IDS_MAX 64
#define CLI_BIASES_MAX   64

/* What the options of all verbs say. Strings belong to argv. */
struct cli_options {
    const char *socket; /* NULL: libquern's search order */
    const char *prompt; /* --prompt */
    const char *tokens; /* --tokens */
    const char *system; /* --system */
    enum cli_output output;
    bool wait;            /* --wait */
    const char *messages; /* --messages */
    const char *tools;    /* --tools */
    const char *family;   /* --family */
    const char *template; /* --template */
    const char *folder;   /* --folder */
    const char *sha256;   /* --sha256 */
    bool ids;             /* --ids */
    bool chinese;         /* --language zh */
    bool parallel_calls;  /* --parallel-calls */
    bool no_generation_prompt;
    bool echo;            /* --echo */
    uint32_t flags;       /* QUERN_MEAN, QUERN_NORMALIZE */
    uint32_t count;       /* --count; 0: not given */
    uint32_t parallel;    /* --parallel; 0: not given */
    uint32_t interval_ms; /* --interval-ms; 0: not given */
    const char *stops[CLI_STOPS_MAX];
    uint32_t stop_ids[CLI_STOP_IDS_MAX];
    struct quern_bias biases[CLI_BIASES_MAX];
    struct quern_request request; /* sampling parameters, filled by the options */
    char **words;                 /* what is left of argv */
    int n_words;
};

/* Reads the options after the verb. `allowed` lists the long options that the verb takes besides
 * --socket and --help, separated by spaces. Returns CLI_OK, CLI_USAGE after a sentence on standard
 * error, or -1 where --help was asked for (printed). */
int cli_options_read(struct cli_options *ret, const char *verb, const char *allowed, int argc,
                     char **argv);

/* The verbs: argv[0] is the verb. Each returns an exit code. */
int cli_ask(int argc, char **argv);
int cli_chat(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_detokenize(int argc, char **argv);
int cli_score(int argc, char **argv);
int cli_render(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_embed(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_top(int argc, char **argv);
int cli_pull(int argc, char **argv);
int cli_models(int argc, char **argv);
int cli_prefix(int argc, char **argv);

/* Prints the help of one verb, or of the tool where verb is NULL. */
void cli_help(const char *verb);

/* Prints "quern: " and the sentence to standard error. Returns code. */
__attribute__((format(printf, 2, 3))) int cli_fail(int code, const char *format, ...);

/* ---- input (input.c) ---------------------------------------------------------------------- */

/* Reads a file descriptor to its end into *ret (freed by the caller, zero-terminated). Returns 0
 * or an exit code after a sentence. */
int cli_read_all(int fd, char **ret, size_t *ret_size);

/* The words joined by spaces; "-" alone, or no word at all, is standard input. `text` is freed by
 * the caller. */
int cli_input(const struct cli_options *options, char **ret, size_t *ret_size);

/* Whether standard input is a pipe or a file, so that somebody put something there for us. */
bool cli_has_piped_input(void);

/* Prints the ids of events, separated by spaces; arg is a size_t that counts them. */
int cli_print_ids(void *arg, const struct quern_event *event);

/* Parses ids separated by spaces or commas. *ret is freed by the caller. */
int cli_parse_ids(const char *text, uint32_t **ret, size_t *ret_n);

/* ---- the service's status (status.c) -------------------------------------------------------- */

/* Lines of key=value, as they came; text is freed by the caller. */
struct cli_status {
    char *text; /* zero-terminated; NULL: nothing yet */
    size_t size;
};

/* Adds what a data event has. 0 or -ENOMEM. */
int cli_status_add(struct cli_status *status, const struct quern_event *event);

/* ---- running a request (request.c) ---------------------------------------------------------- */

/* Connects. Returns 0, or an exit code after a sentence. */
int cli_connect(quern **ret, const struct cli_options *options);

/* What the tool exits with after a -errno of libquern, or a final event's code. */
int cli_exit_of_errno(int error);
int cli_exit_of_code(enum quern_code code);

/* Submits r and calls fn with every event but the final one; shows queue position and prefill on a
 * terminal's standard error. Ctrl-C cancels the request (the service goes on): the result then says
 * cancelled. Returns CLI_OK when a final event came without a code, else an exit code after a
 * sentence (CLI_INTERRUPTED without one). */
int cli_run(quern *q, const struct quern_request *r, quern_event_fn *fn, void *arg,
            struct quern_result *ret);

#endif
