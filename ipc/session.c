/* The service's side of one client: see session.h. */
#include "ipc/session.h"
#include "ipc/region.h"
#include "ipc/request.h"
#include "ipc/ring.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Bad requests answered in one call: a client that floods us gets no more of the engine's time than
 * that before the others have their turn. */
#define ANSWERS_PER_CALL 16

enum state {
    STATE_CONNECTED, /* waits for the hello */
    STATE_HELLO,     /* the caller decides */
    STATE_OPEN,
    STATE_BROKEN, /* a violation, a hang-up or a refusal: nothing more is read */
};

struct ipc_session {
    struct ipc_peer peer;
    enum state state;
    struct ipc_hello hello;
    struct ipc_welcome plan; /* the layout in force */
    struct ipc_region request, reply;
    struct ipc_in submit;
    struct ipc_out events;
    struct ipc_bytes_out bytes;
    struct ipc_want want; /* what we sleep for */
    struct ipc_bell bell; /* what the client sleeps for */
    uint64_t last_id;     /* ids rise, so none is used twice */
    uint64_t *in_flight;  /* (plan.requests_max) ids, n_in_flight of them used */
    uint32_t n_in_flight;
    bool is_settled; /* the request region is mapped */
    bool parked;     /* a post found no room; the heads were: */
    uint64_t parked_event_head, parked_reply_head;
    bool held; /* a submission waits for room for its final event */
    struct ipc_session_counters counters;
    char why[IPC_SENTENCE_MAX];
};

__attribute__((format(printf, 2, 3))) static int violation(struct ipc_session *s,
                                                           const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(s->why, sizeof(s->why), format, args);
    va_end(args);
    s->state = STATE_BROKEN;
    return -EPROTO;
}

/* Points what is in the request region at it, everything at zero as the memory is. */
static void attach_request(struct ipc_session *s)
{
    volatile struct ipc_request_words *theirs = (void *)s->request.base;

    s->submit.tail = &theirs->submit_tail;
    s->submit.slots = s->request.base + s->plan.submit_offset;
    s->events.head = &theirs->event_head;
    s->bytes.head = &theirs->reply_head;
    s->bell = (struct ipc_bell){.word = &theirs->client_wants};
}

/* Before anything in the request region is looked at: 1 it may be; 0: not yet, since the client has not
 * sealed it, and could make whoever looks wait; -errno: it cannot be mapped. */
static int settle(struct ipc_session *s)
{
    if (s->is_settled || !ipc_region_is_sealed(s->request.fd))
        return s->is_settled;
    int r = ipc_region_map_sealed(&s->request, s->plan.request_offset);
    if (r < 0)
        return r;
    attach_request(s);
    s->is_settled = true;
    return 1;
}

/* ---- Life ---------------------------------------------------------------------------------------- */

int ipc_session_new(struct ipc_session **ret, const struct ipc_peer *peer)
{
    struct ipc_session *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        close(peer->fd);
        if (peer->pidfd >= 0)
            close(peer->pidfd);
        return -ENOMEM;
    }
    s->peer = *peer;
    s->request = s->reply = IPC_REGION_NONE;
    *ret = s;
    return 0;
}

void ipc_session_free(struct ipc_session *s)
{
    if (s == NULL)
        return;
    (void)ipc_region_punch(s->request.fd); /* there may be none, or a sealed one */
    (void)ipc_region_punch(s->reply.fd);
    ipc_session_leave(s);
}

void ipc_session_leave(struct ipc_session *s)
{
    if (s == NULL)
        return;
    ipc_region_done(&s->request);
    ipc_region_done(&s->reply);
    close(s->peer.fd);
    if (s->peer.pidfd >= 0)
        close(s->peer.pidfd);
    free(s->in_flight);
    free(s);
}

