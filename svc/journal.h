/* The one log function of the service.
 *
 * Under systemd (JOURNAL_STREAM names our standard error) a message goes to the journal with
 * structured fields; elsewhere it is a plain line on standard error. No text of a prompt or of an
 * answer is ever passed in here, at any level. */
#ifndef QUERN_SVC_JOURNAL_H
#define QUERN_SVC_JOURNAL_H

#include <stdint.h>
#include <sys/types.h>

enum journal_level { /* syslog's numbers */
                     JOURNAL_ERROR = 3,
                     JOURNAL_WARNING = 4,
                     JOURNAL_NOTICE = 5,
                     JOURNAL_INFO = 6,
                     JOURNAL_DEBUG = 7,
};

/* Whom a message is about: the fields QUERN_SESSION, QUERN_UID, QUERN_PID and QUERN_REQUEST (the
 * last where it is not 0). */
struct journal_context {
    uint64_t session;
    uid_t uid;
    pid_t pid;
    uint64_t request;
};

/* Called before the first message, and again where the level changes. Messages above `level` are
 * dropped. */
void journal_init(enum journal_level level);

/* The level for "verbose" 0, 1, 2. */
enum journal_level journal_level_of(unsigned verbose);

/* One line, without a newline. `context` may be NULL. */
void journal_log(enum journal_level level, const struct journal_context *context,
                 const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
