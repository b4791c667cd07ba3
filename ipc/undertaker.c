/* The undertaker: see undertaker.h. */
#define _GNU_SOURCE
#include "ipc/undertaker.h"
#include "ipc/region.h"
#include "ipc/socket.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PATIENCE_MS = 20, /* then a burial is taken to wait for its client: another process goes on */
    SPARE_MS = 1000,  /* without work, then that one ends */
    KEPT_MS = 20,     /* between two looks at what clients keep */
    KEPT_MAX = 256, /* such regions that one process watches: others take no descriptors from it */
};

/* ---- The undertaker's side ----------------------------------------------------------------------- */

/* Regions that cannot be punched, and that their clients still hold. */
struct kept {
    unsigned n;
    struct {
        int fd;
        uint64_t tag;
    } all[KEPT_MAX];
};

static void say_buried(int bodies_fd, uint64_t tag)
{
    (void)!send(bodies_fd, &tag, sizeof(tag), MSG_NOSIGNAL); /* waits for room: none is lost */
}

/* Whatever has come back by now. */
static void look_after(struct kept *kept, int bodies_fd)
{
    for (unsigned i = kept->n; i-- > 0;) {
        if (!ipc_region_is_ours_alone(kept->all[i].fd))
            continue;
        close(kept->all[i].fd);
        say_buried(bodies_fd, kept->all[i].tag);
        kept->all[i] = kept->all[--kept->n];
    }
}

/* One burial. May wait for ever, after the region that cannot be made to wait. */
static void bury(int bodies_fd, struct kept *kept)
{
    int fds[IPC_FDS_MAX], kept_fd = -1;
    unsigned n_fds = 0;
    uint64_t tag;

    ssize_t n = ipc_receive(bodies_fd, &tag, sizeof(tag), fds, IPC_FDS_MAX, &n_fds, 0);
    for (unsigned i = n_fds; i-- > 1;) { /* the last is the reply region: no client can write it */
        /* Its client may seal it in the middle of this, or in half: then punching says so. */
        if (ipc_region_is_sealed(fds[i]) || ipc_region_punch(fds[i]) < 0)
            kept_fd = fds[i];
    }
    for (unsigned i = n_fds; i-- > 0;)
        if (fds[i] != kept_fd)
            close(fds[i]);
    if (n != sizeof(tag))
        return;
    if (kept_fd < 0) {
        say_buried(bodies_fd, tag);
        return;
    }
    kept->all[kept->n].fd = kept_fd;
    kept->all[kept->n++].tag = tag;
    look_after(kept, bodies_fd);
}

/* Waits for a byte; whoever takes one may take a body: of the first n bodies, all descriptors of the
 * service's own are closed when n bytes have come. False: nothing is left to do, or the service is
 * gone. */
static bool take_go(int bodies_fd, int go_fd, bool spare, struct kept *kept)
{
    for (;;) {
        struct pollfd go = {.fd = go_fd, .events = kept->n < KEPT_MAX ? POLLIN : 0};
        char byte;

        int r = poll(&go, 1, kept->n > 0 ? KEPT_MS : spare ? SPARE_MS : -1);
        if (r == 0 && kept->n == 0)
            return false;
        if (r > 0 && (go.revents & POLLIN) == 0)
            return false; /* gone; where this one is full, what is left goes with it */
        if (r > 0) {
            ssize_t n = recv(go_fd, &byte, 1, MSG_DONTWAIT);

            if (n >= 0)
                return n == 1;
        }
        look_after(kept, bodies_fd);
    }
}

/* Buries one after the other, until the service is gone; a spare one as long as there is work. */
static _Noreturn void work(int bodies_fd, int go_fd, bool spare)
{
    static struct kept kept;

    while (take_go(bodies_fd, go_fd, spare, &kept))
        bury(bodies_fd, &kept);
    _exit(0);
}

static void start_worker(int bodies_fd, int go_fd, bool spare)
{
    if (fork() == 0)
        work(bodies_fd, go_fd, spare);
}

/* Keeps nothing of the service: not a socket that would look alive, not a pipe that someone reads. */
static void let_go(int keep, int keep_too)
{
    unsigned low = (unsigned)(keep < keep_too ? keep : keep_too);
    unsigned high = (unsigned)(keep < keep_too ? keep_too : keep);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int fd = 0; fd < 3 && null_fd >= 0; fd++)
        dup2(null_fd, fd);
    if (low > 3)
        close_range(3, low - 1, 0);
    if (high > low + 1)
        close_range(low + 1, high - 1, 0);
    close_range(high + 1, ~0u, 0);
}

static _Noreturn void undertake(int bodies_fd, int go_fd)
{
    struct pollfd go = {.fd = go_fd, .events = POLLIN};

    let_go(bodies_fd, go_fd);
    prctl(PR_SET_NAME, "quernd-bury");
    signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
    signal(SIGTERM, SIG_IGN); /* the service goes first, and still needs us then */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGIO, SIG_IGN); /* somebody opened a file that had a lease */
    start_worker(bodies_fd, go_fd, false);
    for (;;) {
        int before = 0, after = 0;

        (void)poll(&go, 1, -1);
        (void)ioctl(go_fd, FIONREAD, &before);
        if (before == 0 && (go.revents & POLLHUP) != 0)
            _exit(0); /* the service is gone, and with it whoever would be told */
        if (before == 0)
            continue;
        (void)poll(NULL, 0, PATIENCE_MS);
        (void)ioctl(go_fd, FIONREAD, &after);
        if (after >= before)
            start_worker(bodies_fd, go_fd, true); /* nobody got on: where none can be made, later */
    }
}

/* ---- The service's side -------------------------------------------------------------------------- */

int ipc_undertaker_start(struct ipc_undertaker *ret)
{
    int bodies[2], go[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, bodies) < 0)
        return -errno;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go) < 0) {
        int r = -errno;

        close(bodies[0]);
        close(bodies[1]);
        return r;
    }
    pid_t pid = fork();
    if (pid == 0)
        undertake(bodies[1], go[1]);
    int r = pid < 0 ? -errno : 0;
    close(bodies[1]);
    close(go[1]);
    if (r < 0) {
        close(bodies[0]);
        close(go[0]);
        return r;
    }
    *ret = (struct ipc_undertaker){bodies[0], go[0]};
    return 0;
}

void ipc_undertaker_stop(struct ipc_undertaker *u)
{
    if (u->bodies_fd < 0)
        return;
    close(u->go_fd);
    close(u->bodies_fd);
    *u = IPC_UNDERTAKER_NONE;
}

int ipc_undertaker_give(const struct ipc_undertaker *u, const int *fds, unsigned n, uint64_t tag)
{
    return u->bodies_fd < 0 ? -ECONNRESET : ipc_send(u->bodies_fd, &tag, sizeof(tag), fds, n);
}

int ipc_undertaker_go(const struct ipc_undertaker *u)
{
    /* Has room: a byte is never there without its body, and its socket is as large as theirs. */
    while (send(u->go_fd, "g", 1, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int ipc_undertaker_buried(const struct ipc_undertaker *u, uint64_t *ret_tag)
{
    for (;;) {
        ssize_t n = recv(u->bodies_fd, ret_tag, sizeof(*ret_tag), MSG_DONTWAIT);

        if (n == sizeof(*ret_tag))
            return 1;
        if (n < 0 && errno == EINTR)
            continue;
        return n < 0 && errno == EAGAIN ? 0 : -ECONNRESET;
    }
}
