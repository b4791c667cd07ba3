/*
 * Events in: one thread at a time listens (watches the ring, sleeps on the socket) for all that
 * wait; what it reads for others it holds for them, and when it has its own it wakes the rest, of
 * whom one listens next.
 */
#include "client/lib/handle.h"
#include "ipc/request.h"
#include "ipc/socket.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

_Static_assert((int)QUERN_EVENT_FINAL == IPC_EVENT_FINAL &&
                   (int)QUERN_DATA_LOGPROBS == IPC_DATA_LOGPROBS &&
                   (int)QUERN_REASON_FAILED == IPC_REASON_FAILED &&
                   (int)QUERN_CODE_VERSION == IPC_CODE_VERSION &&
                   (int)QUERN_PHASE_PREFILL == IPC_PHASE_PREFILL &&
                   sizeof(struct quern_score) == sizeof(struct ipc_score),
               "quern.h and layout.h use the same numbers");

/* ---- Requests in flight ------------------------------------------------------------------------ */

struct pending *quern_find(quern *q, uint64_t id)
{
    for (struct pending *p = q->pending; p != NULL; p = p->next)
        if (p->id == id)
            return p;
    return NULL;
}

/* Forgets a request whose final event was handed out. */
static void forget(quern *q, uint64_t id)
{
    for (struct pending **p = &q->pending; *p != NULL; p = &(*p)->next) {
        if ((*p)->id == id) {
            struct pending *gone = *p;

            *p = gone->next;
            free(gone);
            return;
        }
    }
}

/* ---- From record to event ------------------------------------------------------------------------ */

/* Is this what a service of this protocol writes? Everything that is used later is checked here. */
static bool is_plausible(const struct ipc_event_record *e)
{
    if (e->bytes > IPC_DATA_MAX)
        return false;
    switch (e->type) {
    case IPC_EVENT_ACCEPTED:
        return e->bytes == 0;
    case IPC_EVENT_QUEUED:
        return e->bytes == 0 && e->u.queued.reason <= IPC_QUEUED_LAST;
    case IPC_EVENT_TOKEN:
        return true;
    case IPC_EVENT_PROGRESS:
        return e->bytes == 0 && (e->u.progress.phase == IPC_PHASE_LOADING ||
                                 e->u.progress.phase == IPC_PHASE_PREFILL);
    case IPC_EVENT_DATA:
        return e->u.data.kind >= IPC_DATA_IDS && e->u.data.kind <= IPC_DATA_LAST &&
               (e->u.data.kind == IPC_DATA_TEXT || e->bytes % 4 == 0) &&
               (e->u.data.kind != IPC_DATA_HANDLE || e->bytes == sizeof(uint64_t));
    case IPC_EVENT_FINAL:
        return e->u.final.reason <= IPC_REASON_LAST && e->u.final.code <= IPC_CODE_LAST &&
               e->bytes <= IPC_SENTENCE_MAX;
    default:
        return false;
    }
}

/* Makes room for n bytes and a zero byte, and keeps what the event held if there is no memory. */
static int reserve_event(struct quern_event *event, size_t n)
{
    if (event->capacity < n + 1) {
        size_t capacity = n + 1 < 256 ? 256 : IPC_DATA_MAX + 1;
        char *data = realloc(event->data, capacity);

        if (data == NULL)
            return -ENOMEM;
        event->data = data;
        event->capacity = capacity;
    }
    return 0;
}

