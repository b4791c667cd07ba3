/*
 * The service's end of one connection, held in a test's hands: a socket pair with the library at
 * the other end, and both regions to write lies into.
 */
#ifndef QUERN_TESTS_RAW_SERVICE_H
#define QUERN_TESTS_RAW_SERVICE_H

#include "client/lib/handle.h"
#include "ipc/handshake.h"

struct raw_service {
    int fd;        /* ours */
    int client_fd; /* for quern_adopt; -1 once it is taken */
    struct ipc_welcome w;
    struct ipc_region request, reply;
    volatile struct ipc_reply_words *ours;
};

/* Makes an honest plan in the smallest sizes, and memory for it. Aborts without memory. */
void raw_service_init(struct raw_service *s);
void raw_service_done(struct raw_service *s);
/* Sends the welcome w (honest or not) with these descriptors, so that quern_adopt finds it. */
void raw_service_welcome(struct raw_service *s, const void *w, size_t n, const int *fds,
                         unsigned n_fds);
/* Sends the honest welcome and lets the library map everything. */
quern *raw_service_adopt(struct raw_service *s);
/* Writes an event into its slot and publishes tail. */
void raw_service_event(struct raw_service *s, uint64_t index, const struct ipc_event_record *e,
                       uint64_t tail);

#endif
