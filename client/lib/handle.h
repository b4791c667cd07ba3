/* Inside a libquern handle. One mutex guards everything but the words that the service writes. */
#ifndef QUERN_CLIENT_LIB_HANDLE_H
#define QUERN_CLIENT_LIB_HANDLE_H

#include "client/quern.h"
#include "ipc/layout.h"
#include "ipc/region.h"
#include "ipc/ring.h"
#include <pthread.h>
#include <stdbool.h>

/* An event that was read for a request whose thread has not come for it yet. */
struct held_event {
    struct held_event *next;
    struct ipc_event_record record; /* checked */
    uint8_t data[];                 /* record.bytes */
};

/* A request from submit until its final event was handed out. */
struct pending {
    struct pending *next;
    uint64_t id;
    struct held_event *first, **last;
    bool ended; /* its final event was read, though perhaps not handed out */
};

struct quern {
    int fd;
    int edge_fd; /* epoll on fd, where doorbells are edges (IPC_FEATURE_SHUT_BELL); else -1 */
    const uint32_t *alive; /* one page that the kernel wipes in a child: 0 there, ALIVE here */
    struct ipc_welcome layout;
    struct ipc_region request, reply; /* descriptors closed: the maps are enough */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* an event was held for somebody, or nobody listens any more */
    bool listening;         /* one thread watches the ring or sleeps on the socket for all */
    bool hung_up;           /* the service closed; what is in the ring may still be read */
    int broken;             /* -errno that every call returns from now on */
    unsigned spin_us;

    struct ipc_out submit;
    struct ipc_in events;
    struct ipc_bytes_in bytes;
    struct ipc_want want; /* what we sleep for */
    struct ipc_bell bell; /* what the service sleeps for */
    bool wants_room;      /* a submit got -EAGAIN, and none has got through since */

    uint64_t last_id;
    uint64_t *span_end; /* (submit_entries) position after the request bytes of that slot */
    uint64_t span_head; /* request bytes freed, counted since the session began */
    uint64_t span_tail; /* request bytes handed out */

    struct pending *pending;
    size_t held_bytes; /* memory of held events, all requests */
};

#define QUERN_ALIVE UINT32_C(0x7175726e)
/* Held events of all requests may take that much memory before reading stops. */
#define QUERN_HELD_BYTES_MAX ((size_t)64 << 20)

/* Keeps a sentence for quern_error (or quern_connect_error, q NULL) and returns r. */
__attribute__((format(printf, 3, 4))) int quern_fail(const quern *q, int r, const char *format,
                                                     ...);
/* The sentence kept for q in this thread; "" when none. */
const char *quern_sentence(const quern *q);

/* Shakes hands with the service at the other end of fd and makes a handle of it. Owns fd, also on
 * failure. */
int quern_adopt(quern **ret, int fd);

/* 0, or why the handle cannot be used at all: -EOWNERDEAD in a child, or q->broken. */
int quern_usable(const quern *q);

/* With the lock held: sends a doorbell if the service sleeps for something that we moved. */
void quern_ring(quern *q);
/* With the lock held: asks for doorbells (events always, room where it is wanted), full fence. The
 * caller looks again. */
void quern_arm(quern *q);
/* With the lock held, right after a submission found no room and armed the wish for it: reads
 * events for others, then sleeps until a doorbell. 0, or -errno of the handle. */
int quern_wait_room(quern *q);
/* quern_submit that waits for room instead of returning -EAGAIN. */
int quern_submit_waiting(quern *q, const struct quern_request *r, uint64_t *ret_id);

/* With the lock held: the request of that id, or NULL. */
struct pending *quern_find(quern *q, uint64_t id);

#endif