static void fill_event(struct quern_event *event, const struct ipc_event_record *record)
{
    event->id = record->id;
    event->type = (enum quern_event_type)record->type;
    event->sample = record->sample;
    event->data_size = record->bytes;
    event->data[record->bytes] = 0;
    memset(&event->u, 0, sizeof(event->u));
    switch (record->type) {
    case IPC_EVENT_QUEUED:
        event->u.queued.position = record->u.queued.position;
        event->u.queued.total = record->u.queued.total;
        event->u.queued.wait_us = record->u.queued.wait_us;
        event->u.queued.reason = (enum quern_queued)record->u.queued.reason;
        event->u.queued.limit = record->u.queued.limit;
        break;
    case IPC_EVENT_PROGRESS:
        event->u.progress.phase = (enum quern_phase)record->u.progress.phase;
        event->u.progress.done = record->u.progress.done;
        event->u.progress.total = record->u.progress.total;
        break;
    case IPC_EVENT_TOKEN:
        event->u.token.token = record->u.token.token;
        event->u.token.logprob = record->u.token.logprob;
        event->u.token.index = record->u.token.index;
        event->u.token.gap_us = record->u.token.gap_us;
        break;
    case IPC_EVENT_DATA:
        event->u.data.kind = (enum quern_data)record->u.data.kind;
        event->u.data.index = record->u.data.index;
        event->u.data.total = record->u.data.total;
        break;
    case IPC_EVENT_FINAL:
        event->u.final_.reason = (enum quern_reason)record->u.final.reason;
        event->u.final_.code = (enum quern_code)record->u.final.code;
        event->u.final_.prompt_tokens = record->u.final.prompt_tokens;
        event->u.final_.cached_tokens = record->u.final.cached_tokens;
        event->u.final_.generated = record->u.final.generated;
        event->u.final_.queue_us = record->u.final.queue_us;
        event->u.final_.prefill_us = record->u.final.prefill_us;
        event->u.final_.decode_us = record->u.final.decode_us;
        break;
    default:
        break;
    }
}

QUERN_API void quern_event_done(struct quern_event *event)
{
    free(event->data);
    event->data = NULL;
    event->data_size = event->capacity = 0;
}

/* ---- Reading the ring ------------------------------------------------------------------------------ */

/* What epoll said of an edge. After a hang-up the fd stays readable for whoever polls it. */
static void hear_edge(quern *q, const struct epoll_event *edge)
{
    struct epoll_event level = {.events = EPOLLIN};

    if ((edge->events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) == 0)
        return;
    q->hung_up = true;
    epoll_ctl(q->edge_fd, EPOLL_CTL_MOD, q->fd, &level);
}

/* Drains doorbells, and learns whether the service is still there. */
static void read_doorbells(quern *q)
{
    struct epoll_event edge;
    uint8_t bytes[16];
    unsigned n_fds;
    int fds[1];
    ssize_t n;

    if (q->edge_fd >= 0) {
        if (epoll_wait(q->edge_fd, &edge, 1, 0) == 1)
            hear_edge(q, &edge);
        return;
    }
    do {
        n = ipc_receive(q->fd, bytes, sizeof(bytes), fds, 0, &n_fds, MSG_DONTWAIT);
    } while (n > 0);
    if (n != -EAGAIN)
        q->hung_up = true;
}

/* The ring makes no sense. If the service hung up, it may have taken the memory back. */
static int ring_broken(quern *q)
{
    read_doorbells(q);
    q->broken = q->hung_up ? -ECONNRESET : -EPROTO;
    return q->broken;
}

static int fail_broken(const quern *q)
{
    if (q->broken == -ECONNRESET)
        return quern_fail(q, q->broken, "The service is gone.");
    return quern_fail(q, q->broken, "The service wrote events that make no sense.");
}

/* Gives slot and bytes back to the service. */
static void release_event(quern *q)
{
    ipc_in_next(&q->events);
    ipc_in_release(&q->events);
    ipc_bytes_in_release(&q->bytes);
    ipc_bell_moved(&q->bell, IPC_WANT_ROOM);
}

/* Reads the next event of the ring: into *event when it is of request id (or id is 0), else it is
 * held for its own thread. 1: *event is filled; 2: held; 0: the ring is empty; -errno. */
