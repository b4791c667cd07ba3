/*
 * The rings: how records, bytes and wake-ups cross from one process to the other.
 *
 * One producer and one consumer each way, no compare-and-swap on anything shared, so a dead peer
 * wedges nobody. Each side keeps its own indices in private memory (they are the truth; the shared
 * words only publish them), and takes the peer's index only when its distance is possible. Both
 * sides of the protocol are this one file; it does not know which of them it serves.
 *
 * Memory orders, and where their other halves are:
 *
 *   ipc_out_publish: slots, then tail (release)     pairs with ipc_in_get: tail (acquire), then slots
 *   ipc_in_release: slots copied, then head (rel.)  pairs with ipc_out_has_room: head (acq.), then slots
 *   ipc_want_arm: word, full fence, look again      pairs with ipc_bell_due: index, full fence, word
 *
 * The last pair is the one that no release or acquire can give: each side stores one word and loads
 * the other's, and at least one of the two must see the other's store. tests/spin/ring.pml proves
 * it with explicit store buffers, and shows what fails without either fence.
 */
#ifndef QUERN_IPC_RING_H
#define QUERN_IPC_RING_H

#include "ipc/layout.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Shared memory, one access at a time ------------------------------------------------------ */

/* Copies out of memory that a peer may change meanwhile: each byte is read exactly once. */
void ipc_copy_from_shared(void *to, const volatile void *from, size_t n);
/* Copies into it; the peer sees the bytes after the next release. */
void ipc_copy_to_shared(volatile void *to, const void *from, size_t n);

/* Orders every access before it against every access after it, loads against stores included. */
void ipc_full_fence(void);

/* ---- A ring of records, producer's side ------------------------------------------------------- */

struct ipc_out {
    volatile uint64_t *tail;       /* shared, ours */
    const volatile uint64_t *head; /* shared, the peer's */
    volatile uint8_t *slots;       /* shared, ours: entries × stride bytes */
    uint32_t entries;              /* power of two */
    uint32_t stride;
    uint64_t written;  /* private: records written, published or not */
    uint64_t consumed; /* private: the peer's head as last checked */
};

/* Are n slots free? Looks at the peer's head only when the known room is not enough. 1, 0, or
 * -EPROTO when the head lies. */
int ipc_out_has_room(struct ipc_out *out, uint64_t n);
/* Writes the next record; the caller knows that there is room. Not visible before publish. */
void ipc_out_put(struct ipc_out *out, const void *record, size_t n);
void ipc_out_publish(struct ipc_out *out);

/* ---- A ring of records, consumer's side ------------------------------------------------------- */

struct ipc_in {
    const volatile uint64_t *tail; /* shared, the peer's */
    volatile uint64_t *head;       /* shared, ours */
    const volatile uint8_t *slots; /* shared, the peer's */
    uint32_t entries;              /* power of two */
    uint32_t stride;
    uint64_t read;     /* private: records read, released or not */
    uint64_t produced; /* private: the peer's tail as last checked */
};

/* Records that wait to be read, after a look at the peer's tail; -EPROTO when it lies. */
int64_t ipc_in_waiting(struct ipc_in *in);
/* Copies the next record without going past it. 1, 0: none, -EPROTO. */
int ipc_in_peek(struct ipc_in *in, void *ret, size_t n);
/* Goes past the record that was peeked; its slot stays ours until release. */
void ipc_in_next(struct ipc_in *in);
void ipc_in_release(struct ipc_in *in);

/* ---- Bytes that travel beside the events -------------------------------------------------------- */

struct ipc_bytes_out {
    const volatile uint64_t *head; /* shared, the peer's: bytes read */
    volatile uint8_t *base;        /* shared, ours */
    uint32_t size;
    uint64_t written;  /* private */
    uint64_t consumed; /* private: the peer's head as last checked */
};

/* Are n bytes free? As ipc_out_has_room. */
int ipc_bytes_out_has_room(struct ipc_bytes_out *out, uint64_t n);
/* Writes n bytes (the caller knows that there is room), around the end if need be; returns their
 * position. They become visible with the record that names them. */
uint64_t ipc_bytes_out_put(struct ipc_bytes_out *out, const void *data, uint32_t n);

struct ipc_bytes_in {
    volatile uint64_t *head;      /* shared, ours */
    const volatile uint8_t *base; /* shared, the peer's */
    uint32_t size;
    uint64_t read; /* private: where the next span must begin */
};

/* Copies the span that an event names. -EPROTO unless it begins where the last one ended and fits;
 * nothing is copied then. */
int ipc_bytes_in_get(struct ipc_bytes_in *in, uint64_t pos, uint32_t n, void *ret);
void ipc_bytes_in_release(struct ipc_bytes_in *in);

/* ---- Sleep and wake ---------------------------------------------------------------------------------- */

struct ipc_want {
    volatile uint64_t *word; /* shared, ours */
    uint64_t value;          /* private: what it says */
};

/* Says what we sleep for (IPC_WANT_…), then a full fence. The caller must look again before it
 * sleeps. */
void ipc_want_arm(struct ipc_want *want, uint64_t reasons);
/* Awake again: no doorbells needed. */
void ipc_want_disarm(struct ipc_want *want);

struct ipc_bell {
    const volatile uint64_t *word; /* shared, the peer's */
    uint64_t rung;                 /* private: the word as it was when we last rang */
    uint64_t moved;                /* private: IPC_WANT_… that came true since the last look */
};

/* Remembers that an index moved: IPC_WANT_RECORDS for a tail, IPC_WANT_ROOM for a head. */
void ipc_bell_moved(struct ipc_bell *bell, uint64_t what);
/* Full fence, then: does the peer sleep for something that moved, and was not rung for it yet? */
bool ipc_bell_due(struct ipc_bell *bell);

#endif
