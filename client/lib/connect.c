/* From a path to a handle, and back: connecting, checking what the service hands over, closing. */
#define _GNU_SOURCE
#include "client/lib/handle.h"
#include "ipc/handshake.h"
#include "ipc/request.h"
#include "ipc/socket.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SYSTEM_SOCKET "/run/quern/quern.sock"

/* Connects to path, or along the search order of quern.h; *ret_path is what to speak of. */
static int connect_somewhere(const char *path, char *used, size_t used_size)
{
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");

    if (path == NULL)
        path = secure_getenv("QUERN_SOCKET");
    if (path != NULL && path[0] != 0) {
        snprintf(used, used_size, "%s", path);
        return ipc_connect(path);
    }
    if (runtime != NULL && runtime[0] != 0) {
        snprintf(used, used_size, "%s/quern/quern.sock", runtime);
        int fd = ipc_connect(used);

        if (fd != -ENOENT)
            return fd;
    }
    snprintf(used, used_size, "%s", SYSTEM_SOCKET);
    return ipc_connect(used);
}

static int explain_connect(int r, const char *path)
{
    switch (r) {
    case -ENOENT:
    case -ENOTDIR:
        return quern_fail(NULL, r, "No service at %.200s: the socket does not exist; start quernd.",
                          path);
    case -ECONNREFUSED:
        return quern_fail(NULL, r, "No service at %.200s: nobody listens there; start quernd.",
                          path);
    case -EACCES:
    case -EPERM:
        return quern_fail(NULL, r, "This user may not connect to %.200s.", path);
    default:
        return quern_fail(NULL, r, "Cannot connect to %.200s: %s.", path, strerror(-r));
    }
}

/* What a refusal says, as an errno value. */
static int explain_refusal(const struct ipc_refusal *refusal)
{
    int r = refusal->code == IPC_CODE_BUSY      ? -EBUSY
            : refusal->code == IPC_CODE_DENIED  ? -EACCES
            : refusal->code == IPC_CODE_VERSION ? -EPROTONOSUPPORT
                                                : -ECONNABORTED;

    return quern_fail(NULL, r, "The service refused (%s): %s", ipc_code_name(refusal->code),
                      refusal->sentence);
}

/* Says hello, waits for the welcome; two descriptors in fds when it returns 0. */
static int shake_hands(int fd, struct ipc_welcome *ret, int fds[2])
{
    union {
        struct ipc_welcome welcome;
        struct ipc_refusal refusal;
        uint8_t bytes[512];
    } packet;
    const struct ipc_sizes wanted = {0, 0, 0, 0};
    struct ipc_refusal refusal;
    struct ipc_hello hello;
    char why[IPC_SENTENCE_MAX];
    unsigned n_fds = 0;

    ipc_plan_hello(&wanted, &hello);
    /* A service that refuses may be gone before it reads; its refusal is still to be read then. */
    (void)ipc_send(fd, &hello, sizeof(hello), NULL, 0);
    ssize_t n = ipc_receive(fd, &packet, sizeof(packet), fds, 2, &n_fds, 0);
    int r = 0;
    if (n <= 0)
        r = quern_fail(NULL, -ECONNRESET, "The service hung up during the handshake.");
    else if (n_fds == 0 && ipc_refusal_check(&packet, (size_t)n, &refusal) == 0)
        r = explain_refusal(&refusal);
    else if (ipc_welcome_check(&packet, (size_t)n, ret, why, sizeof(why)) < 0)
        r = quern_fail(NULL, -EPROTO, "%s", why);
    else if (n_fds != 2)
        r = quern_fail(NULL, -EPROTO, "The service sent %u descriptors instead of 2.", n_fds);
    for (unsigned i = 0; r < 0 && i < n_fds && i < 2; i++)
        close(fds[i]);
    return r;
}

static void attach_rings(quern *q)
{
    const struct ipc_welcome *layout = &q->layout;
    volatile struct ipc_request_words *ours = (void *)q->request.base;
    volatile struct ipc_reply_words *theirs = (void *)q->reply.base;

    q->submit = (struct ipc_out){
        .tail = &ours->submit_tail,
        .head = &theirs->submit_head,
        .slots = q->request.base + layout->submit_offset,
        .entries = layout->submit_entries,
        .stride = layout->submit_stride,
    };
    q->events = (struct ipc_in){
        .tail = &theirs->event_tail,
        .head = &ours->event_head,
        .slots = q->reply.base + layout->event_offset,
        .entries = layout->event_entries,
        .stride = layout->event_stride,
    };
    q->bytes = (struct ipc_bytes_in){
        .head = &ours->reply_head,
        .base = q->reply.base + layout->reply_offset,
        .size = layout->reply_bytes,
    };
    q->want = (struct ipc_want){.word = &ours->client_wants};
    q->bell = (struct ipc_bell){.word = &theirs->service_wants};
}

