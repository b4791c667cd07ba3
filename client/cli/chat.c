/* quern chat: a conversation, line by line. The service keeps no conversation: each turn sends all
 * of it, and the shared prefix is found again there. */
#include "client/cli/tools.h"

#include <errno.h>
#include <histedit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct turn {
    enum quern_role role;
    char *text;
    json_t *calls; /* of tools, by the assistant; or NULL */
};

struct chat {
    struct cli_options options;
    struct cli_tools tools;
    quern *q;
    struct turn *turns;
    size_t n_turns, capacity;
    char *answer; /* of the turn under way */
    size_t answer_size;
    bool terminal;
    uint32_t prompt_tokens, generated; /* of the last turn */
};

/* Takes over text, and calls (which may be NULL). */
static int add_turn(struct chat *c, enum quern_role role, char *text, json_t *calls)
{
    if (!text)
        return cli_fail(CLI_OURS, "out of memory");
    if (c->n_turns == c->capacity) {
        size_t capacity = c->capacity ? c->capacity * 2 : 16;
        struct turn *more = realloc(c->turns, capacity * sizeof *more);
        if (!more) {
            free(text);
            json_decref(calls);
            return cli_fail(CLI_OURS, "out of memory");
        }
        c->turns = more;
        c->capacity = capacity;
    }
    c->turns[c->n_turns++] = (struct turn){role, text, calls};
    return 0;
}

static void drop_last_turn(struct chat *c)
{
    free(c->turns[--c->n_turns].text);
    json_decref(c->turns[c->n_turns].calls);
}

static void clear_turns(struct chat *c)
{
    while (c->n_turns)
        drop_last_turn(c);
}

static const char *const role_names[] = {"system", "user", "assistant", "tool"};

/* The conversation as JSON, in the form of Hugging Face. */
static json_t *turns_as_json(const struct chat *c)
{
    json_t *all = json_array();
    if (c->options.system)
        json_array_append_new(
            all, json_pack("{s:s, s:s}", "role", "system", "content", c->options.system));
    for (size_t i = 0; i < c->n_turns; i++) {
        json_t *turn = json_pack("{s:s, s:s}", "role", role_names[c->turns[i].role], "content",
                                 c->turns[i].text);
        if (c->turns[i].calls)
            json_object_set(turn, "tool_calls", c->turns[i].calls);
        json_array_append_new(all, turn);
    }
    return all;
}

static int answer_with_tools(struct chat *c)
{
    struct quern_result result;
    json_t *messages = turns_as_json(c), *message = NULL;
    int rc = cli_tools_answer(&c->tools, c->q, &c->options, &c->options.request, messages, &message,
                              &result);
    json_decref(messages);
    if (rc == CLI_OK || rc == CLI_INTERRUPTED) {
        const char *text = json_string_value(json_object_get(message, "content"));
        json_t *calls = json_incref(json_object_get(message, "tool_calls"));
        c->prompt_tokens = result.final_.prompt_tokens;
        c->generated = result.final_.generated;
        rc = add_turn(c, QUERN_ROLE_ASSISTANT, strdup(text ? text : ""), calls);
        json_decref(message);
        return rc;
    }
    drop_last_turn(c);
    return rc == CLI_NO_SERVICE ? rc : 0;
}

static int stream_answer(void *arg, const struct quern_event *event)
{
    struct chat *c = arg;
    if (event->type != QUERN_EVENT_TOKEN)
        return 0;
    char *more = realloc(c->answer, c->answer_size + event->data_size + 1);
    if (!more)
        return cli_fail(1, "out of memory");
    c->answer = more;
    memcpy(c->answer + c->answer_size, event->data, event->data_size);
    c->answer_size += event->data_size;
    c->answer[c->answer_size] = 0;
    fwrite(event->data, 1, event->data_size, stdout);
    fflush(stdout);
    return 0;
}

