/* A service without a model: see echo_service.h. */
#define _GNU_SOURCE
#include "tests/support/echo_service.h"
#include "ipc/request.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEQUENCES_MAX 128

struct sequence {
    uint64_t id;
    uint16_t op;
    uint32_t index, total;
    uint8_t *input; /* (input_bytes) */
    uint32_t input_bytes;
    bool accepted, cancelled;
};

struct client {
    struct ipc_session *session;
    struct sequence sequences[SEQUENCES_MAX];
    unsigned n;
    bool asleep; /* armed: not polled before its next doorbell */
    bool parked;
};

struct echo_service {
    struct echo_options options;
    struct ipc_listener listener;
    struct ipc_undertaker undertaker;
    int epoll, stop;
    struct client *clients[1024];
    unsigned n_clients;
    uint64_t next_session;
    uint8_t *buffer;
    size_t capacity;
    struct echo_counts counts;
};

static void check(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "echo service: %s: %s\n", what, strerror(errno));
        abort();
    }
}

static void watch(struct echo_service *echo, int fd, int how, uint32_t events, void *ptr)
{
    struct epoll_event event = {.events = events, .data.ptr = ptr};

    check(epoll_ctl(echo->epoll, how, fd, &event) == 0, "epoll_ctl");
}

struct echo_service *echo_new(const struct echo_options *options)
{
    struct echo_service *echo = calloc(1, sizeof(*echo));
    char why[200];

    check(echo != NULL, "memory");
    echo->options = *options;
    if (echo->options.events_per_round == 0)
        echo->options.events_per_round = 4;
    if (echo->options.sessions_max == 0)
        echo->options.sessions_max = 64;
    check(ipc_undertaker_start(&echo->undertaker) == 0, "undertaker");
    if (ipc_listener_init(&echo->listener, options->path, 0600, why, sizeof(why)) < 0)
        check(false, why);
    if (options->takes_descriptors) {
        const int yes = 1;

        (void)setsockopt(echo->listener.fd, SOL_SOCKET, SO_PASSRIGHTS, &yes, sizeof(yes));
    }
    echo->epoll = epoll_create1(EPOLL_CLOEXEC);
    echo->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    check(echo->epoll >= 0 && echo->stop >= 0, "descriptors");
    watch(echo, echo->listener.fd, EPOLL_CTL_ADD, EPOLLIN, &echo->listener);
    watch(echo, echo->stop, EPOLL_CTL_ADD, EPOLLIN, &echo->stop);
    watch(echo, echo->undertaker.bodies_fd, EPOLL_CTL_ADD, EPOLLIN, &echo->undertaker);
    echo->capacity = options->limits.max.request_bytes;
    echo->buffer = malloc(echo->capacity);
    check(echo->buffer != NULL, "memory");
    return echo;
}

static void count_buried(struct echo_service *echo)
{
    uint64_t tag;

    while (ipc_undertaker_buried(&echo->undertaker, &tag) > 0)
        __atomic_fetch_add(&echo->counts.buried, 1, __ATOMIC_RELAXED);
}

static void drop_client(struct echo_service *echo, struct client *c, int why)
{
    if (why == -EPROTO)
        echo->counts.violations++;
    else
        echo->counts.hang_ups++;
    for (unsigned i = 0; i < c->n; i++)
        free(c->sequences[i].input);
    epoll_ctl(echo->epoll, EPOLL_CTL_DEL, ipc_session_peer(c->session)->fd, NULL);
    int r;
    while ((r = ipc_session_bury(c->session, &echo->undertaker, true, 0)) == -EAGAIN) {
        usleep(1000);
        count_buried(echo);
    }
    check(r == 0, "undertaker");
    for (unsigned i = 0; i < echo->n_clients; i++)
        if (echo->clients[i] == c)
            echo->clients[i] = echo->clients[--echo->n_clients];
    free(c);
}

static void accept_client(struct echo_service *echo)
{
    struct ipc_peer peer;
    int r = ipc_accept(echo->listener.fd, &peer);

    if (r < 0)
        return;
    struct client *c = calloc(1, sizeof(*c));
    check(c != NULL && echo->n_clients < 1024, "clients");
    check(ipc_session_new(&c->session, &peer) == 0, "session");
    c->asleep = true;
    echo->clients[echo->n_clients++] = c;
    echo->counts.accepted++;
    watch(echo, peer.fd, EPOLL_CTL_ADD, EPOLLIN, c);
}

