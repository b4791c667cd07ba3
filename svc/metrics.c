/* The metrics page's server (see metrics.h). */
#include "svc/metrics.h"

#include "svc/metrics_text.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS_MAX = 4, CONNECTIONS_MAX = 16, TIMEOUT_S = 10, BACKLOG = 16 };

struct metrics {
    pthread_mutex_t lock; /* of snapshot: held for a copy only */
    struct metrics_snapshot snapshot;
    uint64_t published_us; /* CLOCK_MONOTONIC */
    struct MHD_Daemon *daemons[SOCKETS_MAX];
    unsigned n_daemons;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* to be removed at the end, or "" */
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- answering ------------------------------------------------------------------------------- */

static enum MHD_Result respond(struct MHD_Connection *connection, unsigned code, char *text,
                               size_t n, const char *type)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned code,
                              const char *sentence)
{
    char *text = strdup(sentence);
    return text ? respond(connection, code, text, strlen(text), "text/plain; charset=utf-8")
                : MHD_NO;
}

static enum MHD_Result answer(void *arg, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **state)
{
    static int seen;
    struct metrics *m = arg;
    struct metrics_snapshot *copy;
    size_t n = 0;
    (void)version, (void)upload;

    if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
        return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET.\n");
    if (!*state) { /* libmicrohttpd: the first call is for the headers alone */
        *state = &seen;
        return MHD_YES;
    }
    *upload_size = 0;
    if (strcmp(url, "/metrics"))
        return refuse(connection, MHD_HTTP_NOT_FOUND, "The page is /metrics.\n");
    copy = malloc(sizeof *copy);
    if (!copy)
        return MHD_NO;
    pthread_mutex_lock(&m->lock);
    *copy = m->snapshot;
    copy->figures.uptime_us += now_us() - m->published_us;
    pthread_mutex_unlock(&m->lock);
    const char *accept = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Accept");
    const bool open_metrics = accept && strstr(accept, "application/openmetrics-text");
    char *text = metrics_text(copy, open_metrics, &n);
    free(copy);
    if (!text)
        return MHD_NO;
    return respond(connection, MHD_HTTP_OK, text, n,
                   open_metrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                : "text/plain; version=0.0.4; charset=utf-8");
}

/* ---- sockets --------------------------------------------------------------------------------- */

/* Takes over fd. */
static int serve_on(struct metrics *m, int fd, char *why, size_t why_size)
{
    struct MHD_Daemon *daemon = NULL;
    if (m->n_daemons < SOCKETS_MAX)
        daemon = MHD_start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, answer, m, MHD_OPTION_LISTEN_SOCKET, fd,
            MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
            (unsigned)TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)16384, MHD_OPTION_END);
    if (!daemon) {
        snprintf(why, why_size, "The metrics page cannot be served: %s.",
                 m->n_daemons < SOCKETS_MAX ? strerror(errno ? errno : ENOMEM)
                                            : "too many sockets were passed");
        close(fd);
        return -ENOMEM;
    }
    m->daemons[m->n_daemons++] = daemon;
    return 0;
}

/* A Unix socket at path. One that nobody serves any more is replaced. */
static int listen_at_path(struct metrics *m, const char *path, char *why, size_t why_size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r = fd < 0 ? -errno : 0;
    if (r == 0 && strlen(path) >= sizeof address.sun_path)
        r = -ENAMETOOLONG;
    if (r == 0) {
        strcpy(address.sun_path, path);
        r = bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    }
    if (r == -EADDRINUSE && connect(fd, (struct sockaddr *)&address, sizeof address) < 0 &&
        errno == ECONNREFUSED && unlink(path) == 0)
        r = bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    if (r == 0 && listen(fd, BACKLOG) < 0)
        r = -errno;
    if (r < 0) {
        snprintf(why, why_size, "The metrics page cannot listen on %s: %s.", path, strerror(-r));
        if (fd >= 0)
            close(fd);
        return r;
    }
    strcpy(m->path, path);
    return serve_on(m, fd, why, why_size);
}

/* "127.0.0.1:PORT" or "[::1]:PORT". No other address: the page has no password. */
static int listen_at_port(struct metrics *m, const char *text, char *why, size_t why_size)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const bool is_v4 = !strncmp(text, "127.0.0.1:", 10), is_v6 = !strncmp(text, "[::1]:", 6);
    const char *digits = text + (is_v4 ? 10 : 6);
    char *end;
    unsigned long port = is_v4 || is_v6 ? strtoul(digits, &end, 10) : 0;
    if ((!is_v4 && !is_v6) || *digits < '0' || *digits > '9' || *end || port < 1 || port > 65535) {
        snprintf(why, why_size,
                 "metrics takes a path, 127.0.0.1:PORT or [::1]:PORT, not \"%.60s\".", text);
        return -EINVAL;
    }
    v4.sin_port = v6.sin6_port = htons((uint16_t)port);
    const struct sockaddr *address =
        is_v4 ? (const struct sockaddr *)&v4 : (const struct sockaddr *)&v6;
    const int one = 1;
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, address, is_v4 ? sizeof v4 : sizeof v6) < 0 || listen(fd, BACKLOG) < 0) {
        int r = -errno;
        snprintf(why, why_size, "The metrics page cannot listen on %s: %s.", text, strerror(-r));
        if (fd >= 0)
            close(fd);
        return r;
    }
    return serve_on(m, fd, why, why_size);
}

static int serve_passed_sockets(struct metrics *m, char *why, size_t why_size)
{
    int n = sd_listen_fds(0), r = 0;
    for (int i = 0; i < n && r == 0; i++)
        if (sd_is_socket(SD_LISTEN_FDS_START + i, AF_UNSPEC, SOCK_STREAM, 1) > 0)
            r = serve_on(m, SD_LISTEN_FDS_START + i, why, why_size);
    return r;
}

/* ---- for the service --------------------------------------------------------------------------- */

int metrics_new(struct metrics **ret, const char *address, char *why, size_t why_size)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (!m) {
        snprintf(why, why_size, "No memory was left for the metrics page.");
        return -ENOMEM;
    }
    pthread_mutex_init(&m->lock, NULL);
    m->published_us = now_us();
    int r = serve_passed_sockets(m, why, why_size);
    if (r == 0 && address)
        r = address[0] == '/' ? listen_at_path(m, address, why, why_size)
                              : listen_at_port(m, address, why, why_size);
    if (r < 0 || m->n_daemons == 0) {
        metrics_free(m);
        m = NULL;
    }
    if (r == 0)
        *ret = m;
    return r;
}

void metrics_free(struct metrics *metrics)
{
    if (!metrics)
        return;
    for (unsigned i = 0; i < metrics->n_daemons; i++)
        MHD_stop_daemon(metrics->daemons[i]); /* closes the socket */
    if (metrics->path[0])
        unlink(metrics->path);
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

void metrics_publish(struct metrics *metrics, const struct metrics_snapshot *snapshot, bool wait)
{
    if (wait)
        pthread_mutex_lock(&metrics->lock);
    else if (pthread_mutex_trylock(&metrics->lock) != 0)
        return;
    metrics->snapshot = *snapshot;
    metrics->published_us = now_us();
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_add_session(struct ipc_session_counters *total, const struct ipc_session *session)
{
    const struct ipc_session_counters *c = ipc_session_counters(session);
    total->requests += c->requests;
    total->refused += c->refused;
    total->events += c->events;
    total->bytes_in += c->bytes_in;
    total->bytes_out += c->bytes_out;
    total->parked += c->parked;
    total->doorbells_sent += c->doorbells_sent;
    total->doorbells_received += c->doorbells_received;
}
