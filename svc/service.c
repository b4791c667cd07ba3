/* The event loop (see service.h). */
#include "svc/service.h"

#include "ops/isa.h"
#include "svc/client.h"
#include "svc/engines.h"
#include "svc/listener.h"
#include "svc/metrics.h"
#include "svc/policy_file.h"
#include "svc/progress.h"
#include "svc/readiness.h"
#include "svc/reload.h"
#include "svc/watcher.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 64,
    WHY_SIZE = 1600,         /* of a load: numbers of each model */
    EMPTY_POLLS_MAX = 64,    /* then a quiet ring is armed and no longer polled */
    TAKES_MAX = 64,          /* requests of a client in one look: it may send faster than we take */
    ACCEPTS_MAX = 64,        /* connections in one look, likewise */
    REFUSED_MAX = 64,        /* connections beyond the limit that wait for their refusal */
    PUBLISH_US = 250000,     /* between two snapshots for the metrics page */
    LOAD_LOOK_US = 20000,    /* between two looks at the clients while the model is loaded */
    MODEL_DRAIN_S = 30,      /* before another model is loaded, where drain-s says nothing */
    UNDERTAKER_WAIT_MS = 10, /* until a full one is tried again */
    UNDERTAKER_WAITS_MAX = 500, /* at the end: then the rest goes without it */
    LOOKS_BEFORE_WATCH = 8,     /* inside a step: it is a long one */
    STEPS_BEFORE_WATCH = 2,     /* a request of one step does not wake the watcher */
    EXIT_OK = 0,
    EXIT_USAGE = 64,
    EXIT_BAD_DATA = 65,
    EXIT_NO_INPUT = 66,
    EXIT_OURS = 70,
    EXIT_MACHINE = 71,
};

/* epoll data: what a descriptor is, in the low bits of the pointer to its client. */
enum source { SOURCE_SOCKET = 0, SOURCE_PROCESS = 1, SOURCE_MASK = 3 };
enum { DATA_LISTENER, DATA_SIGNAL, DATA_BURIED }; /* no client: no pointer is that small */

struct service {
    struct options *options;
    int argc; /* read again by a reload */
    char **argv;
    struct ipc_listener listener;
    struct ipc_undertaker undertaker;
    struct policy policy;
    struct engines engines;
    struct readiness readiness;
    struct metrics *metrics;              /* or NULL */
    struct ipc_session_counters sessions; /* of those that are closed */
    uint64_t published_us;
    uint64_t load_looked_us;
    struct progress progress; /* of the load */
    char what[100];           /* of it, for a person */
    struct watcher watcher;
    struct client_list clients;
    struct client *ring_next; /* of the busy ones, whose doorbell comes next; NULL: all are done */
    uint64_t n_accepted;      /* numbers the clients */
    uint32_t n_uncounted;     /* clients that get a refusal, or have got it */
    uint32_t n_steps;         /* since the last rest */
    uint32_t n_looks;         /* inside the step */
    bool looked;              /* at the sockets, since the last step */
    uint8_t *input;           /* one request's bytes */
    size_t input_max;
    int epoll_fd, signal_fd;
    bool accepting; /* the listener is in epoll */
    bool stop;
    bool settled;               /* all memory that was promised has come */
    int code;                   /* of the exit */
    bool reload;                /* SIGHUP came */
    struct options_models next; /* wait until the requests of those that go have ended; or none */
    uint64_t drain_until_us;    /* running requests are ended then; 0: nothing is being drained */
    uint64_t idle_since_us;     /* no client since; 0: there are some, or nobody asked */
};

/* ---- clients ------------------------------------------------------------------------------- */

static int watch(struct service *s, int fd, uint64_t data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = data};
    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Nothing of it is left: another may have its place. */
static void forget(struct service *s, struct client *c)
{
    if (c->counted)
        policy_disconnect(&s->policy, c->account, c->region_bytes);
    client_free(c);
}

