/* A client without the library: see raw_client.h. */
#define _GNU_SOURCE
#include "tests/support/raw_client.h"
#include "ipc/handshake.h"
#include "ipc/ring.h"
#include "ipc/socket.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int raw_seal(struct raw_client *c)
{
    return fcntl(c->fds[0], F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0 ? -errno : 0;
}

static int connect_and_map(struct raw_client *c, const char *path, uint64_t features,
                           const struct ipc_sizes *wanted, bool seal)
{
    struct ipc_hello hello;
    uint8_t packet[256];
    char why[256];
    unsigned n_fds = 0;

    memset(c, 0, sizeof(*c));
    c->fd = ipc_connect(path);
    if (c->fd < 0)
        return c->fd;
    ipc_plan_hello(wanted, &hello);
    hello.features = features;
    int r = ipc_send(c->fd, &hello, sizeof(hello), NULL, 0);
    ssize_t n = r < 0 ? r : ipc_receive(c->fd, packet, sizeof(packet), c->fds, 2, &n_fds, 0);
    if (n <= 0 || n_fds != 2 || ipc_welcome_check(packet, (size_t)n, &c->w, why, sizeof(why)) < 0) {
        close(c->fd);
        return -EPROTO;
    }
    c->request = mmap(NULL, c->w.request_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fds[0], 0);
    c->reply = mmap(NULL, c->w.reply_size, PROT_READ, MAP_SHARED, c->fds[1], 0);
    if (c->request == MAP_FAILED || c->reply == MAP_FAILED) {
        close(c->fd);
        return -ENOMEM;
    }
    if (seal && raw_seal(c) < 0) {
        close(c->fd);
        return -EPERM;
    }
    c->ours = (volatile void *)c->request;
    c->theirs = (const volatile void *)c->reply;
    return 0;
}

int raw_connect(struct raw_client *c, const char *path, uint64_t features)
{
    return connect_and_map(c, path, features, &(struct ipc_sizes){0, 0, 0, 0}, true);
}

int raw_connect_wanting(struct raw_client *c, const char *path, uint64_t features,
                        const struct ipc_sizes *wanted)
{
    return connect_and_map(c, path, features, wanted, true);
}

int raw_connect_unsealed(struct raw_client *c, const char *path, uint64_t features)
{
    return connect_and_map(c, path, features, &(struct ipc_sizes){0, 0, 0, 0}, false);
}

void raw_unmap(struct raw_client *c)
{
    munmap((void *)(uintptr_t)c->request, c->w.request_size);
    munmap((void *)(uintptr_t)c->reply, c->w.reply_size);
    close(c->fds[0]);
    close(c->fds[1]);
}

void raw_close(struct raw_client *c)
{
    raw_unmap(c);
    close(c->fd);
}

struct ipc_request_record raw_record(uint64_t id, uint32_t input_bytes)
{
    return (struct ipc_request_record){
        .id = id,
        .op = IPC_OP_GENERATE,
        .input = IPC_INPUT_TEXT,
        .input_bytes = input_bytes,
    };
}

void raw_write_record(struct raw_client *c, uint64_t index, const struct ipc_request_record *r)
{
    ipc_copy_to_shared(c->request + c->w.submit_offset +
                           (index % c->w.submit_entries) * c->w.submit_stride,
                       r, sizeof(*r));
}

void raw_publish(struct raw_client *c, uint64_t tail)
{
    const uint8_t doorbell = IPC_DOORBELL;

    __atomic_store_n(&c->ours->submit_tail, tail, __ATOMIC_SEQ_CST);
    if ((c->w.features & IPC_FEATURE_SHUT_BELL) != 0)
        (void)ipc_bell_shut(c->fd, SHUT_WR);
    else
        (void)ipc_send(c->fd, &doorbell, 1, NULL, 0);
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int raw_wait_hang_up(struct raw_client *c, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    struct pollfd fd = {.fd = c->fd, .events = POLLIN};
    uint8_t bytes[16];

    while (now_ms() < end) {
        if (poll(&fd, 1, (int)(end - now_ms())) <= 0)
            continue;
        ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return 1;
    }
    return 0;
}

int raw_wait_event(struct raw_client *c, uint64_t index, struct ipc_event_record *ret,
                   int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;

    while (__atomic_load_n(&c->theirs->event_tail, __ATOMIC_ACQUIRE) <= index) {
        if (now_ms() > end)
            return 0;
        usleep(200);
    }
    ipc_copy_from_shared(
        ret, c->reply + c->w.event_offset + (index % c->w.event_entries) * c->w.event_stride,
        sizeof(*ret));
    return 1;
}
