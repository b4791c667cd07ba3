/*
 * A session: the service's side of one client, from accept to hang-up.
 *
 * It owns the client's socket, both memory regions, the private (authoritative) indices and the
 * table of requests in flight. It knows what the protocol says and nothing of policy or models:
 * limits are passed in, and who may connect is the caller's decision between hello and open.
 *
 * Everything a client can write is read once into private memory and checked there at full width.
 * A client that breaks the protocol gets -EPROTO from whatever call found it, with the sentence in
 * ipc_session_why; the caller then counts it, logs it, and frees the session. A request that is
 * well-formed shared memory but bad input (unknown operation, temperature of −1) is the client's
 * ordinary mistake: ipc_session_take answers it with a final event itself and goes on.
 *
 * No call blocks, ever. All calls for one session come from one thread at a time.
 *
 * The life of a session, for the event loop that owns it:
 *
 *   ipc_accept → policy may ipc_session_refuse → epoll: socket (EPOLLIN) and pidfd (EPOLLIN = exited)
 *   socket readable → ipc_session_receive:  IPC_RECEIVED_HELLO → ipc_session_open or _refuse
 *                                           IPC_RECEIVED_DOORBELL → ipc_session_take until it is 0
 *   between two steps, sessions that are awake: ipc_session_poll, ipc_session_take
 *   results: ipc_session_post; -EAGAIN parks that sequence until IPC_WANT_ROOM comes true
 *   after the next step was handed to the workers: ipc_session_ring
 *   before sleeping, or to stop polling a quiet ring: ipc_session_arm; 1 means look again at once
 */
#ifndef QUERN_IPC_SESSION_H
#define QUERN_IPC_SESSION_H

#include "ipc/handshake.h"
#include "ipc/layout.h"
#include "ipc/socket.h"
#include "ipc/undertaker.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- The session ------------------------------------------------------------------------------- */

struct ipc_session;

/* Takes over peer->fd and peer->pidfd, also on failure. -ENOMEM. */
int ipc_session_new(struct ipc_session **ret, const struct ipc_peer *peer);

/* Punches empty whichever region can be, unmaps and closes everything. NULL is fine. */
void ipc_session_free(struct ipc_session *session);
/* The same without punching: for a service that ends and wants its last events to be read. */
void ipc_session_leave(struct ipc_session *session);
/* Either of the two where it may take as long as the client likes: the client is hung up on at once,
 * and the undertaker does the rest. The socket must have left epoll. 0: tag comes back from
 * ipc_undertaker_buried when all is done, with punch the memory, too. -EAGAIN: the undertaker has its
 * hands full; the session stays, for this call alone, after the next ipc_undertaker_buried. Any other
 * -errno: there is no undertaker, all was done here, and the session is gone as with 0. */
int ipc_session_bury(struct ipc_session *session, const struct ipc_undertaker *undertaker,
                     bool punch, uint64_t tag);

const struct ipc_peer *ipc_session_peer(const struct ipc_session *session);
bool ipc_session_is_open(const struct ipc_session *session);    /* the welcome was sent */
const char *ipc_session_why(const struct ipc_session *session); /* after an error: one sentence */

enum ipc_received {
    IPC_RECEIVED_NOTHING = 0,
    IPC_RECEIVED_HELLO = 1,    /* decide: ipc_session_open or ipc_session_refuse */
    IPC_RECEIVED_DOORBELL = 2, /* look at the rings */
};

/* What to watch the socket for in epoll: level-triggered for packets until it is open, and to be
 * changed then (EPOLL_CTL_MOD) where the client's doorbells are edges (IPC_FEATURE_SHUT_BELL). */
uint32_t ipc_session_epoll_events(const struct ipc_session *session);

/* Reads one packet of the socket; more of them make it readable again, after the look at memory
 * that the first one asked for. Where doorbells are edges it makes no system call: epoll_events, which
 * epoll said of the socket, are a doorbell or a hang-up. An enum ipc_received, -ECONNRESET: the
 * client hung up, -EPROTO: it sent what no client sends. */
int ipc_session_receive(struct ipc_session *session, uint32_t epoll_events);

/* What the hello asked for, cut down to the limits and rounded: for a policy that counts bytes.
 * 0 or -EINVAL before the hello. Bytes of both regions together in ret_bytes. */
int ipc_session_wanted(const struct ipc_session *session, const struct ipc_limits *limits,
                       struct ipc_sizes *ret, uint64_t *ret_bytes);

/* Makes the regions and sends the welcome. session_id is the caller's name for it. -EPROTO (no
 * common version: a refusal was sent), -ENOMEM, -EMFILE, -ECONNRESET …: free the session. */
int ipc_session_open(struct ipc_session *session, const struct ipc_limits *limits,
                     uint64_t session_id);

