/* quern top: the service at a glance, drawn anew every second: clients, queue, rates, KV pages,
 * memory and its kinds, latencies.
 *
 * Each refresh is one status request; between two of them neither side does anything. Signals are
 * let in only while the tool waits for a key or for the next refresh, so that the terminal is always
 * put back as it was. */
#define _GNU_SOURCE /* ppoll */
#include "client/cli/cli.h"

#include <curses.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FIELDS_MAX   512
#define RATES_MAX    240  /* refreshes whose rate is drawn */
#define ANSWER_MS    2000 /* a service that takes longer for its status does not answer */
#define INTERVAL_MIN 100u

enum colour { COLOUR_USED = 1, COLOUR_CACHED, COLOUR_WARNING };

struct field {
    const char *key, *value;
};

/* One status: its lines, cut in place. */
struct sample {
    struct cli_status status;
    struct field fields[FIELDS_MAX];
    size_t n_fields;
    double at_s;
};

struct top {
    const struct cli_options *options;
    quern *q; /* NULL: not connected */
    struct sample now, before;
    double rates[RATES_MAX]; /* written tokens a second, the newest at n_rates - 1 */
    size_t n_rates;
    char trouble[200]; /* why there is nothing new; empty: there is */
    bool paused;
};

static volatile sig_atomic_t ended_by;

static void on_end(int signal_number)
{
    ended_by = signal_number;
}

/* ---- samples ---------------------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void sample_free(struct sample *s)
{
    free(s->status.text);
    *s = (struct sample){0};
}

static void sample_cut(struct sample *s)
{
    char *rest = s->status.text;
    for (char *line; s->n_fields < FIELDS_MAX && (line = strsep(&rest, "\n"));) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = 0;
        for (char *c = value; *c; c++) /* a model's name is a stranger's text */
            if ((unsigned char)*c < ' ' || *c == 127)
                *c = '?';
        s->fields[s->n_fields++] = (struct field){line, value};
    }
}

static const char *text_of(const struct sample *s, const char *key)
{
    for (size_t i = 0; i < s->n_fields; i++)
        if (!strcmp(s->fields[i].key, key))
            return s->fields[i].value;
    return "";
}

/* Where what is said of model k begins: a line "model" does; n_fields where there is none. */
static size_t begin_of(const struct sample *s, size_t k)
{
    for (size_t i = 0; i < s->n_fields; i++)
        if (!strcmp(s->fields[i].key, "model") && k-- == 0)
            return i;
    return s->n_fields;
}

static const char *text_in(const struct sample *s, size_t k, const char *key)
{
    const size_t end = begin_of(s, k + 1);
    for (size_t i = begin_of(s, k); i < end; i++)
        if (!strcmp(s->fields[i].key, key))
            return s->fields[i].value;
    return "";
}

static double number_in(const struct sample *s, size_t k, const char *key)
{
    return strtod(text_in(s, k, key), NULL);
}

static size_t count_models(const struct sample *s)
{
    size_t n = 0;
    while (begin_of(s, n) < s->n_fields)
        n++;
    return n;
}

/* Of all models. */
static double total_of(const struct sample *s, const char *key)
{
    double total = 0;
    for (size_t k = 0; begin_of(s, k) < s->n_fields; k++)
        total += number_in(s, k, key);
    return total;
}

static double number_of(const struct sample *s, const char *key)
{
    return strtod(text_of(s, key), NULL);
}

/* All that begins with `prefix`, added up. */
static double sum_of(const struct sample *s, const char *prefix)
{
    double sum = 0;
    for (size_t i = 0; i < s->n_fields; i++)
        if (!strncmp(s->fields[i].key, prefix, strlen(prefix)))
            sum += strtod(s->fields[i].value, NULL);
    return sum;
}

/* How much a counter grew since the sample before; 0 where the service began anew. */
static double growth(const struct top *t, const char *key)
{
    double by = number_of(&t->now, key) - number_of(&t->before, key);
    return t->before.n_fields && by > 0 ? by : 0;
}

static double rate_of(const struct top *t, const char *key)
{
    double elapsed_s = t->now.at_s - t->before.at_s;
    return elapsed_s > 0 ? growth(t, key) / elapsed_s : 0;
}

/* The same of one model. */
static double rate_in(const struct top *t, size_t k, const char *key)
{
    const double elapsed_s = t->now.at_s - t->before.at_s;
    const double by = number_in(&t->now, k, key) - number_in(&t->before, k, key);
    const bool same = !strcmp(text_in(&t->now, k, "model"), text_in(&t->before, k, "model"));
    return same && by > 0 && elapsed_s > 0 ? by / elapsed_s : 0;
}