/* Steps one sequence by one event. 0, 1 when it ended, -EAGAIN, -EPROTO. */
static int step(struct echo_service *echo, struct client *c, struct sequence *q)
{
    struct ipc_event_record e = {.id = q->id};
    uint32_t ids[256];
    const void *data = NULL;
    size_t n = 0;
    int r;

    if (!q->accepted) {
        e.type = IPC_EVENT_ACCEPTED;
        r = ipc_session_post(c->session, &e, NULL, 0);
        q->accepted = r == 0;
        return r;
    }
    if (q->cancelled || q->index == q->total || q->op == IPC_OP_DETOKENIZE ||
        q->op == IPC_OP_SCORE || q->op == IPC_OP_EMBED || q->op == IPC_OP_INFO) {
        bool unsupported = q->op >= IPC_OP_DETOKENIZE && q->op <= IPC_OP_INFO;

        e.u.final.reason = q->cancelled               ? IPC_REASON_CANCELLED
                           : unsupported              ? IPC_REASON_FAILED
                           : q->op == IPC_OP_GENERATE ? IPC_REASON_LENGTH
                                                      : IPC_REASON_DONE;
        e.u.final.code = unsupported ? IPC_CODE_UNSUPPORTED : IPC_CODE_OK;
        e.u.final.prompt_tokens = q->input_bytes;
        e.u.final.generated = q->index;
        r = ipc_session_finish(c->session, &e, unsupported ? "The echo cannot do that." : NULL);
        echo->counts.finals++;
        return r < 0 ? r : 1;
    }
    if (q->op == IPC_OP_GENERATE) {
        e.type = IPC_EVENT_TOKEN;
        e.u.token.token = q->input[q->index % q->input_bytes];
        e.u.token.logprob = -(float)q->index;
        e.u.token.index = q->index;
        data = &q->input[q->index % q->input_bytes];
        n = 1;
    } else if (q->op == IPC_OP_TOKENIZE) {
        e.type = IPC_EVENT_DATA;
        e.u.data.kind = IPC_DATA_IDS;
        for (n = 0; n < 256 && q->index + n < q->total; n++)
            ids[n] = q->input[q->index + n];
        e.u.data.index = q->index * sizeof(uint32_t);
        e.u.data.total = q->total * sizeof(uint32_t);
        data = ids;
    } else {
        e.type = IPC_EVENT_DATA;
        e.u.data.kind = IPC_DATA_TEXT;
        data = "echo=1\n";
        n = 7;
    }
    r = ipc_session_post(c->session, &e, data, q->op == IPC_OP_TOKENIZE ? n * sizeof(uint32_t) : n);
    if (r == 0)
        q->index += q->op == IPC_OP_TOKENIZE ? (uint32_t)n : 1;
    return r;
}

/* Takes what was submitted. The number taken, or -errno. */
static int take_all(struct echo_service *echo, struct client *c)
{
    struct ipc_request request;
    int taken = 0, r = 0;

    while (c->n < SEQUENCES_MAX &&
           (r = ipc_session_take(c->session, &request, echo->buffer, echo->capacity)) > 0) {
        taken++;
        if (request.r.op == IPC_OP_CANCEL) {
            for (unsigned i = 0; i < c->n; i++)
                if (c->sequences[i].id == request.r.target)
                    c->sequences[i].cancelled = true;
            continue;
        }
        struct sequence *q = &c->sequences[c->n++];
        *q = (struct sequence){.id = request.r.id, .op = request.r.op};
        uint32_t head = 0; /* of segments: counts and lengths */
        if (request.r.input == IPC_INPUT_SEGMENTS)
            head =
                (uint32_t)(sizeof(uint32_t) + ipc_chat_count(request.input, request.r.input_bytes) *
                                                  sizeof(struct ipc_chat_entry));
        q->input_bytes = request.r.input_bytes - head;
        q->input = malloc(q->input_bytes + 1);
        check(q->input != NULL, "memory");
        memcpy(q->input, request.input + head, q->input_bytes);
        q->total = request.r.op == IPC_OP_STATUS ? 1 : q->input_bytes;
        if (q->input_bytes > 0 && (request.r.given & IPC_GIVEN_MAX_TOKENS) != 0)
            q->total = request.r.max_tokens;
    }
    return r < 0 ? r : taken;
}

