/* The thread that touches pages ahead of their use. */
#define _GNU_SOURCE /* MADV_POPULATE_WRITE, fallocate */
#include "mm/populate.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define STEP_BYTES (16u << 20) /* a few milliseconds: how long a wait or a stop may be late */
#define NICE       10

struct mm_populate {
    uint8_t *base;
    size_t size, step;
    int fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    /* under the lock; written by the thread, but for stop */
    size_t done;
    int error, lock_error;
    bool stop, is_done;
};

/* The pages of a hugetlb file come before they are mapped: madvise zeroes them under the lock that
 * every mmap(2) of the process waits for. */
static int populate_step(const struct mm_populate *populate, size_t at, size_t length)
{
    if (populate->fd >= 0 && fallocate(populate->fd, 0, (off_t)at, (off_t)length) < 0)
        return -errno;
    return madvise(populate->base + at, length, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

static void *run(void *arg)
{
    struct mm_populate *populate = arg;
    int lock_error = 0;
    /* Whoever fills the pages goes first where processors are few. Of this thread alone, as Linux has
     * it. */
    (void)!nice(NICE);
    for (size_t at = 0; at < populate->size;) {
        size_t length = populate->size - at < populate->step ? populate->size - at : populate->step;
        int error = populate_step(populate, at, length);
        if (error == 0 && lock_error == 0 && populate->fd < 0 &&
            mlock(populate->base + at, length) < 0) {
            lock_error = -errno;
            munlock(populate->base, at); /* all of it or nothing */
        }
        at += length;
        pthread_mutex_lock(&populate->lock);
        populate->error = error;
        populate->lock_error = lock_error;
        populate->done = error == 0 ? at : populate->done;
        bool end = error < 0 || populate->stop || at == populate->size;
        populate->is_done = end;
        pthread_cond_broadcast(&populate->moved);
        pthread_mutex_unlock(&populate->lock);
        if (end)
            break;
    }
    return NULL;
}

int mm_populate_new(struct mm_populate **ret, void *base, size_t size, size_t page_bytes, int fd)
{
    struct mm_populate *populate = calloc(1, sizeof *populate);
    if (populate == NULL)
        return -ENOMEM;
    populate->base = base;
    populate->size = size;
    populate->fd = fd;
    populate->step = page_bytes > STEP_BYTES ? page_bytes : STEP_BYTES;
    pthread_mutex_init(&populate->lock, NULL);
    pthread_cond_init(&populate->moved, NULL);
    /* Signals are for the service's own threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = -pthread_create(&populate->thread, NULL, run, populate);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r < 0) {
        pthread_cond_destroy(&populate->moved);
        pthread_mutex_destroy(&populate->lock);
        free(populate);
        return r;
    }
    *ret = populate;
    return 0;
}

int mm_populate_await(struct mm_populate *populate, size_t end)
{
    pthread_mutex_lock(&populate->lock);
    while (populate->done < end && populate->error == 0)
        pthread_cond_wait(&populate->moved, &populate->lock);
    int r = populate->done < end ? populate->error : 0;
    pthread_mutex_unlock(&populate->lock);
    return r;
}

bool mm_populate_is_done(struct mm_populate *populate)
{
    pthread_mutex_lock(&populate->lock);
    bool done = populate->is_done;
    pthread_mutex_unlock(&populate->lock);
    return done;
}

int mm_populate_lock_error(struct mm_populate *populate)
{
    pthread_mutex_lock(&populate->lock);
    int r = populate->lock_error;
    pthread_mutex_unlock(&populate->lock);
    return r;
}

void mm_populate_free(struct mm_populate *populate)
{
    if (populate == NULL)
        return;
    pthread_mutex_lock(&populate->lock);
    populate->stop = true;
    pthread_mutex_unlock(&populate->lock);
    pthread_join(populate->thread, NULL);
    pthread_cond_destroy(&populate->moved);
    pthread_mutex_destroy(&populate->lock);
    free(populate);
}
