/* A bar for people, a sentence for systemd (see progress.h). */
#include "svc/progress.h"

#include "svc/journal.h"
#include "svc/readiness.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { EVERY_US = 200000, BAR_WIDTH = 40 };

void progress_init(struct progress *progress)
{
    *progress = (struct progress){.on_terminal = isatty(STDERR_FILENO)};
}

void progress_say(struct progress *progress, uint64_t now_us, const char *what, uint64_t done,
                  uint64_t total)
{
    char text[160], bar[BAR_WIDTH + 1];
    if (total == 0 || (done < total && progress->said_us && now_us - progress->said_us < EVERY_US))
        return;
    progress->said_us = now_us;
    unsigned percent = done < total ? (unsigned)(done * 100.0 / (double)total) : 100;
    snprintf(text, sizeof text, "Loading %s: %u %% of %llu MiB", what, percent,
             (unsigned long long)(total >> 20));
    readiness_loading(text);
    if (!progress->on_terminal)
        return;
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', percent * BAR_WIDTH / 100);
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %s", bar, text);
    journal_line_is_begun(true);
}

void progress_done(struct progress *progress)
{
    if (progress->on_terminal && progress->said_us)
        fputs("\r\033[K", stderr);
    journal_line_is_begun(false);
    progress->said_us = 0;
}