int ipc_session_bury(struct ipc_session *s, const struct ipc_undertaker *undertaker, bool punch,
                     uint64_t tag)
{
    int fds[IPC_FDS_MAX] = {s->peer.fd, s->request.fd, s->reply.fd};
    bool regions = punch && s->request.fd >= 0 && s->reply.fd >= 0;

    /* The client is told now, whatever the undertaker waits for. */
    (void)shutdown(s->peer.fd, SHUT_RDWR);
    int r = ipc_undertaker_give(undertaker, fds, regions ? 3 : 1, tag);
    if (r == -EAGAIN)
        return r;
    if (r < 0) {
        (punch ? ipc_session_free : ipc_session_leave)(s);
        return r;
    }
    ipc_session_leave(s);
    return ipc_undertaker_go(undertaker);
}

const struct ipc_peer *ipc_session_peer(const struct ipc_session *s)
{
    return &s->peer;
}

bool ipc_session_is_open(const struct ipc_session *s)
{
    return s->state == STATE_OPEN;
}

const char *ipc_session_why(const struct ipc_session *s)
{
    return s->why;
}

uint32_t ipc_session_in_flight(const struct ipc_session *s)
{
    return s->n_in_flight;
}

size_t ipc_session_input_max(const struct ipc_session *s)
{
    return s->plan.request_bytes;
}

const struct ipc_session_counters *ipc_session_counters(const struct ipc_session *s)
{
    return &s->counters;
}

/* ---- Handshake and doorbells ---------------------------------------------------------------------- */

/* n_early: so many may come before the region is sealed. */
static int receive_doorbell(struct ipc_session *s, uint64_t n_early)
{
    int r = settle(s);

    if (s->counters.doorbells_received++ >= n_early && r == 0)
        return violation(s, "The client rang before it sealed its request region "
                            "(F_SEAL_FUTURE_WRITE, F_SEAL_SEAL).");
    return r < 0 ? r : IPC_RECEIVED_DOORBELL;
}

static int receive_packet(struct ipc_session *s, const void *packet, size_t n)
{
    switch (s->state) {
    case STATE_CONNECTED:
        if (ipc_hello_check(packet, n, &s->hello, s->why, sizeof(s->why)) < 0) {
            s->state = STATE_BROKEN;
            return -EPROTO;
        }
        s->state = STATE_HELLO;
        return IPC_RECEIVED_HELLO;
    case STATE_OPEN:
        if (n != 1 || *(const uint8_t *)packet != IPC_DOORBELL)
            return violation(s, "The client sent a packet of %zu bytes that is no doorbell.", n);
        return receive_doorbell(s, 0);
    default:
        return violation(s, "The client spoke before it was answered.");
    }
}

static int hung_up(struct ipc_session *s)
{
    snprintf(s->why, sizeof(s->why), "The client hung up.");
    s->state = STATE_BROKEN;
    return -ECONNRESET;
}

/* In force: only the welcome says so. */
static bool has_shut_bell(const struct ipc_session *s)
{
    return (s->plan.features & IPC_FEATURE_SHUT_BELL) != 0;
}

uint32_t ipc_session_epoll_events(const struct ipc_session *s)
{
    return s->state == STATE_OPEN && has_shut_bell(s) ? IPC_SHUT_BELL_SERVICE : EPOLLIN;
}

/* An edge came. */
static int receive_edge(struct ipc_session *s, uint32_t epoll_events)
{
    if ((epoll_events & (EPOLLHUP | EPOLLERR)) != 0)
        return hung_up(s);
    /* epoll makes one of its own when it is told to watch for them */
    return receive_doorbell(s, 1);
}

int ipc_session_receive(struct ipc_session *s, uint32_t epoll_events)
{
    uint8_t packet[sizeof(struct ipc_hello)];

    if (s->state == STATE_BROKEN)
        return -ECONNRESET;
    if (s->state == STATE_OPEN && has_shut_bell(s))
        return receive_edge(s, epoll_events);
    ssize_t n = ipc_receive_bare(s->peer.fd, packet, sizeof(packet));
    if (n == -EAGAIN)
        return IPC_RECEIVED_NOTHING;
    if (n == -EBADMSG)
        return violation(s, "The client sent file descriptors; clients send none.");
    if (n <= 0)
        return hung_up(s);
    return receive_packet(s, packet, (size_t)n);
}