/* -EAGAIN: later. */
static int bury(struct service *s, struct client *c)
{
    int r = client_bury(c, &s->undertaker);
    if (r < 0 && r != -EAGAIN)
        forget(s, c);
    return r;
}

/* Those for whom the undertaker had no hand free. 0: it has none again, or nobody waits any more. */
static int bury_leaving(struct service *s)
{
    int r = 0;
    while (s->clients.leaving && r != -EAGAIN)
        r = bury(s, s->clients.leaving);
    return r == -EAGAIN ? 0 : r;
}

static void forget_buried(struct service *s)
{
    uint64_t tag;
    int r;
    while ((r = ipc_undertaker_buried(&s->undertaker, &tag)) > 0)
        forget(s, (struct client *)(uintptr_t)tag);
    if (r == 0)
        r = bury_leaving(s);
    if (r == 0)
        return;
    journal_log(JOURNAL_ERROR, NULL,
                "The process that takes leave of clients is gone; from now on a client can delay "
                "others when it goes. Restart quernd.");
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->undertaker.bodies_fd, NULL);
    ipc_undertaker_stop(&s->undertaker);
    (void)bury_leaving(s);
    while (s->clients.buried)
        forget(s, s->clients.buried);
}

static void close_client(struct service *s, struct client *c)
{
    if (!s->accepting && s->engines.hold != ENGINES_CLOSED && s->listener.fd >= 0 &&
        watch(s, s->listener.fd, DATA_LISTENER) == 0)
        s->accepting = true; /* descriptors come back */
    struct journal_context context = client_context(c, 0);
    if (c->violated)
        policy_log(&s->policy, POLICY_VIOLATION, c->why, &context, engine_now_us());
    journal_log(JOURNAL_DEBUG, &context, "client %llu (uid %u, pid %d) closed: %s",
                (unsigned long long)c->number, (unsigned)context.uid, (int)context.pid, c->why);
    engines_drop_client(&s->engines, c);
    if (!c->counted)
        s->n_uncounted--;
    metrics_add_session(&s->sessions, c->session);
    /* Others hold the same files open, so that closing them would not be enough. */
    const struct ipc_peer *peer = ipc_session_peer(c->session);
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
    if (peer->pidfd >= 0)
        epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, peer->pidfd, NULL);
    (void)bury(s, c);
}

/* Closes whoever broke since the last call. */
static void reap(struct service *s)
{
    (void)bury_leaving(s);
    for (struct client *c = s->clients.busy, *next; c; c = next) {
        next = c->next_busy;
        if (c->broken)
            close_client(s, c);
    }
}

static void log_refusal(struct service *s, const struct client *c)
{
    struct journal_context context = client_context(c, 0);
    policy_log(&s->policy, c->refusal.cause, c->refusal.sentence, &context, engine_now_us());
}

static void accept_one(struct service *s, const struct ipc_peer *peer)
{
    struct client *c;
    struct account *account = policy_account(&s->policy, peer);
    if (!account) {
        close(peer->fd);
        if (peer->pidfd >= 0)
            close(peer->pidfd);
        return;
    }
    if (client_new(&c, &s->clients, peer, ++s->n_accepted, account) < 0)
        return;
    c->counted = policy_connect(&s->policy, account, &c->refusal) == 0;
    if (!c->counted) {
        log_refusal(s, c);
        if (++s->n_uncounted > REFUSED_MAX) {
            client_fail(c, -EMFILE); /* no room even to wait for its hello */
            return;
        }
    }
    int r = watch(s, peer->fd, (uint64_t)(uintptr_t)c | SOURCE_SOCKET);
    if (r == 0 && peer->pidfd >= 0)
        r = watch(s, peer->pidfd, (uint64_t)(uintptr_t)c | SOURCE_PROCESS);
    if (r < 0)
        client_fail(c, r);
}