static int read_one(quern *q, uint64_t id, struct quern_event *event)
{
    struct ipc_event_record record;
    struct held_event *held = NULL;
    void *to;
    int r = ipc_in_peek(&q->events, &record, sizeof(record));

    if (r == 0)
        return 0;
    if (r < 0 || !is_plausible(&record))
        return ring_broken(q);
    struct pending *pending = quern_find(q, record.id);
    if (pending == NULL || pending->ended)
        return ring_broken(q);
    bool mine = event != NULL && (id == 0 || id == record.id);
    if (mine) {
        if (reserve_event(event, record.bytes) < 0)
            return -ENOMEM;
        to = event->data;
    } else {
        if (q->held_bytes > QUERN_HELD_BYTES_MAX)
            return -ENOBUFS;
        held = malloc(sizeof(*held) + record.bytes);
        if (held == NULL)
            return -ENOMEM;
        to = held->data;
    }
    if (ipc_bytes_in_get(&q->bytes, record.pos, record.bytes, to) < 0) {
        free(held);
        return ring_broken(q);
    }
    release_event(q);
    pending->ended = record.type == IPC_EVENT_FINAL;
    if (mine) {
        fill_event(event, &record);
        if (pending->ended)
            forget(q, record.id);
        return 1;
    }
    held->record = record;
    held->next = NULL;
    *pending->last = held;
    pending->last = &held->next;
    q->held_bytes += sizeof(*held) + record.bytes;
    return 2;
}

/* Takes the oldest held event of request id, or of any. 1, 0 or -ENOMEM. */
static int take_held(quern *q, uint64_t id, struct quern_event *event)
{
    struct pending *p = q->pending;

    while (p != NULL && (p->first == NULL || (id != 0 && p->id != id)))
        p = p->next;
    if (p == NULL)
        return 0;
    struct held_event *held = p->first;
    if (reserve_event(event, held->record.bytes) < 0)
        return -ENOMEM;
    memcpy(event->data, held->data, held->record.bytes);
    fill_event(event, &held->record);
    p->first = held->next;
    if (p->first == NULL)
        p->last = &p->first;
    q->held_bytes -= sizeof(*held) + held->record.bytes;
    free(held);
    if (p->first == NULL && p->ended)
        forget(q, p->id);
    return 1;
}

/* Reads until *event is filled or the ring is empty. */
static int read_ring(quern *q, uint64_t id, struct quern_event *event)
{
    bool for_others = false;
    int r;

    if (q->broken != 0)
        return q->broken;
    while ((r = read_one(q, id, event)) == 2)
        for_others = true;
    if (for_others)
        pthread_cond_broadcast(&q->changed);
    quern_ring(q);
    if (r == 0 && q->hung_up)
        r = q->broken = -ECONNRESET;
    return r;
}

/* ---- Sleep and wake ---------------------------------------------------------------------------------- */

void quern_ring(quern *q)
{
    static const uint8_t doorbell = IPC_DOORBELL;

    /* Fence B is in ipc_bell_due. A full socket holds unread doorbells; a dead service is noticed
     * by the next read. */
    if (!ipc_bell_due(&q->bell))
        return;
    if (q->edge_fd >= 0)
        (void)ipc_bell_shut(q->fd, SHUT_WR);
    else
        (void)ipc_send(q->fd, &doorbell, 1, NULL, 0);
}

void quern_arm(quern *q)
{
    /* Fence A is in ipc_want_arm. */
    ipc_want_arm(&q->want, IPC_WANT_RECORDS | (q->wants_room ? IPC_WANT_ROOM : 0));
}