int ipc_session_wanted(const struct ipc_session *s, const struct ipc_limits *limits,
                       struct ipc_sizes *ret, uint64_t *ret_bytes)
{
    struct ipc_welcome plan;

    if (s->state != STATE_HELLO)
        return -EINVAL;
    ipc_plan_sizes(&s->hello, limits, ret);
    ipc_plan_welcome(ret, limits->requests_max, IPC_VERSION_MAX, 0, 0, &plan);
    *ret_bytes = plan.request_size + plan.reply_size;
    return 0;
}

/* Points what is in the reply region at it; the rest follows when the client has sealed its own. */
static void attach_reply(struct ipc_session *s)
{
    const struct ipc_welcome *plan = &s->plan;
    volatile struct ipc_reply_words *ours = (void *)s->reply.base;

    s->submit = (struct ipc_in){
        .head = &ours->submit_head,
        .entries = plan->submit_entries,
        .stride = plan->submit_stride,
    };
    s->events = (struct ipc_out){
        .tail = &ours->event_tail,
        .slots = s->reply.base + plan->event_offset,
        .entries = plan->event_entries,
        .stride = plan->event_stride,
    };
    s->bytes = (struct ipc_bytes_out){
        .base = s->reply.base + plan->reply_offset,
        .size = plan->reply_bytes,
    };
    s->want = (struct ipc_want){.word = &ours->service_wants};
}

int ipc_session_open(struct ipc_session *s, const struct ipc_limits *limits, uint64_t session_id)
{
    uint16_t version = ipc_hello_version(&s->hello);
    struct ipc_sizes sizes;
    int fds[2] = {-1, -1}, r;

    if (s->state != STATE_HELLO)
        return -EINVAL;
    if (version == 0) {
        r = violation(s, "This service speaks protocol %u to %u, the client %u to %u.",
                      IPC_VERSION_MIN, IPC_VERSION_MAX, s->hello.version_min, s->hello.version_max);
        ipc_session_refuse(s, IPC_CODE_VERSION, s->why);
        return r;
    }
    ipc_plan_sizes(&s->hello, limits, &sizes);
    uint64_t features = s->hello.features & IPC_FEATURES;
    if (!ipc_bell_shut_works())
        features &= ~IPC_FEATURE_SHUT_BELL;
    ipc_plan_welcome(&sizes, limits->requests_max, version, features, session_id, &s->plan);
    s->in_flight = calloc(s->plan.requests_max, sizeof(*s->in_flight));
    if (s->in_flight == NULL)
        return -ENOMEM;
    r = ipc_region_make(&s->request, "quern-request", s->plan.request_size, s->plan.request_offset,
                        IPC_CLIENT_WRITES);
    if (r == 0)
        r = ipc_region_make(&s->reply, "quern-reply", s->plan.reply_size, s->plan.reply_offset,
                            IPC_SERVICE_WRITES);
    if (r == 0)
        r = fds[0] = ipc_region_open_for_client(&s->request, IPC_CLIENT_WRITES);
    if (r >= 0)
        r = fds[1] = ipc_region_open_for_client(&s->reply, IPC_SERVICE_WRITES);
    if (r < 0)
        goto close_fds;
    r = 0;
    attach_reply(s);
    /* An open session is asleep until its first doorbell: nobody needs to poll it before. */
    ipc_want_arm(&s->want, IPC_WANT_RECORDS);
    if (has_shut_bell(s)) /* nothing follows the hello */
        r = ipc_bell_shut(s->peer.fd, SHUT_RD);
    if (r == 0)
        r = ipc_send(s->peer.fd, &s->plan, sizeof(s->plan), fds, 2);
    if (r < 0)
        goto close_fds;
    close(fds[0]);
    close(fds[1]);
    s->state = STATE_OPEN;
    return 0;

close_fds: /* what else was made is freed with the session */
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    snprintf(s->why, sizeof(s->why), "Cannot set up the client's memory: %s.", strerror(-r));
    s->state = STATE_BROKEN;
    return r;
}

