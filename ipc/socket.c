/* The socket under a session: see socket.h. */
#define _GNU_SOURCE
#include "ipc/socket.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; missing from Debian 12's headers */
#endif

static int fill_address(struct sockaddr_un *address, const char *path)
{
    size_t n = strlen(path);

    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (n == 0)
        return -ENOENT;
    if (n >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    memcpy(address->sun_path, path, n);
    return 0;
}

int ipc_connect(const char *path)
{
    struct sockaddr_un address;
    int r = fill_address(&address, path);

    if (r < 0)
        return r;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* ---- Listening ---------------------------------------------------------------------------------- */

/* The lock file makes "is anyone there? no: replace it" one step among services that start at the
 * same moment. It stays behind empty; a lock dies with its holder. */
static int lock_path(const char *path, char *why, size_t why_size)
{
    char name[128];

    snprintf(name, sizeof(name), "%s.lock", path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        int r = -errno;

        snprintf(why, why_size, "Cannot create %s: %s; make its folder and let this user write it.",
                 name, strerror(-r));
        return r;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;

        snprintf(why, why_size, "Another service already listens on %s; stop it first.", path);
        close(fd);
        return r;
    }
    return fd;
}

/* Removes a socket that nobody listens on. */
static int remove_stale(const char *path, char *why, size_t why_size)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(why, why_size, "%s exists and is no socket; remove it or choose another path.",
                 path);
        return -EEXIST;
    }
    int fd = ipc_connect(path);
    if (fd >= 0 || fd != -ECONNREFUSED) {
        if (fd >= 0)
            close(fd);
        snprintf(why, why_size, "Another service already listens on %s; stop it first.", path);
        return -EADDRINUSE;
    }
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/*
 * Takes no descriptors, from before the first connection on (accepted sockets inherit it). Closing
 * one that a stranger sent may wait for the stranger: for the lock of its epoll, for its FUSE daemon.
 * Whoever receives such a descriptor hangs, and so does whoever closes a socket in which it lies unread.
 * Before Linux 6.16 there is no such option: there ipc_receive_bare leaves it unread, and the undertaker
 * closes the socket.
 */
static void refuse_descriptors(int fd)
{
    const int no = 0;

    (void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &no, sizeof(no));
}

/* Gives the socket its permission bits while nobody can connect yet: between bind and listen. */
static int bind_and_listen(int fd, const char *path, mode_t mode)
{
    struct sockaddr_un address;
    int r = fill_address(&address, path);

    if (r < 0)
        return r;
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    if (chmod(path, mode) < 0 || listen(fd, SOMAXCONN) < 0) {
        r = -errno;
        unlink(path);
    }
    return r;
}

int ipc_listener_init(struct ipc_listener *ret, const char *path, mode_t mode, char *why,
                      size_t why_size)
{
    struct ipc_listener listener = {-1, -1, NULL};
    struct sockaddr_un address;
    int r = fill_address(&address, path);

    if (r < 0) {
        snprintf(why, why_size, "The socket path \"%.100s\" is %s.", path,
                 r == -ENOENT ? "empty" : "longer than 107 bytes; choose a shorter one");
        return r;
    }
    why[0] = 0;
    listener.lock_fd = lock_path(path, why, why_size);
    if (listener.lock_fd < 0)
        return listener.lock_fd;
    r = remove_stale(path, why, why_size);
    if (r < 0)
        goto fail;
    listener.path = strdup(path);
    listener.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener.path == NULL || listener.fd < 0) {
        r = -errno;
        goto fail;
    }
    refuse_descriptors(listener.fd);
    r = bind_and_listen(listener.fd, path, mode);
    if (r < 0)
        goto fail;
    *ret = listener;
    return 0;

fail:
    if (why[0] == 0)
        snprintf(why, why_size, "Cannot listen on %s: %s.", path, strerror(-r));
    free(listener.path);
    if (listener.fd >= 0)
        close(listener.fd);
    close(listener.lock_fd);
    return r;
}

static int socket_option(int fd, int option)
{
    int value = -1;
    socklen_t n = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, option, &value, &n) < 0 ? -errno : value;
}

int ipc_listener_init_fd(struct ipc_listener *ret, int fd, char *why, size_t why_size)
{
    int flags;

    if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_SEQPACKET ||
        socket_option(fd, SO_ACCEPTCONN) != 1) {
        snprintf(why, why_size,
                 "The inherited descriptor %d is no listening AF_UNIX SEQPACKET "
                 "socket; use ListenSequentialPacket= in the socket unit.",
                 fd);
        return -EINVAL;
    }
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        snprintf(why, why_size, "Cannot set the flags of the inherited socket %d.", fd);
        return -errno;
    }
    refuse_descriptors(fd);
    *ret = (struct ipc_listener){fd, -1, NULL};
    return 0;
}