/* Milliseconds left until the deadline, rounded up; −1 without one. */
static int left_ms(const struct timespec *deadline)
{
    struct timespec now;

    if (deadline == NULL)
        return -1;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns =
        (deadline->tv_sec - now.tv_sec) * INT64_C(1000000000) + deadline->tv_nsec - now.tv_nsec;
    int64_t ms = ns <= 0 ? 0 : (ns + 999999) / 1000000;

    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

/* Watches the tail for spin_us without the lock; only the listening thread does. */
static void spin(quern *q, unsigned spin_us)
{
    const volatile uint64_t *tail = q->events.tail;
    uint64_t seen = q->events.read;
    struct timespec start, now;

    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 64; i++) {
            if (__atomic_load_n(tail, __ATOMIC_RELAXED) != seen)
                return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((uint64_t)(now.tv_sec - start.tv_sec) * 1000000 +
                 (uint64_t)(now.tv_nsec - start.tv_nsec) / 1000 <
             spin_us);
}

/* Asks for doorbells and looks once more: the empty call after which a caller may poll the fd. Edges
 * need no draining where the caller sleeps itself: an old one ends that sleep, and then it is gone. */
static int arm_and_look(quern *q, uint64_t id, struct quern_event *event, bool sleeps)
{
    if (!sleeps || q->edge_fd < 0)
        read_doorbells(q);
    quern_arm(q);
    int r = read_ring(q, id, event);
    if (r > 0)
        ipc_want_disarm(&q->want);
    return r;
}

/* Listens for everybody: sleeps on the socket, the lock released. */
static void sleep_on_socket(quern *q, const struct timespec *deadline)
{
    struct pollfd fd = {.fd = q->fd, .events = POLLIN};
    struct epoll_event edge;
    int n = 0;

    q->listening = true;
    pthread_mutex_unlock(&q->lock);
    if (q->edge_fd >= 0)
        n = epoll_wait(q->edge_fd, &edge, 1, left_ms(deadline));
    else
        (void)poll(&fd, 1, left_ms(deadline));
    pthread_mutex_lock(&q->lock);
    if (n == 1)
        hear_edge(q, &edge);
    q->listening = false;
    pthread_cond_broadcast(&q->changed);
}

static void wait_for_listener(quern *q, const struct timespec *deadline)
{
    if (deadline == NULL)
        pthread_cond_wait(&q->changed, &q->lock);
    else
        (void)pthread_cond_timedwait(&q->changed, &q->lock, deadline);
}

/* One look as the listener, and a sleep where nothing was found. */
static int listen_once(quern *q, uint64_t id, struct quern_event *event,
                       const struct timespec *deadline)
{
    int r = read_ring(q, id, event);

    if (r == 0 && q->spin_us > 0 && left_ms(deadline) != 0) {
        unsigned spin_us = q->spin_us;

        q->listening = true;
        pthread_mutex_unlock(&q->lock);
        spin(q, spin_us);
        pthread_mutex_lock(&q->lock);
        q->listening = false;
        pthread_cond_broadcast(&q->changed);
        r = read_ring(q, id, event);
    }
    if (r == 0) {
        bool sleeps = left_ms(deadline) != 0;

        r = arm_and_look(q, id, event, sleeps);
        if (r == 0 && sleeps)
            sleep_on_socket(q, deadline);
    }
    return r;
}

static int next_locked(quern *q, uint64_t id, struct quern_event *event,
                       const struct timespec *deadline)
{
    bool last_look = false;

    for (;;) {
        int r = take_held(q, id, event);

        if (r == 0 && id != 0 && quern_find(q, id) == NULL)
            return quern_fail(q, -ENOENT, "Request %llu is not in flight.", (unsigned long long)id);
        if (r == 0 && !q->listening)
            r = listen_once(q, id, event, deadline);
        else if (r == 0 && !last_look)
            wait_for_listener(q, deadline);
        if (r > 0)
            return 0;
        if (r == -ENOMEM)
            return quern_fail(q, r, "Out of memory.");
        if (r == -ENOBUFS)
            return quern_fail(q, r, "Events of other requests fill memory; read them first.");
        if (r < 0)
            return fail_broken(q);
        if (last_look)
            return quern_fail(q, -EAGAIN, "No event yet.");
        last_look = left_ms(deadline) == 0;
    }
}

QUERN_API int quern_next(quern *q, uint64_t id, struct quern_event *event, int timeout_ms)
{
    struct timespec deadline;
    int r = quern_usable(q);

    if (r < 0)
        return r;
    if (timeout_ms >= 0) {
        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += timeout_ms / 1000;
        deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (deadline.tv_nsec >= 1000000000) {
            deadline.tv_sec++;
            deadline.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&q->lock);
    r = next_locked(q, id, event, timeout_ms < 0 ? NULL : &deadline);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* Events are held for their threads meanwhile, so that a full event ring cannot keep the service
 * from taking submissions. */
int quern_wait_room(quern *q)
{
    if (q->listening) {
        wait_for_listener(q, NULL);
        return 0;
    }
    int r = read_ring(q, 0, NULL);
    if (r == -ENOMEM || r == -ENOBUFS)
        return quern_fail(q, r, "Events of other requests fill memory; read them first.");
    if (r < 0)
        return fail_broken(q);
    sleep_on_socket(q, NULL);
    read_doorbells(q); /* before the next arming, which wants fresh ones */
    return 0;
}
