/*
 * The handshake: what the packets say, and whether it can be true. Nothing here touches a socket
 * or a region; every function is a pure one from bytes to a verdict, so that it can be fuzzed.
 *
 *   client  hello  ------------------------------------>  service   ipc_hello_check, ipc_plan_sizes
 *   client  <---------------  welcome + two descriptors   service   ipc_plan_welcome
 *                             or refusal
 *   ipc_welcome_check / ipc_refusal_check
 */
#ifndef QUERN_IPC_HANDSHAKE_H
#define QUERN_IPC_HANDSHAKE_H

#include "ipc/layout.h"
#include <stddef.h>
#include <stdint.h>

struct ipc_sizes {
    uint32_t submit_entries; /* power of two */
    uint32_t event_entries;  /* power of two */
    uint32_t request_bytes;  /* multiple of IPC_PAGE */
    uint32_t reply_bytes;    /* multiple of IPC_PAGE */
};

struct ipc_limits {
    struct ipc_sizes preset; /* what a client gets that does not ask */
    struct ipc_sizes max;    /* what the largest ask is cut down to */
    uint32_t
        requests_max; /* in flight at once; cut down to what the event ring can keep room for */
};

/* 64 submissions, 512 events, 1 MiB each way; at most 4,096, 65,536, 16 MiB; 64 in flight. */
extern const struct ipc_limits ipc_limits_default;

/* ---- Service's side ------------------------------------------------------------------------------ */

/* Is this packet a hello? 0 and a copy in *ret, or -EPROTO with one sentence in why. A hello of
 * versions that we do not speak is a valid hello. */
int ipc_hello_check(const void *packet, size_t n, struct ipc_hello *ret, char *why,
                    size_t why_size);

/* The highest version that both speak, or 0. */
uint16_t ipc_hello_version(const struct ipc_hello *hello);

/* What this hello gets under these limits: powers of two and whole pages, within the bounds of
 * layout.h whatever limits say. */
void ipc_plan_sizes(const struct ipc_hello *hello, const struct ipc_limits *limits,
                    struct ipc_sizes *ret);

/* Lays out both regions. version, features and session_id go into the packet as they are. */
void ipc_plan_welcome(const struct ipc_sizes *sizes, uint32_t requests_max, uint16_t version,
                      uint64_t features, uint64_t session_id, struct ipc_welcome *ret);

void ipc_plan_refusal(enum ipc_code code, const char *sentence, struct ipc_refusal *ret);

/* ---- Client's side ------------------------------------------------------------------------------- */

void ipc_plan_hello(const struct ipc_sizes *wanted, struct ipc_hello *ret);

/* Is this packet a welcome that a careful client can use: every offset, size and count in bounds,
 * aligned, and without overlap? 0 and a copy in *ret, or -EPROTO with one sentence in why. */
int ipc_welcome_check(const void *packet, size_t n, struct ipc_welcome *ret, char *why,
                      size_t why_size);

/* Is it a refusal? 0 and a copy in *ret (the sentence ends with a zero byte), or -EPROTO. */
int ipc_refusal_check(const void *packet, size_t n, struct ipc_refusal *ret);

#endif
