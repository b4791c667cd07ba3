/* The metrics page: what the service counts, for Prometheus and its like, over HTTP by libmicrohttpd.
 *
 * It listens where systemd says (a passed stream socket), on a Unix socket, or on a port of the
 * loopback device. A thread of its own answers from a snapshot, which the service leaves for it
 * between two steps: a scrape never touches the step loop, and an idle service is not woken.
 *
 * The format is OpenMetrics 1.0 for those who accept it, else the Prometheus text format 0.0.4. */
#ifndef QUERN_SVC_METRICS_H
#define QUERN_SVC_METRICS_H

#include "ipc/session.h"
#include "svc/figures.h"
#include "svc/policy.h"

struct metrics;

/* What a page says. */
struct metrics_snapshot {
    struct figures figures;
    uint64_t refused[POLICY_N_CAUSES];
    struct ipc_session_counters ring; /* of all clients that ever came, together */
    uint64_t load_done, load_total;   /* bytes, while a model is loading */
};

/* Listens on the stream sockets that systemd passed, and on `address` if it is not NULL: a path, or
 * 127.0.0.1:PORT or [::1]:PORT. *ret is NULL where there is neither. 0 or -errno with a sentence. */
int metrics_new(struct metrics **ret, const char *address, char *why, size_t why_size);
void metrics_free(struct metrics *metrics);

/* Hands over a copy. With `wait` it counts at once; else it is dropped if a scrape is just reading
 * the one before, which nobody waits for. */
void metrics_publish(struct metrics *metrics, const struct metrics_snapshot *snapshot, bool wait);

/* Adds what one session did. */
void metrics_add_session(struct ipc_session_counters *total, const struct ipc_session *session);

#endif
