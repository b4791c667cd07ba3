/*
 * A hostile service, steered by the fuzzer: it lies in the welcome, writes any byte of the reply
 * region, sends any packet, hangs up at any moment, while the library submits, reads and cancels.
 * The library must answer with an errno that its header names.
 */
#include "client/lib/handle.h"
#include "ipc/handshake.h"
#include "ipc/socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    const uint8_t *data;
    size_t size;
    int fd; /* the service's end; -1 after it hung up */
    struct ipc_welcome w;
    struct ipc_region request, reply;
    quern *q;
    struct quern_event event;
    uint64_t events, pos; /* what a good event would be next */
};

static uint64_t take_bytes(struct run *run, size_t n)
{
    uint64_t value = 0;

    for (size_t i = 0; i < n && run->size > 0; i++, run->size--)
        value |= (uint64_t)*run->data++ << 8 * i;
    return value;
}

static void require(int ok)
{
    if (!ok)
        abort();
}

static int start(struct run *run)
{
    const struct ipc_sizes sizes = {8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN};
    struct ipc_welcome w;
    int pair[2];

    ipc_plan_welcome(&sizes, 16, IPC_VERSION_MAX, 0, 1, &run->w);
    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    require(ipc_region_make(&run->request, "quern-request", run->w.request_size, IPC_PAGE,
                            IPC_CLIENT_WRITES) == 0);
    require(ipc_region_make(&run->reply, "quern-reply", run->w.reply_size, IPC_PAGE,
                            IPC_SERVICE_WRITES) == 0);
    run->fd = pair[0];
    w = run->w;
    unsigned first = (unsigned)take_bytes(run, 1);
    if (first % 2 != 0)
        w.features = IPC_FEATURE_SHUT_BELL;
    if (first == 0)
        for (unsigned n = (unsigned)take_bytes(run, 1) % 4; n > 0; n--)
            ((uint8_t *)&w)[take_bytes(run, 1) % sizeof(w)] = (uint8_t)take_bytes(run, 1);
    const int fds[2] = {run->request.fd, run->reply.fd};
    require(ipc_send(run->fd, &w, sizeof(w), fds, 2) == 0);
    int r = quern_adopt(&run->q, pair[1]);
    require(r == 0 || r == -EPROTO);
    return r;
}

static void submit(struct run *run)
{
    static const char anything[1 << 16];
    struct quern_request r;
    uint64_t id;

    quern_request_init(&r);
    r.input = anything;
    r.input_size = take_bytes(run, 2);
    int e = quern_submit(run->q, &r, &id);
    require(e == 0 || e == -EAGAIN || e == -EPROTO || e == -ECONNRESET || e == -EMSGSIZE);
}

static void next(struct run *run)
{
    uint64_t id = take_bytes(run, 1) % 8;
    int e = quern_next(run->q, id, &run->event, 0);

    require(e == 0 || e == -EAGAIN || e == -ENOENT || e == -EPROTO || e == -ECONNRESET);
    if (e == 0) {
        require(run->event.data_size < run->event.capacity);
        require(run->event.data[run->event.data_size] == 0);
    }
}

/* An event that is nearly good, in the slot that comes next. */
static void write_event(struct run *run)
{
    struct ipc_event_record e = {.id = 1 + take_bytes(run, 1) % 4, .pos = run->pos};

    e.type = (uint16_t)(1 + take_bytes(run, 1) % 6);
    e.u.data.kind = 2;
    if (e.type == IPC_EVENT_TOKEN)
        e.bytes = (uint32_t)take_bytes(run, 2) % 4097;
    ((uint8_t *)&e)[take_bytes(run, 1) % sizeof(e)] ^= (uint8_t)take_bytes(run, 1);
    memcpy(run->reply.base + run->w.event_offset + run->events % 64 * sizeof(e), &e, sizeof(e));
    run->events++;
    run->pos += e.bytes;
    memcpy(run->reply.base, &run->events, 8);
}

static void lie(struct run *run)
{
    size_t at = take_bytes(run, 4) % (run->w.reply_size - 8);
    uint64_t value = take_bytes(run, 8);

    if (at % 4 != 0) /* mostly the words */
        at = at % 3 * 64;
    memcpy(run->reply.base + at, &value, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run run = {.data = data, .size = size, .event = QUERN_EVENT_INIT};
    int r = start(&run);

    for (int i = 0; r == 0 && run.size > 0 && i < 400; i++) {
        switch (take_bytes(&run, 1) % 8) {
        case 0:
            submit(&run);
            break;
        case 1:
        case 2:
            next(&run);
            break;
        case 3:
        case 4:
            write_event(&run);
            break;
        case 5:
            lie(&run);
            break;
        case 6:
            (void)quern_cancel(run.q, take_bytes(&run, 1) % 8);
            break;
        default:
            if (run.fd < 0)
                break;
            if (take_bytes(&run, 1) % 8 == 0) {
                close(run.fd);
                run.fd = -1;
            } else {
                const int fd = run.fd;
                unsigned n = (unsigned)take_bytes(&run, 1);

                if (n >= 128)
                    (void)shutdown(fd, (int)(n % 3));
                else
                    (void)ipc_send(fd, "garbage", 1 + n % 7, &fd, take_bytes(&run, 1) % 2);
            }
            break;
        }
    }
    if (r == 0)
        quern_close(run.q);
    quern_event_done(&run.event);
    ipc_region_done(&run.request);
    ipc_region_done(&run.reply);
    if (run.fd >= 0)
        close(run.fd);
    return 0;
}
