/* The service's end of one connection: see raw_service.h. */
#define _GNU_SOURCE
#include "tests/support/raw_service.h"
#include "ipc/socket.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void raw_service_init(struct raw_service *s)
{
    const struct ipc_sizes sizes = {IPC_SUBMIT_ENTRIES_MIN, IPC_EVENT_ENTRIES_MIN, IPC_BYTES_MIN,
                                    IPC_BYTES_MIN};
    int pair[2];

    memset(s, 0, sizeof(*s));
    ipc_plan_welcome(&sizes, 16, IPC_VERSION_MAX, 0, 1, &s->w);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
        ipc_region_make(&s->request, "quern-request", s->w.request_size, IPC_PAGE,
                        IPC_CLIENT_WRITES) < 0 ||
        ipc_region_make(&s->reply, "quern-reply", s->w.reply_size, IPC_PAGE, IPC_SERVICE_WRITES) <
            0) {
        perror("raw service");
        abort();
    }
    s->fd = pair[0];
    s->client_fd = pair[1];
    s->ours = (volatile void *)s->reply.base;
}

void raw_service_done(struct raw_service *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->client_fd >= 0)
        close(s->client_fd);
    ipc_region_done(&s->request);
    ipc_region_done(&s->reply);
}

void raw_service_welcome(struct raw_service *s, const void *w, size_t n, const int *fds,
                         unsigned n_fds)
{
    if (ipc_send(s->fd, w, n, fds, n_fds) < 0)
        abort();
}

quern *raw_service_adopt(struct raw_service *s)
{
    int fds[2] = {s->request.fd, s->reply.fd};
    quern *q;

    raw_service_welcome(s, &s->w, sizeof(s->w), fds, 2);
    if (quern_adopt(&q, s->client_fd) < 0) {
        fprintf(stderr, "raw service: %s\n", quern_connect_error());
        abort();
    }
    s->client_fd = -1;
    return q;
}

void raw_service_event(struct raw_service *s, uint64_t index, const struct ipc_event_record *e,
                       uint64_t tail)
{
    ipc_copy_to_shared(s->reply.base + s->w.event_offset +
                           (index % s->w.event_entries) * s->w.event_stride,
                       e, sizeof(*e));
    __atomic_store_n(&s->ours->event_tail, tail, __ATOMIC_SEQ_CST);
}