/* Asks for the status. 0, or -errno. */
static int ask_status(quern *q, struct sample *ret)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request r;
    uint64_t id;
    quern_request_init(&r);
    r.op = QUERN_OP_STATUS;
    int rc = quern_submit(q, &r, &id);
    while (!rc) {
        rc = quern_next(q, id, &event, ANSWER_MS);
        if (!rc && event.type == QUERN_EVENT_FINAL)
            break;
        if (!rc)
            rc = cli_status_add(&ret->status, &event);
    }
    quern_event_done(&event);
    return rc ? rc : ret->status.text ? 0 : -EPROTO;
}

/* Takes a sample, connecting anew where the service went away; else t->trouble says why not. */
static void take_sample(struct top *t)
{
    struct sample fresh = {0};
    int rc = 0;
    if (!t->q)
        rc = quern_connect(&t->q, t->options->socket);
    if (rc) {
        snprintf(t->trouble, sizeof t->trouble, "%s", quern_connect_error());
        return;
    }
    rc = ask_status(t->q, &fresh);
    if (rc) {
        snprintf(t->trouble, sizeof t->trouble, "no status: %s",
                 rc == -ETIMEDOUT || rc == -EAGAIN ? "the service does not answer"
                                                   : quern_error(t->q));
        sample_free(&fresh);
        quern_close(t->q);
        t->q = NULL;
        return;
    }
    t->trouble[0] = 0;
    fresh.at_s = now_s();
    sample_cut(&fresh);
    sample_free(&t->before);
    t->before = t->now;
    t->now = fresh;
    if (t->n_rates == RATES_MAX)
        memmove(t->rates, t->rates + 1, --t->n_rates * sizeof *t->rates);
    t->rates[t->n_rates++] = rate_of(t, "total_generated_tokens");
}

/* ---- the screen ------------------------------------------------------------------------------- */

/* Writes at a place; what does not fit is cut off. */
__attribute__((format(printf, 3, 4))) static void put(int row, int column, const char *format, ...)
{
    char text[512];
    va_list args;
    if (row >= LINES - 1 || column >= COLS) /* the last line is the keys' */
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mvaddnstr(row, column, text, COLS - column);
}

static void colour(enum colour c, bool on)
{
    if (has_colors())
        (on ? attron : attroff)(COLOR_PAIR(c));
}

static void heading(int row, const char *text)
{
    attron(A_BOLD);
    put(row, 0, "%s", text);
    attroff(A_BOLD);
}