void ipc_session_refuse(struct ipc_session *s, enum ipc_code code, const char *sentence)
{
    struct ipc_refusal refusal;

    ipc_plan_refusal(code, sentence, &refusal);
    /* The socket of a client that has got nothing yet has room; if not, it sees the hang-up. */
    (void)ipc_send(s->peer.fd, &refusal, sizeof(refusal), NULL, 0);
    s->state = STATE_BROKEN;
}

/* ---- Events ---------------------------------------------------------------------------------------- */

/* Room for these, beside a slot and a sentence for the final event of each of n_finals requests? */
static int room_beside(struct ipc_session *s, uint32_t n_finals, uint64_t n_events,
                       uint64_t n_bytes)
{
    int r = settle(s);

    if (r > 0)
        r = ipc_out_has_room(&s->events, n_finals + n_events);
    if (r > 0)
        r = ipc_bytes_out_has_room(&s->bytes, (uint64_t)n_finals * IPC_SENTENCE_MAX + n_bytes);
    if (r == -EPROTO)
        return violation(s, "The client says it has read events that were never written.");
    return r;
}

static void put_event(struct ipc_session *s, const struct ipc_event_record *event, const void *data,
                      uint32_t n)
{
    struct ipc_event_record record = *event;

    record.bytes = n;
    record.pos = ipc_bytes_out_put(&s->bytes, data, n);
    ipc_out_put(&s->events, &record, sizeof(record));
    ipc_out_publish(&s->events);
    ipc_bell_moved(&s->bell, IPC_WANT_RECORDS);
    s->counters.events++;
    s->counters.bytes_out += n;
}

static int find_in_flight(const struct ipc_session *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->n_in_flight; i++)
        if (s->in_flight[i] == id)
            return (int)i;
    return -ENOENT;
}

int ipc_session_has_room(struct ipc_session *s, uint32_t n_events, uint32_t n_bytes)
{
    return room_beside(s, s->n_in_flight, n_events, n_bytes);
}

/* Remembers that a post found no room. A caller may have armed the session before that, and for
 * records only: then it is armed for room as well, and looked at again. 1: there is room after all;
 * 0: parked; -EPROTO. */
static int park(struct ipc_session *s, size_t n)
{
    s->parked = true;
    if ((s->want.value & IPC_WANT_MASK) != 0) {
        /* Fence A is inside; its other half is the client's fence B, after it moved its head. */
        ipc_want_arm(&s->want, IPC_WANT_RECORDS | IPC_WANT_ROOM);
        int r = room_beside(s, s->n_in_flight, 1, n);

        if (r != 0)
            return r;
    }
    s->parked_event_head = s->events.consumed;
    s->parked_reply_head = s->bytes.consumed;
    s->counters.parked++;
    return 0;
}

int ipc_session_post(struct ipc_session *s, const struct ipc_event_record *event, const void *data,
                     size_t n)
{
    if (s->state != STATE_OPEN)
        return -EPROTO;
    if (find_in_flight(s, event->id) < 0)
        return -ENOENT;
    if (n > IPC_DATA_MAX)
        return -EMSGSIZE;
    int r = room_beside(s, s->n_in_flight, 1, n);
    if (r == 0)
        r = park(s, n);
    if (r <= 0)
        return r < 0 ? r : -EAGAIN;
    put_event(s, event, data, (uint32_t)n);
    return 0;
}