/* Those beyond one look's number keep the listener readable. */
static void accept_some(struct service *s)
{
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        struct ipc_peer peer;
        int r = ipc_accept(s->listener.fd, &peer);
        if (r == -EMFILE || r == -ENFILE) {
            /* Until somebody leaves, the listener would only make epoll spin. */
            policy_log(&s->policy, POLICY_DESCRIPTORS,
                       "No file descriptor is left for a client; raise LimitNOFILE=.", NULL,
                       engine_now_us());
            epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->listener.fd, NULL);
            s->accepting = false;
            return;
        }
        if (r < 0)
            return;
        accept_one(s, &peer);
    }
}

static void turn_away(struct client *c)
{
    ipc_session_refuse(c->session, c->refusal.code, c->refusal.sentence);
    snprintf(c->why, sizeof c->why, "refused: %.140s", c->refusal.sentence);
    c->broken = true;
    client_wake(c);
}

/* The hello has come: sizes are known, and whoever is not wanted can be told so. */
static void greet(struct service *s, struct client *c)
{
    struct ipc_sizes sizes;
    uint64_t n_bytes;
    if (!c->counted) {
        turn_away(c);
        return;
    }
    int r = ipc_session_wanted(c->session, &ipc_limits_default, &sizes, &n_bytes);
    if (r == 0 && policy_regions(&s->policy, c->account, n_bytes, &c->refusal) < 0) {
        log_refusal(s, c);
        turn_away(c);
        return;
    }
    if (r == 0)
        c->region_bytes = n_bytes;
    if (r == 0)
        r = ipc_session_open(c->session, &ipc_limits_default, c->number);
    if (r < 0) {
        client_fail(c, r);
        return;
    }
    struct epoll_event event = {.events = ipc_session_epoll_events(c->session),
                                .data.u64 = (uint64_t)(uintptr_t)c | SOURCE_SOCKET};
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, ipc_session_peer(c->session)->fd, &event) < 0) {
        client_fail(c, -errno);
        return;
    }
    c->awake = true;
    client_wake(c);
    struct journal_context context = client_context(c, 0);
    journal_log(JOURNAL_DEBUG, &context, "client %llu connected (uid %u, pid %d)",
                (unsigned long long)c->number, (unsigned)context.uid, (int)context.pid);
}

/* Takes what a client submitted, no more than its turn: what is left is found by the next look. What
 * is answered on the spot is a turn for itself. */
static void take_requests(struct service *s, struct client *c)
{
    for (int i = 0; i < TAKES_MAX && !c->broken; i++) {
        struct ipc_request request;
        int r = ipc_session_take(c->session, &request, s->input, s->input_max);
        if (r < 0)
            client_fail(c, r);
        if (r <= 0)
            return;
        if (request.r.op == IPC_OP_CANCEL)
            engines_cancel(c, request.r.target);
        else
            engines_submit(&s->engines, c, &request);
        if (request_is_look(&request.r))
            return;
    }
}

/* Looks at its ring in every step from now on. */
static void wake_for(struct client *c)
{
    if (!c->awake)
        ipc_session_disarm(c->session);
    c->awake = true;
    c->empty_polls = 0;
    client_wake(c);
}

/* Reads a packet, or what epoll said instead of one. */
static void receive(struct service *s, struct client *c, uint32_t events)
{
    int r = ipc_session_receive(c->session, events);
    c->rung = false;
    if (r < 0)
        client_fail(c, r);
    else if (r == IPC_RECEIVED_HELLO)
        greet(s, c);
    else if (r == IPC_RECEIVED_DOORBELL && ipc_session_is_open(c->session))
        wake_for(c);
}

/* Looks at a client's ring, and falls asleep for it after many looks at nothing. */
static void poll_client(struct service *s, struct client *c)
{
    int r = ipc_session_poll(c->session);
    if (r < 0) {
        client_fail(c, r);
        return;
    }
    if (r & IPC_WANT_ROOM)
        engines_pump(c);
    if (r & (IPC_WANT_RECORDS | IPC_WANT_ROOM))
        take_requests(s, c);
    c->empty_polls = r ? 0 : c->empty_polls + 1;
    if (c->rung)
        receive(s, c,
                EPOLLIN); /* before the ring is armed again, else its next doorbell would be lost */
    if (c->empty_polls < EMPTY_POLLS_MAX || c->broken)
        return;
    c->empty_polls = 0;
    r = ipc_session_arm(c->session);
    if (r < 0)
        client_fail(c, r);
    else
        c->awake = r == 1;
}

