/*
 * The socket under a session: an AF_UNIX SOCK_SEQPACKET socket in the file system (never an
 * abstract one, which has no permission bits). It carries the handshake, the two descriptors, the
 * doorbells, and the news that a side has died.
 */
#ifndef QUERN_IPC_SOCKET_H
#define QUERN_IPC_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16; missing from Debian 12's headers */
#endif

/* ---- The listening socket -------------------------------------------------------------------- */

struct ipc_listener {
    int fd;      /* listening, non-blocking, close-on-exec */
    int lock_fd; /* holds the lock on `path`.lock; -1 for an inherited socket */
    char *path;  /* removed by ipc_listener_done; NULL for an inherited socket */
};

/* Binds a SOCK_SEQPACKET socket at path with the given permission bits and listens. A socket that
 * nobody listens on any more is replaced; one that somebody listens on is -EADDRINUSE; something
 * that is no socket is -EEXIST and left alone. why gets one sentence on failure. */
int ipc_listener_init(struct ipc_listener *ret, const char *path, mode_t mode, char *why,
                      size_t why_size);

/* Takes over a socket that systemd handed us; -EINVAL unless it is AF_UNIX, SOCK_SEQPACKET and
 * listening. Owns fd on success. */
int ipc_listener_init_fd(struct ipc_listener *ret, int fd, char *why, size_t why_size);
void ipc_listener_done(struct ipc_listener *listener); /* closes, removes path; {-1, -1, NULL} ok */

/* Who connected, as the kernel tells it. */
struct ipc_peer {
    int fd;    /* the socket: non-blocking, close-on-exec */
    int pidfd; /* readable when that process has exited; -1 where the pid is not visible to us */
    pid_t pid; /* 0 where it is not visible */
    uid_t uid;
    gid_t gid;
};

/* Accepts one connection. 0; -EAGAIN: none is waiting; any other -errno (-EMFILE …). Who it is, is
 * for a policy to judge: uid 65534, for one, is what a user namespace shows for users that it does
 * not know. */
int ipc_accept(int listen_fd, struct ipc_peer *ret);

/* The supplementary groups that the peer had when it connected (SO_PEERGROUPS). Their number; 0
 * where it has more than max, or the kernel does not say. */
int ipc_peer_groups(const struct ipc_peer *peer, gid_t *groups, unsigned max);

/* ---- The client's end -------------------------------------------------------------------------- */

/* Connects, close-on-exec and blocking. Returns the descriptor, or -ENOENT, -ECONNREFUSED, -EACCES,
 * -ENAMETOOLONG … */
int ipc_connect(const char *path);

/* ---- Packets ------------------------------------------------------------------------------------ */

#define IPC_FDS_MAX 3 /* that travel with one packet */

/* Sends one packet with n_fds (0 … IPC_FDS_MAX) descriptors; never blocks, never raises SIGPIPE. 0, -EAGAIN:
 * the socket is full, -ECONNRESET: the peer is gone. */
int ipc_send(int fd, const void *packet, size_t n, const int *fds, unsigned n_fds);

/* Receives one packet: returns its true length (which may be more than capacity), 0 at hang-up,
 * -EAGAIN, -ECONNRESET. Descriptors that came with it are in fds (close-on-exec, at most
 * max_fds ≤ IPC_FDS_MAX), *ret_n_fds says how many came; those beyond max_fds are closed and counted.
 * flags: 0 or MSG_DONTWAIT. */
ssize_t ipc_receive(int fd, void *packet, size_t capacity, int *fds, unsigned max_fds,
                    unsigned *ret_n_fds, int flags);

/* Receives one packet of a stranger, without taking any descriptor that comes with it: such a packet
 * stays where it is, since whoever takes it has to close what it brings, which may wait for the sender.
 * Never blocks. As ipc_receive; -EBADMSG where there are descriptors. */
ssize_t ipc_receive_bare(int fd, void *packet, size_t capacity);

/* ---- Doorbells without packets ------------------------------------------------------------------- */

/*
 * A packet costs the kernel an allocation and the other side a read: on one core more than a third of a wake-up.
 * With IPC_FEATURE_SHUT_BELL no packet follows the welcome. The direction from client to service is
 * shut down then, by both, and shutting it down once more is the doorbell: it changes nothing, and
 * wakes the other end, which sees an edge (EPOLLET). Nothing can fill up, and each side has a file
 * of its own: with an eventfd or a pipe, which both sides share, a client could make the service
 * wait in write or in close for as long as it likes (docs/protocol.md).
 */

/* What to watch the socket for in epoll, besides what it always tells: the service, the client. */
#define IPC_SHUT_BELL_SERVICE (EPOLLIN | EPOLLRDHUP | EPOLLET)
#define IPC_SHUT_BELL_CLIENT  (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

/* Rings; how: SHUT_RD for the service, SHUT_WR for the client. 0, or -EACCES … where a security module
 * forbids it; a peer that is gone is noticed in epoll. */
int ipc_bell_shut(int fd, int how);
/* Does this kernel make an edge of each? Tried once for the process. */
bool ipc_bell_shut_works(void);

#endif
