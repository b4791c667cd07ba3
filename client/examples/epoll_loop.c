/* quern in an event loop of one's own: one request streams while standard input stays served.
 * Type "stop" to cancel. cc epoll_loop.c $(pkg-config --cflags --libs quern) -o epoll_loop */
#include <errno.h>
#include <quern.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static int watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Reads what there is. 1 after the final event, 0 when it may sleep, or -errno. */
static int drain(quern *q, struct quern_event *event)
{
    for (;;) {
        int rc = quern_next(q, 0, event, 0);
        if (rc == -EAGAIN) /* only now may epoll wait: this call asked for a doorbell */
            return 0;
        if (rc < 0)
            return rc;
        if (event->type == QUERN_EVENT_TOKEN)
            fwrite(event->data, 1, event->data_size, stdout), fflush(stdout);
        if (event->type == QUERN_EVENT_FINAL)
            return 1;
    }
}

int main(int argc, char **argv)
{
    quern *q;
    if (quern_connect(&q, NULL) < 0)
        return fprintf(stderr, "%s\n", quern_connect_error()), 69;
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request request;
    uint64_t id;
    quern_request_init(&request);
    request.input = argc > 1 ? argv[1] : "The mill by the river";
    request.input_size = strlen(request.input);
    request.given = QUERN_GIVEN_MAX_TOKENS;
    request.max_tokens = 32;
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC), rc = quern_submit(q, &request, &id);
    watch(epoll_fd, quern_fd(q));
    watch(epoll_fd, STDIN_FILENO); /* a plain file cannot be watched, and need not be */
    while (rc == 0 && (rc = drain(q, &event)) == 0) {
        struct epoll_event ready;
        char line[256];
        if (epoll_wait(epoll_fd, &ready, 1, -1) < 1 || ready.data.fd != STDIN_FILENO)
            continue;
        ssize_t n = read(STDIN_FILENO, line, sizeof line);
        if (n <= 0)
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
        else if (n >= 4 && !memcmp(line, "stop", 4))
            quern_cancel(q, id);
    }
    if (rc < 0)
        fprintf(stderr, "%s\n", quern_error(q));
    printf("\n%s\n", rc == 1 ? quern_reason_name(event.u.final_.reason) : "");
    quern_event_done(&event);
    quern_close(q);
    close(epoll_fd);
    return rc < 0 ? 70 : 0;
}