/* Asks with all turns; the answer becomes a turn. Returns an exit code that ends the chat, or 0. */
static int answer_turn(struct chat *c)
{
    if (c->tools.tools)
        return answer_with_tools(c);
    struct quern_message *messages = calloc(c->n_turns + 1, sizeof *messages);
    if (!messages)
        return cli_fail(CLI_OURS, "out of memory");
    size_t n = 0;
    if (c->options.system)
        messages[n++] =
            (struct quern_message){QUERN_ROLE_SYSTEM, c->options.system, strlen(c->options.system)};
    for (size_t i = 0; i < c->n_turns; i++)
        messages[n++] =
            (struct quern_message){c->turns[i].role, c->turns[i].text, strlen(c->turns[i].text)};
    struct quern_request r = c->options.request;
    r.kind = QUERN_INPUT_CHAT;
    r.messages = messages;
    r.n_messages = n;
    r.stops = c->options.stops;
    r.stop_ids = c->options.stop_ids;

    struct quern_result result;
    c->answer = NULL;
    c->answer_size = 0;
    int rc = cli_run(c->q, &r, stream_answer, c, &result);
    free(messages);
    if (rc == CLI_OK || rc == CLI_INTERRUPTED) {
        c->prompt_tokens = result.final_.prompt_tokens;
        c->generated = result.final_.generated;
        putchar('\n');
        return add_turn(c, QUERN_ROLE_ASSISTANT, c->answer ? c->answer : strdup(""), NULL);
    }
    free(c->answer);
    drop_last_turn(c); /* the question had no answer: it may be asked again, shorter */
    return rc == CLI_NO_SERVICE ? rc : 0;
}

/* ---- commands --------------------------------------------------------------------------------- */

static void save(const struct chat *c, const char *path)
{
    json_t *all = turns_as_json(c);
    if (json_dump_file(all, path, JSON_INDENT(1)))
        cli_fail(0, "could not write %s: %m", path);
    json_decref(all);
}

/* The system message of a saved chat is set aside in *system (owned by the chat from then on). */
static void load(struct chat *c, const char *path, char **system)
{
    json_error_t error;
    json_t *all = json_load_file(path, 0, &error), *entry;
    size_t i;
    if (!json_is_array(all)) {
        cli_fail(0, "%s: %s", path, all ? "not a saved chat" : error.text);
        json_decref(all);
        return;
    }
    clear_turns(c);
    json_array_foreach(all, i, entry)
    {
        const char *role = json_string_value(json_object_get(entry, "role"));
        const char *text = json_string_value(json_object_get(entry, "content"));
        if (!role || !text)
            continue;
        if (!strcmp(role, "system")) {
            free(*system);
            *system = strdup(text);
            c->options.system = *system;
        } else {
            add_turn(c,
                     !strcmp(role, "user")   ? QUERN_ROLE_USER
                     : !strcmp(role, "tool") ? QUERN_ROLE_TOOL
                                             : QUERN_ROLE_ASSISTANT,
                     strdup(text), json_incref(json_object_get(entry, "tool_calls")));
        }
    }
    printf("%zu turns\n", c->n_turns);
    json_decref(all);
}

/* What a tool gave. The model goes on when each call of its last turn has a result. */
static int add_result(struct chat *c, const char *text)
{
    size_t n_results = 0, at = c->n_turns;
    while (at > 0 && c->turns[at - 1].role == QUERN_ROLE_TOOL) {
        at--;
        n_results++;
    }
    size_t n_calls = at > 0 ? json_array_size(c->turns[at - 1].calls) : 0;
    if (n_results >= n_calls)
        return cli_fail(0, "no call waits for a result");
    int rc = add_turn(c, QUERN_ROLE_TOOL, strdup(text), NULL);
    return rc || n_results + 1 < n_calls ? rc : answer_turn(c);
}

/* A line that begins with "/". Returns 1 to end the chat. */
static int command(struct chat *c, char *line, char **system, int *ret_rc)
{
    char *argument = strchr(line, ' ');
    if (argument) {
        *argument++ = 0;
        argument += strspn(argument, " ");
    }
    bool has = argument && *argument;
    if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) {
        return 1;
    } else if (!strcmp(line, "/clear")) {
        clear_turns(c);
    } else if (!strcmp(line, "/system")) {
        free(*system);
        *system = has ? strdup(argument) : NULL;
        c->options.system = *system;
        clear_turns(c);
    } else if (!strcmp(line, "/save") && has) {
        save(c, argument);
    } else if (!strcmp(line, "/load") && has) {
        load(c, argument, system);
    } else if (!strcmp(line, "/result") && has) {
        *ret_rc = add_result(c, argument);
        return *ret_rc != 0;
    } else if (!strcmp(line, "/tokens")) {
        printf("%u tokens read, %u written in the last turn\n", c->prompt_tokens, c->generated);
    } else {
        puts("/system [TEXT]   set or drop the system message, and begin anew\n"
             "/clear           begin anew\n"
             "/save FILE       keep the conversation (JSON)\n"
             "/load FILE       go on with a saved one\n"
             "/tokens          what the last turn took\n"
             "/result TEXT     what a called tool gave\n"
             "/quit            end (or Ctrl-D)");
    }
    return 0;
}

