/* One way to run a request: submit, show where it stands, stream its events, let Ctrl-C cancel it. */
#define _GNU_SOURCE /* ppoll */
#include "client/cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

int cli_exit_of_errno(int error)
{
    switch (error) {
    case -ENOENT:
    case -ECONNREFUSED:
    case -ECONNRESET:
    case -ECONNABORTED:
    case -EACCES:
        return CLI_NO_SERVICE;
    case -EBUSY:
        return CLI_BUSY;
    case -EINVAL:
    case -EMSGSIZE:
        return CLI_USAGE;
    default:
        return CLI_OURS;
    }
}

int cli_exit_of_code(enum quern_code code)
{
    switch (code) {
    case QUERN_CODE_OK:
        return CLI_OK;
    case QUERN_CODE_INVALID:
    case QUERN_CODE_TOO_LONG:
    case QUERN_CODE_UNSUPPORTED:
    case QUERN_CODE_NO_MODEL:
        return CLI_USAGE;
    case QUERN_CODE_BUSY:
    case QUERN_CODE_DEADLINE:
        return CLI_BUSY;
    case QUERN_CODE_SHUTDOWN:
        return CLI_NO_SERVICE;
    default:
        return CLI_OURS;
    }
}

int cli_connect(quern **ret, const struct cli_options *options)
{
    int rc = quern_connect(ret, options->socket);
    return rc ? cli_fail(cli_exit_of_errno(rc), "%s", quern_connect_error()) : 0;
}

/* ---- the line on standard error that says where a request stands ---------------------------- */

struct notice {
    bool terminal;
    bool shown;
};

static void notice_clear(struct notice *n)
{
    if (n->shown)
        fputs("\r\033[K", stderr);
    n->shown = false;
}

static void notice_show(struct notice *n, const struct quern_event *e)
{
    if (!n->terminal)
        return;
    if (e->type == QUERN_EVENT_QUEUED) {
        fprintf(stderr, "\r\033[Kwaiting, %u before this one", e->u.queued.position);
    } else if (e->type == QUERN_EVENT_PROGRESS && e->u.progress.total) {
        const int width = 30;
        int done = (int)((double)e->u.progress.done / (double)e->u.progress.total * width);
        fprintf(stderr, "\r\033[K%s [%.*s%.*s] %3d %%",
                e->u.progress.phase == QUERN_PHASE_LOADING ? "loading" : "reading", done,
                "##############################", width - done, "..............................",
                done * 100 / width);
    } else {
        return;
    }
    n->shown = true;
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* The next event of `id`; waits with SIGINT let in only while nothing else happens, so that none is
 * missed between a look and the sleep. 0, or -errno; -EINTR when a Ctrl-C came. */
static int next_event(quern *q, uint64_t id, struct quern_event *event, const sigset_t *waiting)
{
    for (;;) {
        int rc = quern_next(q, id, event, 0);
        if (rc != -EAGAIN)
            return rc;
        struct pollfd p = {.fd = quern_fd(q), .events = POLLIN};
        if (ppoll(&p, 1, NULL, waiting) < 0 && errno == EINTR && interrupted)
            return -EINTR;
    }
}

static int submit(quern *q, const struct quern_request *r, uint64_t *id)
{
    int rc;
    while ((rc = quern_submit(q, r, id)) == -EAGAIN) {
        struct pollfd p = {.fd = quern_fd(q), .events = POLLIN};
        poll(&p, 1, -1);
    }
    return rc;
}

static int stream(quern *q, uint64_t id, quern_event_fn *fn, void *arg, struct quern_result *ret,
                  const sigset_t *waiting)
{
    struct notice notice = {.terminal = isatty(STDERR_FILENO)};
    struct quern_event event = QUERN_EVENT_INIT;
    bool cancelled = false;
    int rc;
    for (;;) {
        rc = next_event(q, id, &event, waiting);
        if (rc == -EINTR) {
            interrupted = 0;
            rc = cancelled ? 0 : quern_cancel(q, id);
            cancelled = true;
            if (rc == 0 || rc == -ENOENT)
                continue;
        }
        if (rc)
            break;
        if (event.type == QUERN_EVENT_QUEUED || event.type == QUERN_EVENT_PROGRESS) {
            notice_show(&notice, &event);
        } else if (event.type == QUERN_EVENT_TOKEN || event.type == QUERN_EVENT_DATA ||
                   event.type == QUERN_EVENT_FINAL) {
            notice_clear(&notice);
        }
        if (event.type == QUERN_EVENT_FINAL) {
            ret->final_ = event.u.final_;
            snprintf(ret->sentence, sizeof ret->sentence, "%s", event.data ? event.data : "");
            break;
        }
        if (fn && fn(arg, &event) && !cancelled) {
            cancelled = true;
            quern_cancel(q, id);
        }
    }
    notice_clear(&notice);
    quern_event_done(&event);
    return rc;
}

int cli_run(quern *q, const struct quern_request *r, quern_event_fn *fn, void *arg,
            struct quern_result *ret)
{
    sigset_t block, before;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigprocmask(SIG_BLOCK, &block, &before);
    struct sigaction act = {.sa_handler = on_interrupt}, old;
    sigaction(SIGINT, &act, &old);
    interrupted = 0;
    memset(ret, 0, sizeof *ret);

    uint64_t id = 0;
    int rc = submit(q, r, &id);
    if (!rc)
        rc = stream(q, id, fn, arg, ret, &before);

    sigaction(SIGINT, &old, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    fflush(stdout);
    if (rc)
        return cli_fail(cli_exit_of_errno(rc), "%s", quern_error(q));
    if (ret->final_.reason == QUERN_REASON_CANCELLED && ret->final_.code == QUERN_CODE_OK)
        return CLI_INTERRUPTED;
    if (ret->final_.code != QUERN_CODE_OK)
        return cli_fail(cli_exit_of_code(ret->final_.code), "%s",
                        *ret->sentence ? ret->sentence : quern_code_name(ret->final_.code));
    return CLI_OK;
}