/* Maps both regions; whichever descriptors come in are closed, the maps stay. */
static int map_regions(quern *q, const int fds[2])
{
    char why[IPC_SENTENCE_MAX];
    int r = ipc_region_map(&q->request, fds[0], q->layout.request_size, IPC_CLIENT_WRITES, why,
                           sizeof(why));

    if (r == 0)
        r = ipc_region_map(&q->reply, fds[1], q->layout.reply_size, IPC_SERVICE_WRITES, why,
                           sizeof(why));
    close(fds[0]);
    close(fds[1]);
    q->request.fd = q->reply.fd = -1;
    return r < 0 ? quern_fail(NULL, r, "%s", why) : 0;
}

/* Without packets a doorbell is an edge, which epoll alone tells from what was there before. */
static int watch_edges(quern *q)
{
    struct epoll_event event = {.events = IPC_SHUT_BELL_CLIENT};

    if ((q->layout.features & IPC_FEATURE_SHUT_BELL) == 0)
        return 0;
    q->edge_fd = epoll_create1(EPOLL_CLOEXEC);
    if (q->edge_fd < 0 || epoll_ctl(q->edge_fd, EPOLL_CTL_ADD, q->fd, &event) < 0)
        return quern_fail(NULL, -errno, "Cannot watch the connection: %s.", strerror(errno));
    int r = ipc_bell_shut(q->fd, SHUT_WR); /* whether it may is known now, not at the first sleep */
    return r < 0 ? quern_fail(NULL, r,
                              "This program may not shut its socket down, which is how it "
                              "rings the service: %s.",
                              strerror(-r))
                 : 0;
}

/* A page that reads as zero in a child of fork: knowing who we are without a system call. */
static int map_alive(quern *q)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    uint32_t *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED || madvise(page, size, MADV_WIPEONFORK) < 0) {
        if (page != MAP_FAILED)
            munmap(page, size);
        return quern_fail(NULL, -ENOMEM, "Out of memory.");
    }
    *page = QUERN_ALIVE;
    q->alive = page;
    return 0;
}

static int init_locks(quern *q)
{
    pthread_condattr_t attr;
    int r = -pthread_mutex_init(&q->lock, NULL);

    if (r < 0)
        return r;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    r = -pthread_cond_init(&q->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (r < 0)
        pthread_mutex_destroy(&q->lock);
    return r;
}

int quern_adopt(quern **ret, int fd)
{
    int fds[2], r;
    quern *q = calloc(1, sizeof(*q));

    if (q == NULL) {
        close(fd);
        return quern_fail(NULL, -ENOMEM, "Out of memory.");
    }
    q->fd = fd;
    q->edge_fd = -1;
    q->request = q->reply = IPC_REGION_NONE;
    r = map_alive(q);
    if (r < 0)
        goto close_socket;
    r = shake_hands(fd, &q->layout, fds);
    if (r < 0)
        goto unmap_alive;
    r = map_regions(q, fds);
    if (r == 0)
        r = watch_edges(q);
    if (r < 0)
        goto unmap_regions;
    q->span_end = calloc(q->layout.submit_entries, sizeof(*q->span_end));
    if (q->span_end == NULL || init_locks(q) < 0) {
        r = quern_fail(NULL, -ENOMEM, "Out of memory.");
        goto unmap_regions;
    }
    attach_rings(q);
    *ret = q;
    return 0;

unmap_regions:
    if (q->edge_fd >= 0)
        close(q->edge_fd);
    free(q->span_end);
    ipc_region_done(&q->request);
    ipc_region_done(&q->reply);
unmap_alive:
    munmap((void *)(uintptr_t)q->alive, (size_t)sysconf(_SC_PAGESIZE));
close_socket:
    close(fd);
    free(q);
    return r;
}

QUERN_API int quern_connect(quern **ret, const char *path)
{
    char used[256];
    int fd = connect_somewhere(path, used, sizeof(used));

    return fd < 0 ? explain_connect(fd, used) : quern_adopt(ret, fd);
}

QUERN_API void quern_close(quern *q)
{
    if (q == NULL)
        return;
    /* In a child the regions are not there, and something else may be in their place. */
    if (*(const volatile uint32_t *)q->alive == QUERN_ALIVE) {
        ipc_region_done(&q->request);
        ipc_region_done(&q->reply);
        pthread_cond_destroy(&q->changed);
        pthread_mutex_destroy(&q->lock);
    }
    if (q->edge_fd >= 0)
        close(q->edge_fd);
    close(q->fd);
    while (q->pending != NULL) {
        struct pending *p = q->pending;

        q->pending = p->next;
        while (p->first != NULL) {
            struct held_event *e = p->first;

            p->first = e->next;
            free(e);
        }
        free(p);
    }
    munmap((void *)(uintptr_t)q->alive, (size_t)sysconf(_SC_PAGESIZE));
    free(q->span_end);
    free(q);
}

QUERN_API int quern_fd(const quern *q)
{
    return q->edge_fd >= 0 ? q->edge_fd : q->fd;
}

QUERN_API const char *quern_version(void)
{
    return QUERN_VERSION;
}

QUERN_API size_t quern_input_max(const quern *q)
{
    return q->layout.request_bytes;
}

QUERN_API int quern_set_spin(quern *q, unsigned spin_us)
{
    int r = quern_usable(q);

    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    q->spin_us = spin_us;
    pthread_mutex_unlock(&q->lock);
    return 0;
}