static const char *size_text(double bytes, char text[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++)
        bytes /= 1024;
    snprintf(text, 16, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

static void draw_head(const struct top *t)
{
    const struct sample *s = &t->now;
    long up_s = (long)number_of(s, "uptime_s");
    heading(0, "quern top");
    if (count_models(s) > 1)
        put(0, 11, "%zu models", count_models(s));
    else
        put(0, 11, "%s %s", text_of(s, "model"), text_of(s, "model_types"));
    put(0, 50, "up %ld:%02ld:%02ld, %s, %s threads", up_s / 3600, up_s / 60 % 60, up_s % 60,
        text_of(s, "isa"), text_of(s, "threads"));
    if (!strcmp(text_of(s, "state"), "loading")) {
        double total = number_of(s, "load_bytes_total");
        put(1, 0, "loading: %3.0f %%",
            total > 0 ? 100 * number_of(s, "load_bytes_done") / total : 0.0);
        return;
    }
    put(1, 0, "clients %-6s running %.0f of %-6.0f waiting %-6.0f", text_of(s, "clients"),
        total_of(s, "running"), total_of(s, "sequences_max"), total_of(s, "waiting"));
    if (count_models(s) == 1)
        put(1, 52, "context %s", text_of(s, "context"));
}

/* The rates of the last refreshes, the newest on the right, in eight heights. */
static void draw_curve(const struct top *t, int row)
{
    static const char heights[] = " .:-=+*#";
    double most = 1;
    size_t width = COLS > 2 ? (size_t)COLS - 2 : 0;
    size_t n = t->n_rates < width ? t->n_rates : width;
    for (size_t i = t->n_rates - n; i < t->n_rates; i++)
        most = t->rates[i] > most ? t->rates[i] : most;
    for (size_t i = 0; i < n; i++) {
        double part = t->rates[t->n_rates - n + i] / most;
        put(row, (int)(width - n + i), "%c", heights[(int)(part * 7 + 0.5)]);
    }
}

static void draw_rates(const struct top *t, int row)
{
    double steps = growth(t, "total_steps");
    heading(row, "Tokens a second");
    put(row + 1, 2, "written %9.1f   read %9.1f   from the cache %9.1f",
        rate_of(t, "total_generated_tokens"), rate_of(t, "total_prompt_tokens"),
        rate_of(t, "total_cached_tokens"));
    put(row + 2, 2, "steps %11.1f   rows a step %5.1f   a step %8.2f ms", rate_of(t, "total_steps"),
        steps > 0 ? growth(t, "total_rows") / steps : 0.0,
        steps > 0 ? growth(t, "total_step_us") / steps / 1e3 : 0.0);
    draw_curve(t, row + 3);
}

static void draw_latencies(const struct top *t, int row)
{
    static const struct {
        const char *name, *p50, *p99;
    } lines[] = {{"queue", "queue_p50_us", "queue_p99_us"},
                 {"first token", "first_token_p50_us", "first_token_p99_us"},
                 {"between tokens", "token_gap_p50_us", "token_gap_p99_us"},
                 {"a request", "request_p50_us", "request_p99_us"}};
    heading(row, "Milliseconds, at most, since the start");
    put(row, 42, "%9s %9s", "p50", "p99");
    for (int i = 0; i < 4; i++)
        put(row + 1 + i, 2, "%-40s%9.1f %9.1f", lines[i].name,
            number_of(&t->now, lines[i].p50) / 1e3, number_of(&t->now, lines[i].p99) / 1e3);
}

/* How many of `width` cells a part takes: at least one where there is any. */
static int cells_of(double part, double all, int width)
{
    return part > 0 && all > 0 && width > 0 ? (int)((part * width + all - 1) / all) : 0;
}

/* The pool as one bar: pages in use, pages of cached prefixes, free ones. */
static void draw_kv(const struct top *t, int row)
{
    const struct sample *s = &t->now;
    double all = number_of(s, "kv_pages"), used = number_of(s, "kv_pages_used");
    double cached = number_of(s, "kv_pages_cached");
    int width = COLS > 4 ? COLS - 4 : 0;
    heading(row, "KV");
    put(row, 4, "%.0f pages: %.0f used, %.0f cached, %.0f free, %s reserved, %s pinned", all, used,
        cached, all - used - cached, text_of(s, "kv_pages_reserved"),
        text_of(s, "kv_pages_pinned"));
    put(row + 1, 2, "[");
    int n_used = cells_of(used, all, width - 2), n_cached = cells_of(cached, all, width - 2);
    for (int i = 0; i < width - 2; i++) {
        bool is_used = i < n_used, is_free = i >= n_used + n_cached;
        enum colour c = is_used ? COLOUR_USED : COLOUR_CACHED;
        if (!is_free)
            colour(c, true);
        put(row + 1, 3 + i, "%c", is_free ? '.' : is_used ? '#' : '+');
        if (!is_free)
            colour(c, false);
    }
    put(row + 1, 1 + width, "]");
}

static void draw_memory(const struct top *t, int row)
{
    const struct sample *s = &t->now;
    char size[16];
    heading(row, "Memory");
    put(row + 1, 2, "weights %11s  %s; kept by %s",
        size_text(number_of(s, "weights_arena_bytes"), size), text_of(s, "weights_pages"),
        text_of(s, "weights_kept_by"));
    put(row + 2, 2, "KV      %11s  %s; %s", size_text(number_of(s, "kv_bytes"), size),
        text_of(s, "kv_pages_kind"), text_of(s, "kv_type"));
}

/* Several models: a line for each. The rows that it took. */
static int draw_models(const struct top *t, int row)
{
    const struct sample *s = &t->now;
    const int n = (int)count_models(s);
    heading(row, "Models");
    put(row, 28, "running waiting  written     read   KV used    weights      KV");
    for (int i = 0; i < n; i++) {
        const size_t k = (size_t)i;
        const double pages = number_in(s, k, "kv_pages");
        char weights[16], kv[16];
        put(row + 1 + i, 2, "%-24.24s %8s %7s %8.1f %8.1f %7.0f %% %10s %10s",
            text_in(s, k, "model"), text_in(s, k, "running"), text_in(s, k, "waiting"),
            rate_in(t, k, "generated_tokens"), rate_in(t, k, "prompt_tokens"),
            pages > 0 ? 100 * number_in(s, k, "kv_pages_used") / pages : 0.0,
            size_text(number_in(s, k, "weights_arena_bytes"), weights),
            size_text(number_in(s, k, "kv_bytes"), kv));
    }
    return n + 1;
}

static void draw_requests(const struct top *t, int row)
{
    const struct sample *s = &t->now;
    heading(row, "Requests");
    put(row + 1, 2, "finished %s   cancelled %s   failed %s   set back %s   refused %.0f",
        text_of(s, "total_finished"), text_of(s, "total_cancelled"), text_of(s, "total_failed"),
        text_of(s, "total_set_back"), sum_of(s, "refused_"));
}

static void draw(const struct top *t)
{
    erase();
    draw_head(t);
    if (strcmp(text_of(&t->now, "state"), "loading")) {
        const bool several = count_models(&t->now) > 1;
        draw_rates(t, 3);
        int row = several ? 9 + draw_models(t, 8) : 15;
        if (!several) {
            draw_kv(t, 8);
            draw_memory(t, 11);
        }
        draw_latencies(t, row);
        draw_requests(t, row + 6);
    }
    if (t->trouble[0]) {
        colour(COLOUR_WARNING, true);
        put(2, 0, "%s", t->trouble);
        colour(COLOUR_WARNING, false);
    }
    attron(A_REVERSE);
    mvprintw(LINES - 1, 0, "%.*s", COLS - 1,
             t->paused ? "q quit   p go on" : "q quit   p pause   space now");
    attroff(A_REVERSE);
    refresh();
}

/* ---- the loop --------------------------------------------------------------------------------- */

/* Waits for a key, a signal, or the end of the interval; returns the key, or ERR. */
static int wait_key(double left_s, const sigset_t *waiting)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    left_s = left_s > 0 ? left_s : 0;
    struct timespec left = {(time_t)left_s, (long)((left_s - (double)(time_t)left_s) * 1e9)};
    if (ppoll(&p, 1, &left, waiting) > 0 && (p.revents & (POLLHUP | POLLERR)))
        ended_by = SIGHUP; /* the terminal is gone */
    return getch();
}

static void run(struct top *t, const sigset_t *waiting)
{
    uint32_t interval_ms = t->options->interval_ms ? t->options->interval_ms : 1000;
    uint32_t n_shown = 1;
    double next_s = now_s() + interval_ms / 1e3;
    draw(t);
    while (!ended_by && (!t->options->count || n_shown < t->options->count)) {
        int key = wait_key(next_s - now_s(), waiting);
        if (key == 'q' || key == 'Q')
            break;
        if (key == 'p')
            t->paused = !t->paused;
        if (key == ' ' || now_s() >= next_s) {
            next_s = now_s() + interval_ms / 1e3;
            if (!t->paused || key == ' ') {
                take_sample(t);
                n_shown++;
            }
        }
        draw(t);
    }
}

static void screen_begin(void)
{
    const char *no_color = getenv("NO_COLOR");
    initscr();
    cbreak();
    noecho();
    nonl();
    curs_set(0);
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    if (has_colors() && !(no_color && *no_color)) {
        start_color();
        use_default_colors();
        init_pair(COLOUR_USED, COLOR_GREEN, -1);
        init_pair(COLOUR_CACHED, COLOR_CYAN, -1);
        init_pair(COLOUR_WARNING, COLOR_RED, -1);
    }
}

/* Blocks what ends the tool or resizes the screen; *ret_waiting is the mask while it waits. */
static void signals_begin(sigset_t *ret_waiting)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_end};
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGWINCH);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        sigaction(ends[i], &action, NULL);
        sigaddset(&blocked, ends[i]);
    }
    sigprocmask(SIG_BLOCK, &blocked, ret_waiting);
}

int cli_top(int argc, char **argv)
{
    struct cli_options o;
    int rc = cli_options_read(&o, "top", "interval-ms count", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.n_words || (o.interval_ms && o.interval_ms < INTERVAL_MIN))
        return cli_fail(CLI_USAGE, "top takes no words, and --interval-ms from %u", INTERVAL_MIN);
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return cli_fail(CLI_USAGE, "top needs a terminal; quern status --json is for programs");
    struct top t = {.options = &o};
    sigset_t waiting;
    rc = cli_connect(&t.q, &o);
    if (!rc) {
        take_sample(&t);
        screen_begin();
        signals_begin(&waiting);
        run(&t, &waiting);
        endwin();
        sigprocmask(SIG_SETMASK, &waiting, NULL);
    }
    sample_free(&t.now);
    sample_free(&t.before);
    quern_close(t.q);
    if (ended_by) { /* whoever started the tool sees what ended it */
        signal(ended_by, SIG_DFL);
        raise(ended_by);
    }
    return rc;
}
