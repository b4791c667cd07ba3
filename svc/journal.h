/* The one log function of the service.
 *
 * Under systemd (JOURNAL_STREAM names our standard error) a message goes to the journal with
 * structured fields; elsewhere it is a plain line on standard error. No text of a prompt or of an
 * answer is ever passed in here, at any level. */
#ifndef QUERN_SVC_JOURNAL_H
#define QUERN_SVC_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum journal_level { /* syslog's numbers */
                     JOURNAL_ERROR = 3,
                     JOURNAL_WARNING = 4,
                     JOURNAL_NOTICE = 5,
                     JOURNAL_INFO = 6,
                     JOURNAL_DEBUG = 7,
};

/* Messages that somebody may look for: each has a MESSAGE_ID (journal.c), which never changes, and a
 * text in systemd/quern.catalog. */
enum journal_message {
    JOURNAL_PLAIN, /* none */
    JOURNAL_STARTING,
    JOURNAL_WEIGHTS, /* where the weights came from, and on what pages they are */
    JOURNAL_READY,
    JOURNAL_FAILED, /* a model cannot be served */
    JOURNAL_STOPPING,
    JOURNAL_IDLE,
    JOURNAL_RELOADED, /* a setting changed */
    JOURNAL_RELOAD_FAILED,
    JOURNAL_NEEDS_RESTART, /* a setting that a reload cannot change */
    JOURNAL_REFUSED,       /* by the policy */
    JOURNAL_VIOLATION,     /* a client broke the protocol */
    JOURNAL_N_MESSAGES
};

/* Whom a message is about: the fields QUERN_SESSION, QUERN_UID and QUERN_PID (where session is not
 * 0), QUERN_REQUEST (not 0) and QUERN_MODEL (not NULL). */
struct journal_context {
    uint64_t session; /* from 1 */
    uid_t uid;
    pid_t pid;
    uint64_t request;
    const char *model;
};

/* Called before the first message, and again where the level changes. Messages above `level` are
 * dropped. */
void journal_init(enum journal_level level);

/* The level for "verbose" 0, 1, 2. */
enum journal_level journal_level_of(unsigned verbose);

/* Whether a line on standard error, a terminal, is begun and not ended (a bar of progress): the next
 * message wipes it away first. */
void journal_line_is_begun(bool begun);

/* One line, without a newline. `context` may be NULL. */
void journal_log(enum journal_level level, const struct journal_context *context,
                 const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same, with a MESSAGE_ID. */
void journal_event(enum journal_message message, enum journal_level level,
                   const struct journal_context *context, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
