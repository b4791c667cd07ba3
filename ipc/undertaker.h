/*
 * The undertaker: a small process of the service's own that lets go of what was a client's.
 *
 * Three things that a service does for a client that is gone may wait for that client, for as long as
 * it likes, and of the first two not even a signal ends the wait:
 *
 *   emptying a region that the client did not seal: its file is open on both sides, and who writes to
 *     it by write(2), out of a page that never comes (FUSE, userfaultfd), holds the file's lock meanwhile
 *   closing a socket with an unread descriptor in it (possible before Linux 6.16), whose own close
 *     waits for the sender
 *   a region that the client sealed cannot be emptied (ipc/region.h): its memory comes back when the
 *     client has let it go, too
 *
 * So the service does none of it. It hands the descriptors over, closes its own, and is told when the
 * rest is done; until then the memory counts as the client's. One process buries them all, and where
 * that one hangs, it hangs alone and another goes on. Nothing else of the service is in them: neither
 * its memory nor its descriptors.
 */
#ifndef QUERN_IPC_UNDERTAKER_H
#define QUERN_IPC_UNDERTAKER_H

#include <stdint.h>

struct ipc_undertaker {
    int bodies_fd; /* descriptors out, tags back: readable when a burial is over; -1: none */
    int go_fd;     /* a byte for each handed over, once our own descriptors are closed */
};
#define IPC_UNDERTAKER_NONE ((struct ipc_undertaker){-1, -1})

/* Forks: to be called while the service has one thread and little memory. 0 or -errno. */
int ipc_undertaker_start(struct ipc_undertaker *ret);
/* It ends when it has done what it was given. Fine on IPC_UNDERTAKER_NONE. */
void ipc_undertaker_stop(struct ipc_undertaker *u);

/* Hands over n (1 … 3) descriptors: a socket, then regions whose memory is to come back. The caller
 * closes its own, and calls ipc_undertaker_go then: whoever closes last is the one to wait. 0; -EAGAIN:
 * it has its hands full, to be tried again after the next ipc_undertaker_buried; any other -errno: they
 * are the caller's affair. Never waits. */
int ipc_undertaker_give(const struct ipc_undertaker *u, const int *fds, unsigned n, uint64_t tag);
int ipc_undertaker_go(const struct ipc_undertaker *u);

/* The tag of a burial that is over. 1; 0: none is; -ECONNRESET: the undertaker is gone. */
int ipc_undertaker_buried(const struct ipc_undertaker *u, uint64_t *ret_tag);

#endif
