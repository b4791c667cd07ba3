/* The watcher: sees that a descriptor became ready while the service computes.
 *
 * A service that asks epoll between two steps whether something happened makes a system call for
 * every token, and the answer is nearly always no. The watcher is a thread that sleeps on the epoll
 * descriptor in the service's stead while steps run, and sets a flag when there is something: the
 * service looks at the flag. At rest the service sleeps on epoll itself, and the watcher out of the
 * way, so that a doorbell wakes one thread and not two. */
#ifndef QUERN_SVC_WATCHER_H
#define QUERN_SVC_WATCHER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum watcher_state { WATCHER_IDLE, WATCHER_WATCHING, WATCHER_SAW, WATCHER_ENDS };

struct watcher {
    pthread_t thread;
    atomic_uint state; /* enum watcher_state; the watcher makes WATCHING into SAW, nothing else */
    int epoll_fd;      /* the service's */
    int call_off_fd;   /* eventfd: ends the watcher's sleep on epoll_fd */
    bool started;
};

/* Starts the thread, asleep. 0 or -errno. */
int watcher_init(struct watcher *watcher, int epoll_fd);
void watcher_done(struct watcher *watcher); /* fine on one that was never started, all zero */

/* Steps begin: watch from now on. No system call while it watches already. */
void watcher_watch(struct watcher *watcher);

/* Between steps: has something become ready since watcher_watch? Then it watches no more: look at
 * epoll, and call watcher_watch again. No system call. */
bool watcher_saw(struct watcher *watcher);

/* The service goes to rest, and will wait on epoll itself. */
void watcher_call_off(struct watcher *watcher);

#endif