static void poll_clients(struct service *s)
{
    for (struct client *c = s->clients.busy; c; c = c->next_busy)
        if (c->awake && !c->broken)
            poll_client(s, c);
}

/* Rings the next client that sleeps and has got something. False where none is left. */
static bool ring_one(void *arg)
{
    struct service *s = arg;
    while (s->ring_next) {
        struct client *c = s->ring_next;
        int r = 0;
        s->ring_next = c->next_busy;
        if (!c->broken && ipc_session_is_open(c->session))
            r = ipc_session_ring(c->session);
        if (r < 0)
            client_fail(c, r);
        client_rest(c); /* only here: whoever rests has got its doorbell */
        if (r > 0)
            return true;
    }
    return false;
}

static void ring_the_rest(struct service *s)
{
    while (ring_one(s))
        ;
}

static void ring_clients(struct service *s)
{
    s->ring_next = s->clients.busy;
    ring_the_rest(s);
}

/* Arms every ring. False where one of them has something already. */
static bool arm_clients(struct service *s)
{
    bool all = true;
    for (struct client *c = s->clients.busy; c; c = c->next_busy) {
        if (!c->awake || c->broken)
            continue;
        int r = ipc_session_arm(c->session);
        if (r < 0)
            client_fail(c, r);
        else if (r == 0)
            c->awake = false;
        all = all && r == 0;
    }
    return all;
}

/* ---- events -------------------------------------------------------------------------------- */

/* A packet or an edge of an open session is a doorbell: the ring is looked at first, and the
 * doorbell, which says no more than that, is read afterwards. */
static void socket_event(struct service *s, struct client *c, uint32_t events)
{
    c->rung = ipc_session_is_open(c->session) && !(events & (EPOLLHUP | EPOLLERR));
    if (c->rung)
        wake_for(c);
    else
        receive(s, c, events);
}

/* SIGTERM: at once, or when the running requests have ended; a second one does not wait. */
static void begin_stop(struct service *s)
{
    s->stop = s->engines.hold != ENGINES_OPEN || s->options->drain_s == 0 ||
              engines_are_idle(&s->engines, false);
    if (s->stop)
        return;
    readiness_stopping();
    journal_event(JOURNAL_STOPPING, JOURNAL_NOTICE, NULL,
                  "stopping: running requests may go on for %u s", s->options->drain_s);
    s->engines.hold = ENGINES_CLOSED;
    s->drain_until_us = engine_now_us() + (uint64_t)s->options->drain_s * 1000000;
    /* Who connects now waits in the listening socket for the next process. */
    if (s->accepting)
        epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->listener.fd, NULL);
    s->accepting = false;
}

static void handle(struct service *s, const struct epoll_event *event)
{
    if (event->data.u64 == DATA_LISTENER) {
        accept_some(s);
    } else if (event->data.u64 == DATA_BURIED) {
        forget_buried(s);
    } else if (event->data.u64 == DATA_SIGNAL) {
        struct signalfd_siginfo info;
        if (read(s->signal_fd, &info, sizeof info) != sizeof info)
            return;
        if (info.ssi_signo == SIGHUP)
            s->reload = true;
        else
            begin_stop(s);
    } else {
        struct client *c = (struct client *)(uintptr_t)(event->data.u64 & ~(uint64_t)SOURCE_MASK);
        if (c->broken)
            return;
        if ((event->data.u64 & SOURCE_MASK) == SOURCE_PROCESS)
            client_fail(c, -ECONNRESET);
        else
            socket_event(s, c, event->events);
    }
}

/* Waits for events (timeout_ms as epoll's) and handles them. Their number. */
static int look_at_sockets(struct service *s, int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(s->epoll_fd, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < n; i++)
        handle(s, &events[i]);
    return n;
}