int ipc_session_finish(struct ipc_session *s, const struct ipc_event_record *final,
                       const char *sentence)
{
    struct ipc_event_record record = *final;
    int at = find_in_flight(s, final->id);
    size_t n = sentence == NULL ? 0 : strnlen(sentence, IPC_SENTENCE_MAX);

    if (s->state != STATE_OPEN)
        return -EPROTO;
    if (at < 0)
        return at;
    /* Looks at the heads only when the known room is short of what is kept back. */
    int r = room_beside(s, s->n_in_flight, 0, 0);
    if (r < 0)
        return r;
    record.type = IPC_EVENT_FINAL;
    s->in_flight[at] = s->in_flight[--s->n_in_flight];
    put_event(s, &record, sentence, (uint32_t)n);
    return 0;
}

/* ---- Requests ---------------------------------------------------------------------------------------- */

/* Answers a request that is not taken: its final event is all it gets. Room was looked at. */
static void answer_refused(struct ipc_session *s, uint64_t id, enum ipc_code code,
                           const char *sentence)
{
    struct ipc_event_record final = {.id = id, .type = IPC_EVENT_FINAL};

    final.u.final.reason = IPC_REASON_FAILED;
    final.u.final.code = (uint16_t)code;
    put_event(s, &final, sentence, (uint32_t)strnlen(sentence, IPC_SENTENCE_MAX));
    s->counters.refused++;
}

/* Can the record be what a client of this protocol writes? Its span, at full width, and its id. */
static int check_record(struct ipc_session *s, const struct ipc_request_record *r, uint64_t *ret_n)
{
    uint64_t n = (uint64_t)r->input_bytes + r->stop_bytes + r->model_bytes + r->bias_bytes +
                 r->stop_id_bytes;

    if (n + r->offset > s->plan.request_bytes)
        return violation(s, "A request names bytes %u to %llu of %u.", r->offset,
                         (unsigned long long)(n + r->offset), s->plan.request_bytes);
    if (r->op == IPC_OP_CANCEL ? r->id != 0 : r->id <= s->last_id)
        return violation(s, "A request has the id %llu after %llu.", (unsigned long long)r->id,
                         (unsigned long long)s->last_id);
    *ret_n = n;
    return 0;
}

/* One submission: 1 it is the caller's, 0 none is left or none can be taken, 2 it was dealt with. */
static int take_one(struct ipc_session *s, struct ipc_request *ret, uint8_t *buffer,
                    size_t capacity)
{
    struct ipc_request_record r;
    char why[IPC_SENTENCE_MAX];
    uint64_t n = 0;
    int got = ipc_in_peek(&s->submit, &r, sizeof(r));

    if (got < 0)
        return violation(s, "The client's submission index is impossible.");
    if (got == 0)
        return 0;
    if (check_record(s, &r, &n) < 0)
        return -EPROTO;
    if (n > capacity)
        return -ENOBUFS;
    if (r.op != IPC_OP_CANCEL) {
        int room = room_beside(s, s->n_in_flight + 1, 0, 0);

        if (room < 0)
            return room;
        s->held = room == 0;
        if (s->held)
            return 0;
        s->last_id = r.id;
    }
    ipc_copy_from_shared(buffer, s->request.base + s->plan.request_offset + r.offset, n);
    ipc_in_next(&s->submit);
    ipc_in_release(&s->submit);
    ipc_bell_moved(&s->bell, IPC_WANT_ROOM);
    s->counters.requests++;
    s->counters.bytes_in += n;

    if (ipc_request_check(&r, buffer, why, sizeof(why)) < 0) {
        if (r.op == IPC_OP_CANCEL)
            return violation(s, "A cancel is malformed: %.200s", why);
        answer_refused(s, r.id, IPC_CODE_INVALID, why);
        return 2;
    }
    if (r.op == IPC_OP_CANCEL) {
        if (find_in_flight(s, r.target) < 0)
            return 2; /* it was faster */
    } else if (s->n_in_flight == s->plan.requests_max) {
        snprintf(why, sizeof(why),
                 "This client has %u requests in flight, and no more are allowed.",
                 s->plan.requests_max);
        answer_refused(s, r.id, IPC_CODE_BUSY, why);
        return 2;
    } else {
        s->in_flight[s->n_in_flight++] = r.id;
    }
    ret->r = r;
    ret->input = buffer;
    ret->stops = buffer + r.input_bytes;
    ret->model = (const char *)buffer + r.input_bytes + r.stop_bytes;
    ret->biases = buffer + r.input_bytes + r.stop_bytes + r.model_bytes;
    ret->stop_ids = ret->biases + r.bias_bytes;
    return 1;
}

