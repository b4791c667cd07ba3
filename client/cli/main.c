/* quern, the shell tool: one verb a call. */
#include "chat/text.h"
#include "client/cli/cli.h"

#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;  /* for the list of verbs */
    const char *usage; /* for its own help */
} verbs[] = {
    {"ask", cli_ask, "answer a question (chat form), streaming",
     "quern ask [OPTION…] WORD…\n"
     "  The words are the question. What is piped in is added to it:\n"
     "    git diff | quern ask \"write a commit message\"\n"
     "  --system TEXT          what the model is told first (default: the model's own)\n"
     "  --prefix HANDLE        goes on from a pinned one; quern prefix --help\n"},
    {"chat", cli_chat, "talk, line by line",
     "quern chat [OPTION…]\n"
     "  A line that ends with \\ goes on. /help lists the commands.\n"
     "  Ctrl-C stops an answer, Ctrl-D ends the chat.\n"
     "  --system TEXT          what the model is told first\n"
     "  --tools FILE           JSON list of tools that the model may call; calls\n"
     "                         are shown, never run: /result TEXT says what one gave\n"
     "  --family NAME  --language en|zh  --parallel-calls   as for quern render\n"},
    {"generate", cli_generate, "go on after a text, as it is",
     "quern generate [OPTION…]\n"
     "  Continues --prompt TEXT, --tokens IDS, or standard input.\n"
     "  --output text|ids|json (default: text); --json: the same as --output json\n"
     "  --echo                 with json: log probability of each prompt token, too\n"
     "  --prefix HANDLE        goes on from a pinned one; quern prefix --help\n"},
    {"tokenize", cli_tokenize, "text to token ids",
     "quern tokenize WORD… | quern tokenize -\n"
     "  Prints the ids of the text (- or none: standard input), separated by spaces.\n"
     "  --output text|json     (default: text); --json: the same as --output json\n"
     "  --model NAME           of a service with several\n"},
    {"detokenize", cli_detokenize, "token ids to text",
     "quern detokenize ID… | quern detokenize -\n"
     "  Prints the text of the ids, byte for byte.\n"
     "  --model NAME           of a service with several\n"},
    {"score", cli_score, "log probability of each token of a text",
     "quern score WORD… | quern score -\n"
     "  A line a token: id, natural log probability, text; then sum and perplexity.\n"
     "  --output text|json     (default: text); --json: the same as --output json\n"
     "  --model NAME           of a service with several\n"},
    {"render", cli_render, "the prompt of a conversation, as the model sees it",
     "quern render --messages FILE [--tools FILE] [--family NAME] [--ids]\n"
     "  FILE (-: standard input) holds a JSON list of {\"role\": …, \"content\": …}.\n"
     "  Nothing is added to what is printed. No service is needed with --family\n"
     "  or --template.\n"
     "  --tools FILE           JSON list of tools that the model may call\n"
     "  --family NAME          qwen2, qwen1.5, qwen1.5-early, qwen2.5, qwen2.5-base,\n"
     "                         qwen2.5-math (default: the service's model's)\n"
     "  --template FILE        a Jinja template, executed in place of a family's\n"
     "  --ids                  the token ids instead, from the service\n"
     "  --language en|zh       of Qwen2's words about tools (en)\n"
     "  --parallel-calls       several tools may be called at once\n"
     "  --no-generation-prompt end after the last message\n"
     "  --model NAME           with --ids, of a service with several\n"},
    {"status", cli_status, "what the service runs and how it is",
     "quern status [OPTION…]\n"
     "  --output text|json     (default: text); --json: the same as --output json\n"
     "  --wait                 wait until the model is loaded, with a progress bar\n"},
    {"embed", cli_embed, "a text as a vector",
     "quern embed WORD… | quern embed -\n"
     "  Prints the model's last hidden state after the text.\n"
     "  --mean                 the mean over all positions\n"
     "  --normalize            scaled to length 1\n"
     "  --output text|json     (default: text); --json: the same as --output json\n"
     "  --model NAME           of a service with several\n"},
    {"bench", cli_bench, "how fast the service answers, from outside",
     "quern bench [OPTION…]\n"
     "  Times requests through the ring: first token, gaps, tokens a second.\n"
     "  --count N              so many requests (16)\n"
     "  --parallel N           so many at a time (1)\n"
     "  --max-tokens N         tokens of each answer (64)\n"
     "  --prompt TEXT          in place of its own, with a number put before it\n"
     "  --output text|json     (default: text); --json: the same as --output json\n"
     "  --model NAME           of a service with several\n"},
    {"top", cli_top, "the service at a glance, every second",
     "quern top [OPTION…]\n"
     "  Clients, queue, rates, KV pages, memory, latencies; q quits, p pauses.\n"
     "  --interval-ms N        time between two looks (1000)\n"
     "  --count N              quit after so many looks\n"},
    {"prefix", cli_prefix, "keep the beginning of prompts computed",
     "quern prefix pin [OPTION…] [WORD… | -]\n"
     "quern prefix fork HANDLE [OPTION…] [WORD… | -]\n"
     "quern prefix unpin HANDLE…\n"
     "  pin computes a text (- or none: standard input), keeps it in the service's\n"
     "  cache, and prints its handle, from which generate and ask go on.\n"
     "  fork does the same for a text after a pinned one; unpin gives them up.\n"
     "  --tokens IDS           token ids in place of a text\n"
     "  --system TEXT          of a chat, for ask, in place of a text\n"
     "  --model NAME           of a service with several\n"},
    {"pull", cli_pull, "fetch a model",
     "quern pull [OPTION…] URL|FILE|NAME…\n"
     "  Goes on where it stopped. NAME: qwen2:0.5b-instruct-q4_k_m (none: lists them)\n"
     "  --folder PATH          /var/lib/quern/models, or in the user's data folder\n"
     "  --sha256 HEX           what it must be (default: what the server states)\n"},
    {"models", cli_models, "list, verify, pack or remove fetched models",
     "quern models [OPTION…] [list | verify NAME… | pack NAME… | remove NAME…]\n"
     "  --folder PATH          /var/lib/quern/models, or in the user's data folder\n"
     "  --output text|json     of the list; --json: the same as --output json\n"},
};
#define N_VERBS (sizeof verbs / sizeof verbs[0])