static void look_at_rings(struct service *s)
{
    reap(s); /* first, so that what the gone held is free for those who ask now */
    poll_clients(s);
    reap(s);
}

/* ---- the loop ------------------------------------------------------------------------------ */

/* Leaves a snapshot for the metrics page: at each rest, and now and then between steps. */
static void publish(struct service *s, bool at_rest)
{
    const uint64_t now = s->metrics ? engine_now_us() : 0;
    if (!s->metrics || (!at_rest && now - s->published_us < PUBLISH_US))
        return;
    struct metrics_snapshot snapshot = {.ring = s->sessions,
                                        .load_done = s->engines.load_done,
                                        .load_total = s->engines.load_total};
    engines_figures(&s->engines, &snapshot.figures);
    for (int i = 0; i < POLICY_N_CAUSES; i++)
        snapshot.refused[i] = s->policy.refused[i].n;
    for (const struct client *c = s->clients.all; c; c = c->next)
        metrics_add_session(&snapshot.ring, c->session);
    s->published_us = now;
    metrics_publish(s->metrics, &snapshot, at_rest);
}

/* "the model", or which of several. Valid until the next call. */
static const char *loading_what(struct service *s)
{
    const struct engines *e = &s->engines;
    if (e->n_loading <= 1)
        return "the model";
    snprintf(s->what, sizeof s->what, "%.60s (%u of %u)", engine_name(e->loading), e->n_loaded + 1,
             e->n_loading);
    return s->what;
}

static int load_progress(void *arg, uint64_t done, uint64_t total)
{
    struct service *s = arg;
    const uint64_t now = engine_now_us();
    /* Parts arrive every half millisecond: an event and a doorbell for each would take time that
     * reading needs. */
    if (done < total && now - s->load_looked_us < LOAD_LOOK_US)
        return 0;
    s->load_looked_us = now;
    engines_load_progress(&s->engines, done, total);
    progress_say(&s->progress, now, loading_what(s), done, total);
    look_at_sockets(s, 0);
    look_at_rings(s);
    ring_clients(s);
    publish(s, false);
    return s->stop ? -ECANCELED : 0;
}