/* One round for one client: 1 something happened, 0 nothing, -errno. */
static int serve(struct echo_service *echo, struct client *c)
{
    int work = 0;
    int looked = ipc_session_poll(c->session);

    if (looked < 0)
        return looked;
    if ((looked & (int)IPC_WANT_ROOM) != 0)
        c->parked = false;
    if ((looked & (int)IPC_WANT_RECORDS) != 0) {
        int taken = take_all(echo, c);

        if (taken < 0)
            return taken;
        work |= taken > 0;
    }
    for (unsigned i = 0; !c->parked && i < c->n;) {
        int r = 0;

        for (unsigned k = 0; k < echo->options.events_per_round && r == 0; k++)
            r = step(echo, c, &c->sequences[i]);
        if (r == -EAGAIN) {
            c->parked = true;
        } else if (r < 0) {
            return r;
        } else {
            work = 1;
            if (r == 1) {
                free(c->sequences[i].input);
                c->sequences[i] = c->sequences[--c->n];
            } else {
                i++;
            }
        }
    }
    int rung = ipc_session_ring(c->session);
    return rung < 0 ? rung : work;
}

static void wake_client(struct echo_service *echo, struct client *c, uint32_t events)
{
    int r = ipc_session_receive(c->session, events);

    if (r == IPC_RECEIVED_HELLO && echo->n_clients > echo->options.sessions_max) {
        ipc_session_refuse(c->session, IPC_CODE_BUSY, "The echo serves too many already.");
        r = -ECONNRESET;
    } else if (r == IPC_RECEIVED_HELLO) {
        r = ipc_session_open(c->session, &echo->options.limits, ++echo->next_session);
        if (r == 0)
            watch(echo, ipc_session_peer(c->session)->fd, EPOLL_CTL_MOD,
                  ipc_session_epoll_events(c->session), c);
    }
    if (r < 0) {
        drop_client(echo, c, r);
    } else if (r == IPC_RECEIVED_DOORBELL) {
        ipc_session_disarm(c->session);
        c->asleep = false;
    }
}

/* Serves all that are awake; puts to sleep those with nothing to do. Any left awake? */
static bool serve_all(struct echo_service *echo, unsigned *empty_rounds)
{
    bool worked = false, awake = false;

    for (unsigned i = echo->n_clients; i-- > 0;) {
        struct client *c = echo->clients[i];

        if (c->asleep)
            continue;
        int r = serve(echo, c);
        if (r < 0)
            drop_client(echo, c, r);
        else if (r > 0)
            worked = true;
    }
    *empty_rounds = worked ? 0 : *empty_rounds + 1;
    if (*empty_rounds <= echo->options.spin_rounds)
        return true;
    for (unsigned i = echo->n_clients; i-- > 0;) {
        struct client *c = echo->clients[i];

        if (c->asleep)
            continue;
        int r = ipc_session_arm(c->session);
        if (r < 0)
            drop_client(echo, c, r);
        else if (r == 0)
            c->asleep = true;
        else
            awake = true;
    }
    return awake;
}

void echo_run(struct echo_service *echo, bool until_idle)
{
    unsigned empty_rounds = 0;
    bool awake = false, stop = false;

    while (!stop) {
        struct epoll_event events[32];
        int n = epoll_wait(echo->epoll, events, 32, awake ? 0 : -1);

        check(n >= 0 || errno == EINTR, "epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &echo->stop)
                stop = true;
            else if (events[i].data.ptr == &echo->listener)
                accept_client(echo);
            else if (events[i].data.ptr == &echo->undertaker)
                count_buried(echo);
            else
                wake_client(echo, events[i].data.ptr, events[i].events);
        }
        awake = serve_all(echo, &empty_rounds);
        if (until_idle && echo->n_clients == 0 && echo->counts.accepted > 0)
            stop = true;
    }
}

void echo_stop(struct echo_service *echo)
{
    uint64_t one = 1;

    (void)!write(echo->stop, &one, sizeof(one));
}

const struct echo_counts *echo_counts(const struct echo_service *echo)
{
    return &echo->counts;
}

unsigned long echo_n_buried(const struct echo_service *echo)
{
    return __atomic_load_n(&echo->counts.buried, __ATOMIC_RELAXED);
}

void echo_free(struct echo_service *echo)
{
    while (echo->n_clients > 0)
        drop_client(echo, echo->clients[0], -ECONNRESET);
    ipc_undertaker_stop(&echo->undertaker);
    ipc_listener_done(&echo->listener);
    close(echo->epoll);
    close(echo->stop);
    free(echo->buffer);
    free(echo);
}
