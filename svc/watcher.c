/* Seeing, without a system call, that a descriptor became ready (see watcher.h). */
#define _GNU_SOURCE
#include "svc/watcher.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static void sleep_while(atomic_uint *word, unsigned value)
{
    /* EAGAIN and EINTR both mean: look again, which the caller does. */
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Sleeps until epoll has something or it is called off. */
static void watch_once(struct watcher *w)
{
    struct pollfd fds[2] = {{.fd = w->epoll_fd, .events = POLLIN},
                            {.fd = w->call_off_fd, .events = POLLIN}};
    uint64_t count;
    if (poll(fds, 2, -1) <= 0)
        return;
    if (fds[1].revents)
        (void)!read(w->call_off_fd, &count, sizeof count);
    if (fds[0].revents) {
        unsigned watching = WATCHER_WATCHING; /* if it was called off meanwhile, say nothing */
        atomic_compare_exchange_strong(&w->state, &watching, WATCHER_SAW);
    }
}

static void *watcher_main(void *arg)
{
    struct watcher *w = arg;
    for (;;) {
        unsigned state = atomic_load(&w->state);
        if (state == WATCHER_ENDS)
            return NULL;
        if (state == WATCHER_WATCHING)
            watch_once(w);
        else
            sleep_while(&w->state, state);
    }
}

int watcher_init(struct watcher *watcher, int epoll_fd)
{
    struct watcher *w = watcher;
    w->epoll_fd = epoll_fd;
    atomic_init(&w->state, WATCHER_IDLE);
    w->call_off_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->call_off_fd < 0)
        return -errno;
    int r = -pthread_create(&w->thread, NULL, watcher_main, w);
    if (r < 0)
        close(w->call_off_fd);
    w->started = r == 0;
    return r;
}

/* Leaves WATCHING, and makes sure that the thread notices. */
static void set_state(struct watcher *w, enum watcher_state state)
{
    uint64_t one = 1;
    unsigned old = atomic_exchange(&w->state, (unsigned)state);
    if (old == WATCHER_WATCHING)
        (void)!write(w->call_off_fd, &one, sizeof one);
    else if (old != (unsigned)state)
        wake(&w->state);
}

void watcher_done(struct watcher *watcher)
{
    struct watcher *w = watcher;
    if (!w->started)
        return;
    set_state(w, WATCHER_ENDS);
    pthread_join(w->thread, NULL);
    close(w->call_off_fd);
    w->started = false;
}

void watcher_watch(struct watcher *watcher)
{
    if (atomic_load_explicit(&watcher->state, memory_order_relaxed) == WATCHER_IDLE)
        set_state(watcher, WATCHER_WATCHING);
}

bool watcher_saw(struct watcher *watcher)
{
    /* Only the service leaves SAW, so a plain store does. */
    if (atomic_load_explicit(&watcher->state, memory_order_relaxed) != WATCHER_SAW)
        return false;
    atomic_store_explicit(&watcher->state, WATCHER_IDLE, memory_order_relaxed);
    return true;
}

void watcher_call_off(struct watcher *watcher)
{
    unsigned state = atomic_load_explicit(&watcher->state, memory_order_relaxed);
    if (state == WATCHER_WATCHING)
        set_state(watcher, WATCHER_IDLE);
    else if (state == WATCHER_SAW)
        atomic_store_explicit(&watcher->state, WATCHER_IDLE, memory_order_relaxed);
}