int ipc_session_take(struct ipc_session *s, struct ipc_request *ret, uint8_t *buffer,
                     size_t capacity)
{
    if (s->state != STATE_OPEN)
        return -EPROTO;
    int r = settle(s);
    if (r <= 0)
        return r;
    for (int i = 0; i < ANSWERS_PER_CALL; i++) {
        r = take_one(s, ret, buffer, capacity);
        if (r != 2)
            return r;
    }
    return 0;
}

/* ---- Sleep and wake ------------------------------------------------------------------------------------ */

/* What there is to do, without forgetting that something is parked. */
static int look(struct ipc_session *s)
{
    int result = 0, settled = settle(s);

    if (settled <= 0)
        return settled; /* 0: the client rings when it has sealed its region */
    int64_t waiting = ipc_in_waiting(&s->submit);
    if (waiting < 0)
        return violation(s, "The client's submission index is impossible.");
    if (waiting > 0) {
        int room = s->held ? room_beside(s, s->n_in_flight + 1, 0, 0) : 1;

        if (room < 0)
            return room;
        if (room > 0)
            result |= (int)IPC_WANT_RECORDS;
    }
    if (s->parked) {
        /* More than the whole ring is never free: this only looks at the heads. */
        int r = room_beside(s, 0, UINT64_MAX, 0);

        if (r == 0 && ipc_bytes_out_has_room(&s->bytes, UINT64_MAX) < 0)
            r = violation(s, "The client says it has read bytes that were never written.");
        if (r < 0)
            return r;
        if (s->events.consumed != s->parked_event_head || s->bytes.consumed != s->parked_reply_head)
            result |= (int)IPC_WANT_ROOM;
    }
    return result;
}

int ipc_session_poll(struct ipc_session *s)
{
    if (s->state != STATE_OPEN)
        return -EPROTO;
    int r = look(s);
    if (r > 0 && (r & (int)IPC_WANT_ROOM) != 0)
        s->parked = false;
    return r;
}

int ipc_session_arm(struct ipc_session *s)
{
    if (s->state != STATE_OPEN)
        return -EPROTO;
    /* The full fence is inside (fence A of ring.c); its other half is the client's fence B, before
     * it decides whether to ring. */
    ipc_want_arm(&s->want, IPC_WANT_RECORDS | (s->parked || s->held ? IPC_WANT_ROOM : 0));
    int r = look(s);
    if (r > 0) {
        ipc_want_disarm(&s->want);
        return 1;
    }
    return r;
}

void ipc_session_disarm(struct ipc_session *s)
{
    if (s->state == STATE_OPEN)
        ipc_want_disarm(&s->want);
}

int ipc_session_ring(struct ipc_session *s)
{
    static const uint8_t doorbell = IPC_DOORBELL;

    if (s->state != STATE_OPEN)
        return -ECONNRESET;
    if (!s->is_settled || !ipc_bell_due(&s->bell))
        return 0;
    int r = 0;
    if (has_shut_bell(s))
        r = ipc_bell_shut(s->peer.fd, SHUT_RD);
    else
        r = ipc_send(s->peer.fd, &doorbell, 1, NULL, 0);
    if (r == 0)
        s->counters.doorbells_sent++;
    return r == 0 ? 1 : r == -EAGAIN ? 0 : -ECONNRESET;
}
