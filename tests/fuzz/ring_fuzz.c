/*
 * A hostile client, steered by the fuzzer: the input is a program that writes any byte of the
 * request region, sends any packet, and lets the service take, post, finish, arm and ring in any
 * order in between. The session must keep its promises or say -EPROTO.
 */
#define _GNU_SOURCE
#include "ipc/region.h"
#include "ipc/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct ipc_limits limits = {
    .preset = {8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN},
    .max = {8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN},
    .requests_max = 4,
};

struct run {
    const uint8_t *data;
    size_t size;
    int fd; /* the client's end */
    struct ipc_session *session;
    struct ipc_welcome w;
    uint8_t *request; /* (w.request_size) the client's map */
    bool sealed;
    uint64_t ids[4], last_id;
    unsigned n;
    uint8_t buffer[IPC_BYTES_MIN];
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
    struct ipc_hello hello;
    int pair[2], fds[2];
    unsigned n_fds;

    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    run->fd = pair[0];
    struct ipc_peer peer = {.fd = pair[1], .pidfd = -1};
    require(ipc_session_new(&run->session, &peer) == 0);
    ipc_plan_hello(&limits.preset, &hello);
    unsigned first = (unsigned)take_bytes(run, 1);
    if (first % 2 != 0) /* doorbells are packets */
        hello.features = 0;
    if (first == 0) /* else a true hello */
        ((uint8_t *)&hello)[take_bytes(run, 1) % sizeof(hello)] ^= (uint8_t)take_bytes(run, 1);
    require(ipc_send(run->fd, &hello, sizeof(hello), NULL, 0) == 0);
    if (ipc_session_receive(run->session, 0) != IPC_RECEIVED_HELLO ||
        ipc_session_open(run->session, &limits, 1) < 0)
        return -EPROTO;
    require(ipc_receive(run->fd, &run->w, sizeof(run->w), fds, 2, &n_fds, 0) == sizeof(run->w));
    require(n_fds == 2);
    run->request = mmap(NULL, run->w.request_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    require(run->request != MAP_FAILED);
    run->sealed = first % 8 < 6; /* the others are never looked at */
    require(!run->sealed || fcntl(fds[0], F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
    close(fds[0]);
    close(fds[1]);
    return 0;
}

static int take(struct run *run)
{
    struct ipc_request request;
    int r = ipc_session_take(run->session, &request, run->buffer, sizeof(run->buffer));

    require(r == 0 || r == 1 || r == -EPROTO);
    if (r != 1)
        return r;
    require((uint64_t)request.r.input_bytes + request.r.stop_bytes + request.r.model_bytes +
                request.r.bias_bytes + request.r.stop_id_bytes <=
            sizeof(run->buffer));
    require(request.input == run->buffer);
    if (request.r.op == IPC_OP_CANCEL)
        return 0;
    require(request.r.id > run->last_id && run->n < 4);
    run->last_id = run->ids[run->n++] = request.r.id;
    require(ipc_session_in_flight(run->session) == run->n);
    return 0;
}

static int post(struct run *run)
{
    static const uint8_t text[IPC_DATA_MAX + 1];
    struct ipc_event_record event = {.type = IPC_EVENT_TOKEN, .id = 7};
    size_t n = take_bytes(run, 2) % (sizeof(text) + 1);

    if (run->n == 0) {
        require(ipc_session_post(run->session, &event, NULL, 0) == -ENOENT);
        return 0;
    }
    event.id = run->ids[take_bytes(run, 1) % run->n];
    int r = ipc_session_post(run->session, &event, text, n);
    require(r == 0 || r == -EAGAIN || r == -EPROTO || (r == -EMSGSIZE && n > IPC_DATA_MAX));
    return r == -EPROTO ? r : 0;
}

static int finish(struct run *run)
{
    struct ipc_event_record event = {.type = IPC_EVENT_FINAL};

    if (run->n == 0)
        return 0;
    unsigned at = (unsigned)take_bytes(run, 1) % run->n;
    event.id = run->ids[at];
    int r = ipc_session_finish(run->session, &event, "a sentence");
    require(r == 0 || r == -EPROTO); /* its room was kept */
    run->ids[at] = run->ids[--run->n];
    return r;
}

/* What the client does: any bytes anywhere, a word moved a little, a packet. */
static void lie(struct run *run, unsigned what)
{
    static const uint16_t words[] = {0, 64, 72, 128};
    size_t at = words[take_bytes(run, 1) % 4];
    uint64_t word;

    if (what == 0) {
        memcpy(&word, run->request + at, 8);
        word += (uint64_t)(int8_t)take_bytes(run, 1);
        memcpy(run->request + at, &word, 8);
    } else if (what == 1) {
        word = take_bytes(run, 8);
        memcpy(run->request + at, &word, 8);
    } else if (what == 2) {
        size_t n = take_bytes(run, 1);

        at = take_bytes(run, 4) % (run->w.request_size - 256);
        for (size_t i = 0; i < n; i++)
            run->request[at + i] = (uint8_t)take_bytes(run, 1);
    } else { /* a record that is nearly good, in the slot that comes next */
        struct ipc_request_record r = {.op = IPC_OP_GENERATE, .input = IPC_INPUT_TEXT};
        uint64_t tail;

        r.id = run->last_id + 1 + take_bytes(run, 1);
        r.input_bytes = (uint32_t)take_bytes(run, 2);
        ((uint8_t *)&r)[take_bytes(run, 1) % sizeof(r)] ^= (uint8_t)take_bytes(run, 1);
        memcpy(&tail, run->request, 8);
        memcpy(run->request + run->w.submit_offset + (tail % 8) * sizeof(r), &r, sizeof(r));
        tail++;
        memcpy(run->request, &tail, 8);
    }
}

static int socket_lie(struct run *run)
{
    uint8_t packet[100];
    size_t n = take_bytes(run, 1) % sizeof(packet);
    int with_fd = take_bytes(run, 1) == 0;

    memset(packet, IPC_DOORBELL, sizeof(packet));
    for (size_t i = 0; i < n % 3; i++)
        packet[i] = (uint8_t)take_bytes(run, 1);
    if (n == 0)
        n = 1;
    struct pollfd fd = {.fd = ipc_session_peer(run->session)->fd, .events = POLLIN};
    if ((run->w.features & IPC_FEATURE_SHUT_BELL) != 0 && n % 8 != 0)
        (void)shutdown(run->fd, n < 90 ? SHUT_WR : n % 3 != 0 ? SHUT_RD : SHUT_RDWR);
    else
        (void)ipc_send(run->fd, packet, n, &run->fd, with_fd ? 1 : 0);
    (void)poll(&fd, 1, 0);
    int r = ipc_session_receive(run->session, (uint32_t)fd.revents);
    return r < 0 ? r : 0;
}

static int step(struct run *run)
{
    unsigned what = (unsigned)take_bytes(run, 1) % 11;
    uint8_t bytes[16];
    int r = 0;

    switch (what) {
    case 4:
        return take(run);
    case 5:
        return post(run);
    case 6:
        return finish(run);
    case 7:
        r = ipc_session_arm(run->session);
        break;
    case 8:
        r = ipc_session_poll(run->session);
        break;
    case 9:
        r = ipc_session_ring(run->session);
        (void)!recv(run->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        break;
    case 10:
        return socket_lie(run);
    default:
        lie(run, what);
        break;
    }
    require(r >= 0 || r == -EPROTO || r == -ECONNRESET);
    return r < 0 ? r : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run run = {.data = data, .size = size};
    int r = start(&run);

    for (int i = 0; r == 0 && run.size > 0 && i < 400; i++)
        r = step(&run);
    if (r < 0)
        require(ipc_session_why(run.session)[0] != 0);
    ipc_session_free(run.session);
    if (run.request != NULL) {
        for (size_t i = 0; !run.sealed && i < run.w.request_size; i += IPC_PAGE)
            require(run.request[i] == 0); /* punched empty */
        munmap(run.request, run.w.request_size);
    }
    close(run.fd);
    return 0;
}