static const char sampling_help[] =
    "  --max-tokens N         end after N tokens\n"
    "  --temperature T        0 takes the likeliest token each time\n"
    "  --top-k K  --top-p P  --min-p P  --repetition-penalty R\n"
    "  --presence-penalty A  --frequency-penalty A\n"
    "  --min-tokens N         no end before N tokens\n"
    "  --logit-bias ID=B      added to a token's logit (-inf: never); repeatable\n"
    "  --seed N               same request and seed, same answer\n"
    "  --stop TEXT            end before this text; may be given several times\n"
    "  --stop-id ID           end at this token; may be given several times\n"
    "  --priority interactive|normal|batch\n"
    "  --deadline-ms N        give up after this time\n"
    "  --model NAME           of a service with several\n";

static const char common_help[] =
    "  --socket PATH          or $QUERN_SOCKET, $XDG_RUNTIME_DIR/quern/quern.sock,\n"
    "                         /run/quern/quern.sock\n"
    "Exit status: 0 done, 64 usage, 69 no service, 70 failure of the service,\n"
    "75 busy, 130 stopped by Ctrl-C.\n";

void cli_help(const char *verb)
{
    for (size_t i = 0; verb && i < N_VERBS; i++) {
        if (strcmp(verbs[i].name, verb))
            continue;
        bool samples = !strcmp(verb, "ask") || !strcmp(verb, "chat") || !strcmp(verb, "generate");
        printf("%s%s%s", verbs[i].usage, samples ? sampling_help : "", common_help);
        return;
    }
    puts("quern VERB [OPTION…]   ask the language model service of this machine\n");
    for (size_t i = 0; i < N_VERBS; i++)
        printf("  %-11s %s\n", verbs[i].name, verbs[i].what);
    printf("\nquern VERB --help says more; quern --version.\n%s", common_help);
}

int cli_fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("quern: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return code;
}

/* The verb that a misspelt one most likely means, or NULL. */
static const char *nearest_verb(const char *word)
{
    const char *best = NULL;
    unsigned best_distance = 3;
    for (size_t i = 0; i < N_VERBS; i++) {
        const unsigned this = chat_word_distance(word, verbs[i].name);
        if (this < best_distance && this <= 1 + strlen(verbs[i].name) / 4) {
            best = verbs[i].name;
            best_distance = this;
        }
    }
    return best;
}

/* Everything printed must have arrived: a full disk is an error, a reader that left is not news. */
static int finish(int code)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return code ? code : cli_fail(CLI_OURS, "could not write the output: %m");
    return code;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_DFL); /* quern … | head ends as other tools do */
    if (argc < 2) {
        cli_help(NULL);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        cli_help(argc > 2 ? argv[2] : NULL);
        return finish(CLI_OK);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("quern %s\n", quern_version());
        return finish(CLI_OK);
    }
    /* --socket may stand before the verb, too. */
    int at = 1;
    char *socket_option[2] = {NULL, NULL};
    if (!strcmp(argv[1], "--socket") && argc > 3) {
        socket_option[0] = argv[1];
        socket_option[1] = argv[2];
        at = 3;
    }
    for (size_t i = 0; i < N_VERBS; i++) {
        if (strcmp(argv[at], verbs[i].name))
            continue;
        if (!socket_option[0])
            return finish(verbs[i].run(argc - at, argv + at));
        /* verb, --socket, PATH, the rest: reorder in place (argv[0] is not needed). */
        char *verb = argv[at];
        argv[1] = verb;
        argv[2] = socket_option[0];
        argv[3] = socket_option[1];
        return finish(verbs[i].run(argc - 1, argv + 1));
    }
    const char *near = nearest_verb(argv[at]);
    return cli_fail(CLI_USAGE, "no verb \"%s\"%s%s%s; quern --help lists them", argv[at],
                    near ? ", did you mean \"" : "", near ? near : "", near ? "\"" : "");
}
