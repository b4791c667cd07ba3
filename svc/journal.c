/* The one log function of the service (see journal.h). */
#include "svc/journal.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

enum { LINE_MAX_BYTES = 1024, FIELD_MAX_BYTES = 64 };

static enum journal_level max_level = JOURNAL_INFO;
static bool to_journal;

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

void journal_log(enum journal_level level, const struct journal_context *context,
                 const char *format, ...)
{
    char line[LINE_MAX_BYTES] = "MESSAGE=";
    char fields[5][FIELD_MAX_BYTES];
    struct iovec parts[6];
    int n = 0;
    va_list args;

    if (level > max_level)
        return;
    const size_t skip = strlen(line);
    va_start(args, format);
    vsnprintf(line + skip, sizeof line - skip, format, args);
    va_end(args);

    if (!to_journal) {
        fprintf(stderr, "quernd: %s\n", line + skip);
        return;
    }
    snprintf(fields[n++], FIELD_MAX_BYTES, "PRIORITY=%d", (int)level);
    if (context) {
        snprintf(fields[n++], FIELD_MAX_BYTES, "QUERN_SESSION=%llu",
                 (unsigned long long)context->session);
        snprintf(fields[n++], FIELD_MAX_BYTES, "QUERN_UID=%u", (unsigned)context->uid);
        snprintf(fields[n++], FIELD_MAX_BYTES, "QUERN_PID=%d", (int)context->pid);
        if (context->request)
            snprintf(fields[n++], FIELD_MAX_BYTES, "QUERN_REQUEST=%llu",
                     (unsigned long long)context->request);
    }
    for (int i = 0; i < n; i++)
        parts[i] = (struct iovec){.iov_base = fields[i], .iov_len = strlen(fields[i])};
    parts[n] = (struct iovec){.iov_base = line, .iov_len = strlen(line)};
    if (sd_journal_sendv(parts, n + 1) < 0) /* no journal socket: standard error still is there */
        fprintf(stderr, "<%d>%s\n", (int)level, line + skip);
}