/* Sends a refusal; the caller frees the session next. To be called once the hello has come (a
 * hang-up with unread input would throw the refusal away). */
void ipc_session_refuse(struct ipc_session *session, enum ipc_code code, const char *sentence);

/* ---- Requests ------------------------------------------------------------------------------------ */

/* A request, private to the service from here on: nothing in it points into shared memory. */
struct ipc_request {
    struct ipc_request_record r; /* checked: every field is in the range that layout.h states */
    const uint8_t *input;        /* r.input_bytes bytes, in the caller's buffer; chat: valid form */
    const uint8_t *stops;        /* r.stop_bytes bytes: valid list, see ipc/request.h */
    const char *model;           /* r.model_bytes bytes, no zero byte at the end */
    const uint8_t *biases;       /* r.bias_bytes bytes: struct ipc_bias each, not aligned */
    const uint8_t *stop_ids;     /* r.stop_id_bytes bytes: u32 each, not aligned */
};

/* Takes the next submission. 1: one is in *ret, its input, stop list and model name copied to
 * buffer; 0: none (or no room is left for its final event: it waits in the ring); -ENOBUFS: larger
 * than capacity, which the caller avoids with capacity ≥ the session's request_bytes; -EPROTO.
 * Requests that fail the checks, and requests beyond requests_max, are answered here with a final
 * event and not returned. From a return of 1 on (IPC_OP_CANCEL apart, which is no request of its
 * own), the caller owes exactly one ipc_session_finish for ret->r.id. */
int ipc_session_take(struct ipc_session *session, struct ipc_request *ret, uint8_t *buffer,
                     size_t capacity);

/* Bytes that ipc_session_take's buffer needs at most. */
size_t ipc_session_input_max(const struct ipc_session *session);

uint32_t ipc_session_in_flight(const struct ipc_session *session);

/* ---- Events ---------------------------------------------------------------------------------------- */

/* Posts one event of a request in flight. event: id, type, sample and the member of u; bytes and
 * pos are filled in here. data: n ≤ IPC_DATA_MAX bytes. 0; -EAGAIN: the client has not read enough
 * (park this sequence and post the same event when IPC_WANT_ROOM comes true); -ENOENT: no such
 * request in flight; -EMSGSIZE; -EPROTO. Visible to an awake client at once. */
int ipc_session_post(struct ipc_session *session, const struct ipc_event_record *event,
                     const void *data, size_t n);

/* Would that many events with that many data bytes be accepted now? 1, 0 or -EPROTO. */
int ipc_session_has_room(struct ipc_session *session, uint32_t n_events, uint32_t n_bytes);

/* Posts the final event, for which room was kept: never -EAGAIN. final: id, and u.final; with a
 * code ≠ 0, sentence says why (cut at IPC_SENTENCE_MAX), else NULL. 0, -ENOENT or -EPROTO. */
int ipc_session_finish(struct ipc_session *session, const struct ipc_event_record *final,
                       const char *sentence);

/* ---- Sleep and wake ----------------------------------------------------------------------------------- */

/* Looks at the client's indices, without a system call once the client has sealed its region (before
 * that nothing is seen): a set of IPC_WANT_RECORDS (a submission
 * waits) and IPC_WANT_ROOM (it has read since the last -EAGAIN of post, or a submission held back
 * for want of room can be taken now). -EPROTO. */
int ipc_session_poll(struct ipc_session *session);

/* Before sleeping on the fd: asks the client for doorbells (IPC_WANT_RECORDS always, IPC_WANT_ROOM
 * as well after a post that got -EAGAIN, before or after this call), full fence, looks again. 0:
 * armed, sleep; 1: something is there, the request for doorbells is withdrawn; -EPROTO. */
int ipc_session_arm(struct ipc_session *session);
void ipc_session_disarm(struct ipc_session *session); /* awake again: polled from now on */

/* Rings the client if it sleeps for something that happened since it was armed; at most one
 * doorbell for each of its sleeps. 1: rung; 0: no need, or its socket is full (it has unread
 * doorbells then); -ECONNRESET. A system call of 17–37 µs when it rings: to be called after the
 * next step was handed to the workers. */
int ipc_session_ring(struct ipc_session *session);

/* ---- Figures --------------------------------------------------------------------------------------------- */

struct ipc_session_counters {
    uint64_t requests;  /* taken, cancels included */
    uint64_t refused;   /* answered by ipc_session_take itself */
    uint64_t events;    /* posted */
    uint64_t bytes_in;  /* request bytes copied */
    uint64_t bytes_out; /* reply bytes written */
    uint64_t parked;    /* posts that got -EAGAIN */
    uint64_t doorbells_sent;
    uint64_t doorbells_received;
};
const struct ipc_session_counters *ipc_session_counters(const struct ipc_session *session);

#endif