/* ---- lines ------------------------------------------------------------------------------------ */

static char *prompt(EditLine *el)
{
    static char text[] = "> ";
    (void)el;
    return text;
}

struct lines {
    EditLine *el;
    History *history;
    char *plain; /* getline's buffer where there is no terminal */
    size_t plain_size;
};

static void on_interrupt(int signal_number)
{
    (void)signal_number; /* ends el_gets with EINTR: the line is dropped, the chat goes on */
}

/* One line without its end, to be used before the next call; NULL at the end of the input. */
static const char *next_line(struct lines *l)
{
    if (!l->el) {
        ssize_t n = getline(&l->plain, &l->plain_size, stdin);
        return n < 0 ? NULL : l->plain;
    }
    for (;;) {
        int n = 0;
        const char *line = el_gets(l->el, &n);
        if (line && n > 0)
            return line;
        if (n < 0 && errno == EINTR) {
            putchar('\n');
            el_reset(l->el);
            continue;
        }
        return NULL;
    }
}

/* A whole input: lines joined while they end with a backslash. Freed by the caller; NULL at the
 * end. */
static char *next_input(struct lines *l)
{
    char *text = NULL;
    size_t size = 0;
    for (const char *line; (line = next_line(l));) {
        size_t n = strcspn(line, "\r\n");
        bool more = n > 0 && line[n - 1] == '\\';
        char *larger = realloc(text, size + n + 2);
        if (!larger)
            break;
        text = larger;
        memcpy(text + size, line, n);
        size += n;
        text[size] = 0;
        if (!more)
            break;
        text[size - 1] = '\n';
    }
    if (text && l->history) {
        HistEvent event;
        history(l->history, &event, H_ENTER, text);
    }
    return text;
}

static void open_lines(struct lines *l, bool terminal)
{
    if (!terminal)
        return;
    l->el = el_init("quern", stdin, stdout, stderr);
    l->history = history_init();
    if (!l->el || !l->history)
        return;
    HistEvent event;
    history(l->history, &event, H_SETSIZE, 500);
    el_set(l->el, EL_PROMPT, prompt);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_HIST, history, l->history);
    struct sigaction act = {.sa_handler = on_interrupt}; /* no SA_RESTART */
    sigaction(SIGINT, &act, NULL);
}

static void close_lines(struct lines *l)
{
    if (l->history)
        history_end(l->history);
    if (l->el)
        el_end(l->el);
    free(l->plain);
}

int cli_chat(int argc, char **argv)
{
    struct chat c = {0};
    int rc =
        cli_options_read(&c.options, "chat",
                         "system model max-tokens temperature top-k top-p min-p "
                         "repetition-penalty presence-penalty frequency-penalty seed stop "
                         "stop-id priority deadline-ms min-tokens logit-bias tools family language "
                         "parallel-calls",
                         argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (c.options.n_words)
        return cli_fail(CLI_USAGE, "chat takes no words; quern ask answers one question");
    rc = cli_connect(&c.q, &c.options);
    if (!rc)
        rc = cli_tools_open(&c.tools, c.q, &c.options);
    char *system = NULL;
    struct lines l = {0};
    c.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (!rc)
        open_lines(&l, c.terminal);
    while (!rc) {
        char *text = next_input(&l);
        if (!text)
            break;
        if (text[0] == '/') {
            int end = command(&c, text, &system, &rc);
            free(text);
            if (end)
                break;
        } else if (text[strspn(text, " \t\n")] == 0) {
            free(text);
        } else {
            rc = add_turn(&c, QUERN_ROLE_USER, text, NULL);
            if (!rc)
                rc = answer_turn(&c);
        }
    }
    if (c.terminal && !rc)
        putchar('\n');
    close_lines(&l);
    clear_turns(&c);
    free(c.turns);
    cli_tools_close(&c.tools);
    free(system);
    quern_close(c.q);
    return rc;
}