void ipc_listener_done(struct ipc_listener *listener)
{
    if (listener->path != NULL)
        unlink(listener->path);
    free(listener->path);
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->lock_fd >= 0)
        close(listener->lock_fd);
    *listener = (struct ipc_listener){-1, -1, NULL};
}

/* The process that connected, as something that can be polled for its exit. A pid that the kernel
 * shows as 0 lives in another namespace: then a hang-up alone tells of its end. */
static int open_peer_pidfd(int fd, pid_t pid)
{
    int pidfd = -1;
    socklen_t n = sizeof(pidfd);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &n) == 0 && pidfd >= 0)
        return pidfd;
    if (pid <= 0)
        return -1;
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return pidfd < 0 ? -1 : pidfd;
}

int ipc_accept(int listen_fd, struct ipc_peer *ret)
{
    struct ucred creds;
    socklen_t n = sizeof(creds);
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return errno == EWOULDBLOCK || errno == ECONNABORTED || errno == EINTR ? -EAGAIN : -errno;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &creds, &n) < 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    *ret = (struct ipc_peer){fd, open_peer_pidfd(fd, creds.pid), creds.pid, creds.uid, creds.gid};
    return 0;
}

int ipc_peer_groups(const struct ipc_peer *peer, gid_t *groups, unsigned max)
{
    socklen_t n = (socklen_t)(max * sizeof(*groups));

    if (getsockopt(peer->fd, SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0)
        return 0;
    return (int)(n / sizeof(*groups));
}

/* ---- Packets ------------------------------------------------------------------------------------ */

int ipc_send(int fd, const void *packet, size_t n, const int *fds, unsigned n_fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(IPC_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {(void *)(uintptr_t)packet, n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds > 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, n_fds * sizeof(int));
    }
    for (;;) {
        if (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
            return -ECONNRESET;
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    }
}

ssize_t ipc_receive(int fd, void *packet, size_t capacity, int *fds, unsigned max_fds,
                    unsigned *ret_n_fds, int flags)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE((IPC_FDS_MAX + 1) *
                              sizeof(int))]; /* the kernel closes what does not fit */
    } control;
    struct iovec iov = {packet, capacity};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    unsigned n_fds = 0;
    ssize_t n;

    do {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
        n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC | MSG_TRUNC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : errno == ECONNRESET ? -ECONNRESET : -errno;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

        for (unsigned i = 0; i < count; i++, n_fds++) {
            int received;

            memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (n_fds < max_fds)
                fds[n_fds] = received;
            else
                close(received);
        }
    }
    if ((msg.msg_flags & MSG_CTRUNC) != 0 && n_fds <= max_fds)
        n_fds = max_fds + 1;
    *ret_n_fds = n_fds;
    return n;
}

ssize_t ipc_receive_bare(int fd, void *packet, size_t capacity)
{
    struct iovec iov = {packet, capacity};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    /* A look first: without a control buffer it only says that there is something to it. Nobody but
     * us takes packets out, so that what is received next is what was looked at. */
    do
        n = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n >= 0 && (msg.msg_flags & MSG_CTRUNC) != 0)
        return -EBADMSG;
    if (n >= 0)
        do
            n = recv(fd, packet, capacity, MSG_DONTWAIT | MSG_TRUNC);
        while (n < 0 && errno == EINTR);
    return n >= 0 ? n : errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

/* ---- Doorbells without packets ------------------------------------------------------------------- */

int ipc_bell_shut(int fd, int how)
{
    return shutdown(fd, how) < 0 && errno != ENOTCONN ? -errno : 0;
}

/* Does an edge come for the second and third shutdown of `from` as well, where `to` is watched? */
static bool makes_edges(int from, int how, int to, uint32_t events)
{
    struct epoll_event event = {.events = events};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool ok = epoll_fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, to, &event) == 0;

    for (int i = 0; ok && i < 3; i++) {
        while (epoll_wait(epoll_fd, &event, 1, 0) > 0)
            ;
        ok = ipc_bell_shut(from, how) == 0 && epoll_wait(epoll_fd, &event, 1, 0) == 1 &&
             (event.events & (EPOLLHUP | EPOLLERR)) == 0;
    }
    if (epoll_fd >= 0)
        close(epoll_fd);
    return ok;
}

static bool shut_works;

static void try_shut(void)
{
    int pair[2]; /* the service's end, the client's */

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return;
    shut_works = makes_edges(pair[1], SHUT_WR, pair[0], IPC_SHUT_BELL_SERVICE) &&
                 makes_edges(pair[0], SHUT_RD, pair[1], IPC_SHUT_BELL_CLIENT);
    close(pair[0]);
    close(pair[1]);
}

bool ipc_bell_shut_works(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, try_shut);
    return shut_works;
}
