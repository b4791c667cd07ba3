/*
 * A client without the library: it holds the regions in its hands and writes into them whatever a
 * test wants to lie about.
 */
#ifndef QUERN_TESTS_RAW_CLIENT_H
#define QUERN_TESTS_RAW_CLIENT_H

#include "ipc/handshake.h"
#include "ipc/layout.h"
#include <stddef.h>

struct raw_client {
    int fd;
    int fds[2]; /* request region, reply region */
    struct ipc_welcome w;
    volatile uint8_t *request;     /* (w.request_size) writable */
    const volatile uint8_t *reply; /* (w.reply_size) */
    volatile struct ipc_request_words *ours;
    const volatile struct ipc_reply_words *theirs;
};

/* Connects and shakes hands, with these features wanted. 0 or -errno. */
int raw_connect(struct raw_client *c, const char *path, uint64_t features);
int raw_connect_wanting(struct raw_client *c, const char *path, uint64_t features,
                        const struct ipc_sizes *wanted);
/* Without the seals that the service waits for; adds them: 0 or -errno. */
int raw_connect_unsealed(struct raw_client *c, const char *path, uint64_t features);
int raw_seal(struct raw_client *c);
/* Everything but the hang-up: the maps go, the socket stays. */
void raw_unmap(struct raw_client *c);
void raw_close(struct raw_client *c);

/* A record that a service takes: generate, text input at offset 0. */
struct ipc_request_record raw_record(uint64_t id, uint32_t input_bytes);
/* Writes it into the slot of index (modulo the ring). */
void raw_write_record(struct raw_client *c, uint64_t index, const struct ipc_request_record *r);
/* Publishes a tail and rings, needed or not. */
void raw_publish(struct raw_client *c, uint64_t tail);
/* Waits up to timeout_ms for the service to hang up. 1: it did. */
int raw_wait_hang_up(struct raw_client *c, int timeout_ms);
/* Waits for the event of that index and copies it. 1, 0 at the time-out. */
int raw_wait_event(struct raw_client *c, uint64_t index, struct ipc_event_record *ret,
                   int timeout_ms);

#endif