/* Whether no client was there for as long as the options say. Ends the service then. */
static void look_whether_idle(struct service *s)
{
    if (s->options->exit_on_idle_s == 0 || s->clients.n > 0) {
        s->idle_since_us = 0;
    } else if (s->idle_since_us == 0) {
        s->idle_since_us = engine_now_us();
    } else if (engine_now_us() - s->idle_since_us >=
               (uint64_t)s->options->exit_on_idle_s * 1000000) {
        journal_event(JOURNAL_IDLE, JOURNAL_NOTICE, NULL, "idle for %u s",
                      s->options->exit_on_idle_s);
        s->stop = true;
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 ? b : b == 0 || a < b ? a : b;
}

/* Until something is due, in ms, at most `longest` (-1: no bound). */
static int sleep_ms(const struct service *s, int longest)
{
    const uint64_t now = engine_now_us();
    uint64_t deadline = earlier(engines_next_deadline(&s->engines), s->drain_until_us);
    if (s->clients.leaving)
        deadline = earlier(deadline, now + UNDERTAKER_WAIT_MS * 1000);
    if (s->idle_since_us)
        deadline =
            earlier(deadline, s->idle_since_us + (uint64_t)s->options->exit_on_idle_s * 1000000);
    if (!deadline)
        return longest;
    uint64_t ms = deadline > now ? (deadline - now) / 1000 + 1 : 0;
    if (ms > 3600000)
        ms = 3600000;
    return longest >= 0 && ms > (uint64_t)longest ? longest : (int)ms;
}

/* One step. Doorbells for what the step before it posted are rung from inside it, one in each
 * parallel region, while the workers compute: a doorbell costs a system call and an interrupt of
 * another processor, and so none stands between two steps. */
static bool step(struct service *s)
{
    s->ring_next = s->clients.busy;
    s->n_looks = 0;
    ops_pool_set_aside(s->engines.shared.pool, ring_one, s);
    bool stepped = engines_step(&s->engines);
    ops_pool_set_aside(s->engines.shared.pool, NULL, NULL);
    ring_the_rest(s); /* without a step: all of them */
    return stepped;
}

/* Inside a step, between two layers: what came in counts now. Clients that broke are closed after
 * the step. */
static void look_inside(void *arg)
{
    struct service *s = arg;
    if (watcher_saw(&s->watcher))
        look_at_sockets(s, 0);
    if (++s->n_looks > LOOKS_BEFORE_WATCH)
        watcher_watch(&s->watcher);
    poll_clients(s);
}

/* Sleeps until something happens or is due. Every ring is armed. */
static void rest(struct service *s)
{
    watcher_call_off(&s->watcher);
    publish(s, true);
    s->n_steps = 0;
    look_at_sockets(s, sleep_ms(s, readiness_grace_ms(&s->readiness, engine_now_us())));
    s->looked = true;
    if (readiness_grace_ms(&s->readiness, engine_now_us()) == 0)
        readiness_rest(&s->readiness);
}

static void say_ready(const struct service *s)
{
    for (uint32_t i = 0; i < s->engines.n; i++) {
        const struct engine *e = s->engines.all[i];
        const struct journal_context context = {.model = engine_name(e)};
        journal_event(JOURNAL_WEIGHTS, JOURNAL_INFO, &context, "%s", model_load_notes(e->model));
        journal_event(JOURNAL_READY, JOURNAL_NOTICE, &context,
                      "ready: %s (%s), context %u, %u threads, %s, listening on %s", engine_name(e),
                      model_type_summary(e->model), e->context, ops_pool_n_threads(e->pool),
                      ops_isa_name(ops_isa()),
                      s->listener.path ? s->listener.path : "systemd's socket");
    }
    readiness_ready();
    readiness_status("Serving");
}

static int load(struct service *s, const struct options_models *models, char *why, size_t why_size)
{
    readiness_status(models->n > 1 ? "Loading the models" : "Loading the model");
    progress_init(&s->progress);
    s->settled = false;
    int r = engines_load(&s->engines, models, s->input_max, load_progress, s, why, why_size);
    progress_done(&s->progress);
    if (r < 0)
        return r;
    s->options->models = *models;
    engines_loaded(&s->engines);
    ring_clients(s);
    say_ready(s);
    return 0;
}

/* What was running on the models that go has ended: the others, or those before them where that
 * fails. */
static void change_models(struct service *s)
{
    char why[WHY_SIZE] = "";
    const struct options_models next = s->next;
    s->next.n = 0;
    readiness_rest(&s->readiness); /* loading is not a step */
    if (load(s, &next, why, sizeof why) == 0 || s->stop)
        return;
    journal_event(JOURNAL_FAILED, JOURNAL_ERROR, NULL, "%s", why);
    journal_log(JOURNAL_WARNING, NULL, "going back to %s%s", s->options->models.all[0].path,
                s->options->models.n > 1 ? " and the others" : "");
    why[0] = 0;
    if (load(s, &s->options->models, why, sizeof why) < 0 && !s->stop) {
        journal_event(JOURNAL_FAILED, JOURNAL_ERROR, NULL, "%s", why);
        s->code = EXIT_NO_INPUT;
        s->stop = true;
    }
}

/* SIGHUP. A wrong configuration leaves everything as it is. */
static void reload(struct service *s)
{
    char why[512] = "";
    s->reload = false;
    if (s->engines.hold == ENGINES_CLOSED)
        return;
    readiness_reloading();
    const bool was_waiting = s->next.n > 0;
    if (reload_options(s->options, &s->policy, s->argc, s->argv, &s->next, why, sizeof why) < 0) {
        journal_event(JOURNAL_RELOAD_FAILED, JOURNAL_ERROR, NULL, "reload: %s Nothing was changed.",
                      why);
        readiness_status("Serving; the last reload failed, see the journal");
        readiness_ready();
        return;
    }
    journal_init(journal_level_of(s->options->verbose));
    if (s->next.n == 0 && was_waiting) { /* changed back before the others were loaded */
        s->drain_until_us = 0;
        engines_hold(&s->engines, &s->options->models);
        engines_loaded(&s->engines);
    }
    if (s->next.n == 0) {
        readiness_status("Serving");
        readiness_ready();
        return;
    }
    engines_hold(&s->engines, &s->next);
    engines_loaded(&s->engines); /* who waited for a model that stays after all */
    const uint64_t wait_s = s->options->drain_s ? s->options->drain_s : MODEL_DRAIN_S;
    s->drain_until_us = engine_now_us() + wait_s * 1000000;
}

/* A model is to be changed, or the service to stop: nothing runs any more. */
static bool is_drained(const struct service *s)
{
    return s->drain_until_us && engines_are_idle(&s->engines, s->engines.hold != ENGINES_CLOSED);
}

static void drain(struct service *s)
{
    if (engine_now_us() >= s->drain_until_us)
        engines_stop(&s->engines, false,
                     s->next.n ? "The model is being changed; send the request again."
                               : "The service is stopping; send the request again when it is "
                                 "back.");
    if (!is_drained(s))
        return;
    s->drain_until_us = 0;
    if (s->engines.hold == ENGINES_CLOSED)
        s->stop = true;
    else
        change_models(s);
}

/* Looks after the memory that is still populated behind the first steps; without it nothing can be
 * computed. */
static void settle(struct service *s)
{
    char why[512] = "";
    int r = engines_settle(&s->engines, why, sizeof why);
    if (why[0])
        journal_log(r < 0 ? JOURNAL_ERROR : JOURNAL_INFO, NULL, "KV cache: %s", why);
    s->settled = r == 0;
    if (r < 0) {
        s->code = EXIT_MACHINE;
        s->stop = true;
    }
}

static void serve(struct service *s)
{
    while (!s->stop) {
        if (!s->settled)
            settle(s);
        if (s->reload)
            reload(s);
        if (s->drain_until_us)
            drain(s);
        /* Within a run of steps the watcher says when to look: no system call. */
        if (!s->looked && (s->n_steps < STEPS_BEFORE_WATCH || watcher_saw(&s->watcher)))
            look_at_sockets(s, 0);
        s->looked = false;
        look_at_rings(s);
        engines_expire(&s->engines);
        if (engines_are_runnable(&s->engines))
            readiness_work(&s->readiness, engine_now_us());
        bool stepped = step(s);
        if (stepped && s->n_steps < STEPS_BEFORE_WATCH)
            s->n_steps++;
        if (stepped)
            publish(s, false);
        else
            look_whether_idle(s);
        if (!stepped && !s->stop && !s->reload && !is_drained(s) && arm_clients(s))
            rest(s);
        else if (s->n_steps == STEPS_BEFORE_WATCH)
            watcher_watch(&s->watcher);
    }
}

/* Ends every request. What was posted last stays in the memory that clients still map, so that they
 * read their final events after the hang-up. */
static void wind_down(struct service *s)
{
    readiness_stopping();
    engines_stop(&s->engines, true,
                 "The service is stopping; send the request again when it is back.");
    ring_clients(s);
    while (s->clients.all) {
        s->clients.all->leave = true;
        close_client(s, s->clients.all);
    }
    for (int i = 0; s->clients.leaving && i < UNDERTAKER_WAITS_MAX; i++) {
        struct pollfd buried = {.fd = s->undertaker.bodies_fd, .events = POLLIN};
        (void)poll(&buried, 1, UNDERTAKER_WAIT_MS);
        forget_buried(s);
    }
}

/* ---- start and end ------------------------------------------------------------------------- */

static int open_descriptors(struct service *s, char *why, size_t why_size)
{
    sigset_t signals;
    struct rlimit limit;
    int r = listener_open(&s->listener, s->options->socket, why, why_size);
    if (r < 0)
        return r;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) { /* a client takes a few */
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: they inherit it */
    s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->signal_fd < 0 || s->epoll_fd < 0 || watch(s, s->signal_fd, DATA_SIGNAL) < 0 ||
        watch(s, s->undertaker.bodies_fd, DATA_BURIED) < 0 ||
        watch(s, s->listener.fd, DATA_LISTENER) < 0) {
        r = -errno;
        snprintf(why, why_size, "The event loop cannot be set up: %s.", strerror(-r));
        return r;
    }
    s->accepting = true;
    r = watcher_init(&s->watcher, s->epoll_fd);
    if (r < 0)
        snprintf(why, why_size, "The watching thread cannot be started: %s.", strerror(-r));
    return r;
}

