/* The one log function of the service (see journal.h). */
#include "svc/journal.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

enum { LINE_MAX_BYTES = 2048, FIELD_MAX_BYTES = 96, N_FIELDS = 7 };

static enum journal_level max_level = JOURNAL_INFO;
static bool to_journal;
static atomic_bool line_is_begun; /* another thread may say something */

/* systemd.exec(5): JOURNAL_STREAM is "device:inode" of the journal's socket; it counts only if our
 * standard error is still that socket. */
static bool stderr_is_the_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;
    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void journal_init(enum journal_level level)
{
    max_level = level;
    to_journal = stderr_is_the_journal();
}

enum journal_level journal_level_of(unsigned verbose)
{
    return verbose > 1 ? JOURNAL_DEBUG : verbose ? JOURNAL_INFO : JOURNAL_NOTICE;
}

/* From systemd-id128(1). */
static const char *const message_ids[JOURNAL_N_MESSAGES] = {
    [JOURNAL_STARTING] = "9566654090ea49b092204fad6ff9a0a5",
    [JOURNAL_WEIGHTS] = "cea6cb2e51614e0db8ccef0b0d387885",
    [JOURNAL_READY] = "c4036644d4e240729e8583848848c3dc",
    [JOURNAL_FAILED] = "584d182016744bdcb9faba7dfff20468",
    [JOURNAL_STOPPING] = "63eeefc2bf7046f4a719f7421b3b38c1",
    [JOURNAL_IDLE] = "636468f9bf624b8693a4403e8bf14203",
    [JOURNAL_RELOADED] = "297f8e978e244a8fb687582ed0a1d4b4",
    [JOURNAL_RELOAD_FAILED] = "a09bef35aeb54560a287becd243a1004",
    [JOURNAL_NEEDS_RESTART] = "365dbfb91b0f4aaaafe4ad7a8686dfd9",
    [JOURNAL_REFUSED] = "ada68462acf24787881d74cac86d13d1",
    [JOURNAL_VIOLATION] = "79e87e0c82694a37b2de4133b1b13534",
};

struct fields {
    char texts[N_FIELDS][FIELD_MAX_BYTES];
    int n;
};

__attribute__((format(printf, 2, 3))) static void add_field(struct fields *f, const char *format,
                                                            ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(f->texts[f->n++], FIELD_MAX_BYTES, format, args);
    va_end(args);
}

static void add_context(struct fields *f, const struct journal_context *c)
{
    if (c->session) {
        add_field(f, "QUERN_SESSION=%llu", (unsigned long long)c->session);
        add_field(f, "QUERN_UID=%u", (unsigned)c->uid);
        add_field(f, "QUERN_PID=%d", (int)c->pid);
    }
    if (c->request)
        add_field(f, "QUERN_REQUEST=%llu", (unsigned long long)c->request);
    if (c->model)
        add_field(f, "QUERN_MODEL=%s", c->model);
}

__attribute__((format(printf, 4, 0))) static void say(enum journal_message message,
                                                      enum journal_level level,
                                                      const struct journal_context *context,
                                                      const char *format, va_list args)
{
    char line[LINE_MAX_BYTES] = "MESSAGE=";
    const size_t skip = strlen(line);
    struct fields f = {.n = 0};
    struct iovec parts[N_FIELDS + 1];

    if (level > max_level)
        return;
    vsnprintf(line + skip, sizeof line - skip, format, args);
    if (!to_journal) {
        const bool begun = atomic_exchange(&line_is_begun, false);
        fprintf(stderr, "%squernd: %s\n", begun ? "\r\033[K" : "", line + skip);
        return;
    }
    add_field(&f, "PRIORITY=%d", (int)level);
    if (message_ids[message])
        add_field(&f, "MESSAGE_ID=%s", message_ids[message]);
    if (context)
        add_context(&f, context);
    for (int i = 0; i < f.n; i++)
        parts[i] = (struct iovec){.iov_base = f.texts[i], .iov_len = strlen(f.texts[i])};
    parts[f.n] = (struct iovec){.iov_base = line, .iov_len = strlen(line)};
    if (sd_journal_sendv(parts, f.n + 1) < 0) /* no journal socket: standard error still is there */
        fprintf(stderr, "<%d>%s\n", (int)level, line + skip);
}

void journal_line_is_begun(bool begun)
{
    atomic_store(&line_is_begun, begun);
}

void journal_log(enum journal_level level, const struct journal_context *context,
                 const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(JOURNAL_PLAIN, level, context, format, args);
    va_end(args);
}

void journal_event(enum journal_message message, enum journal_level level,
                   const struct journal_context *context, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(message, level, context, format, args);
    va_end(args);
}