static void close_descriptors(struct service *s)
{
    ipc_listener_done(&s->listener);
    watcher_done(&s->watcher);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->signal_fd >= 0)
        close(s->signal_fd);
}

int service_run(struct options *options, int argc, char **argv)
{
    char why[WHY_SIZE] = "";
    struct service s = {
        .options = options,
        .argc = argc,
        .argv = argv,
        .listener = {.fd = -1, .lock_fd = -1},
        .undertaker = IPC_UNDERTAKER_NONE,
        .policy = {.connections_max = options->connections, .base = policy_limits_default},
        .input_max = ipc_limits_default.max.request_bytes,
        .epoll_fd = -1,
        .signal_fd = -1,
    };
    signal(SIGPIPE, SIG_IGN);
    s.policy.base.connections = options->connections_per_user;
    s.policy.base.requests = options->requests_per_user;
    if (policy_reload(&s.policy, options->policy, why, sizeof why) < 0) {
        journal_log(JOURNAL_ERROR, NULL, "%s", why);
        return EXIT_USAGE;
    }
    if (options->isa && ops_isa_select(options->isa) < 0) {
        policy_done(&s.policy);
        journal_log(JOURNAL_ERROR, NULL,
                    "QUERN_ISA=%.40s is unknown or not to be had on this machine; unset it.",
                    options->isa);
        return EXIT_USAGE;
    }
    s.input = malloc(s.input_max);
    int r = s.input ? ipc_undertaker_start(&s.undertaker) : -ENOMEM;
    if (r == 0)
        r = open_descriptors(&s, why, sizeof why);
    if (r == 0)
        r = metrics_new(&s.metrics, options->metrics, why, sizeof why);
    if (r == 0)
        r = engines_init(&s.engines, options, &s.policy, &s.clients, why, sizeof why);
    s.engines.shared.look = look_inside;
    s.engines.shared.look_arg = &s;
    if (r < 0) {
        journal_event(JOURNAL_FAILED, JOURNAL_ERROR, NULL, "%s", why[0] ? why : strerror(-r));
        s.code = EXIT_MACHINE;
        goto close;
    }
    readiness_init(&s.readiness);
    for (uint32_t i = 0; i < options->models.n; i++)
        journal_event(JOURNAL_STARTING, JOURNAL_INFO, NULL, "quernd %s starts with %s",
                      QUERN_VERSION, options->models.all[i].path);
    r = load(&s, &options->models, why, sizeof why);
    if (r < 0 && !s.stop) {
        journal_event(JOURNAL_FAILED, JOURNAL_ERROR, NULL, "%s", why);
        s.code = r == -ENOMEM                                     ? EXIT_MACHINE
                 : r == -EEXIST                                   ? EXIT_USAGE
                 : r == -EBADMSG || r == -ENOTSUP || r == -EINVAL ? EXIT_BAD_DATA
                                                                  : EXIT_NO_INPUT;
    } else {
        serve(&s);
        journal_event(JOURNAL_STOPPING, JOURNAL_NOTICE, NULL, "stopping");
    }
    wind_down(&s);
    engines_done(&s.engines);
close:
    metrics_free(s.metrics);
    close_descriptors(&s);
    ipc_undertaker_stop(&s.undertaker);
    (void)bury_leaving(&s);
    while (s.clients.buried)
        client_free(s.clients.buried);
    policy_done(&s.policy);
    free(s.input);
    return s.code;
}
