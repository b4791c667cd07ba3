/* The thread pool: one parallel region at a time, joined by whoever is awake.
 *
 * A worker joins a region only while it is open, and the caller closes it as soon as no index is
 * left to hand out: a worker that sleeps, or that the scheduler has taken off its processor, never
 * delays a region that the others have finished. That makes more threads than processors slow at
 * worst, never stuck.
 *
 * Words that threads share:
 *   epoch   counts regions; workers sleep on it (futex). Written by the caller.
 *   state   REGION_OPEN and the number of workers inside; the caller sleeps on it (futex).
 *   next    the first index that nobody has taken.
 * The sleepers' protocol is flag, then look again, then sleep, with sequentially consistent
 * operations on both sides; each half names its other. */
#define _GNU_SOURCE
#include "ops/pool.h"

#include "ops/cpus.h"

#include <errno.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REGION_OPEN     0x80000000u
#define SPIN_US_DEFAULT 200
#define N_THREADS_MAX   1024

struct worker {
    struct ops_pool *pool;
    pthread_t thread;
    unsigned index; /* 1 … n_threads - 1 */
    int cpu;        /* to be pinned to, or -1 */
};

struct ops_pool {
    /* Set once. */
    unsigned n_threads;
    uint64_t spin_ns; /* 0: more threads than processors, so that waiting means sleeping */
    int caller_cpu;   /* to be pinned to, or -1 */
    struct worker *workers;

    /* The caller's own. */
    bool caller_ready;
    cpu_set_t caller_mask; /* of the caller's thread before it was pinned */
    pthread_t caller;
    ops_pool_aside_fn *aside; /* NULL: none */
    void *aside_arg;

    /* The region: written by the caller while it is closed, read by those who joined. */
    ops_pool_fn *fn;
    void *arg;
    size_t n;
    size_t grain;
    uint32_t deal; /* 0: in order; else the state of what draws the two below (ops_pool_deal) */
    size_t deal_first, deal_step;

    _Alignas(64) atomic_size_t next;
    _Alignas(64) atomic_uint epoch;
    atomic_uint n_sleeping; /* workers about to sleep or asleep on epoch */
    atomic_bool stop;
    _Alignas(64) atomic_uint state;
    atomic_bool caller_sleeps; /* the caller is about to sleep, or asleep, on state */
};

static void futex_wait(atomic_uint *word, unsigned seen)
{
    /* EAGAIN and EINTR both mean: look again, which every caller does. */
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Round to nearest, all exceptions masked, denormals computed: what the bits are defined with. */
static void set_float_mode(void)
{
    _mm_setcsr(0x1f80);
}

static void pin_self(int cpu)
{
    cpu_set_t one;

    if (cpu < 0)
        return;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    /* Refused where the cpuset changed meanwhile; then the scheduler places the thread. */
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

/* Takes the next chunk: a share of what is left, so that the first chunks are long runs of memory
 * and the last are small enough for all to end together. */
static bool take_chunk(struct ops_pool *pool, size_t *begin, size_t *end)
{
    size_t at = atomic_load_explicit(&pool->next, memory_order_relaxed);

    for (;;) {
        if (at >= pool->n)
            return false;
        const size_t left = pool->n - at;
        size_t take = left / (4 * (size_t)pool->n_threads);
        take -= take % pool->grain;
        if (take < pool->grain)
            take = pool->grain;
        if (take > left)
            take = left;
        if (atomic_compare_exchange_weak_explicit(&pool->next, &at, at + take, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            *begin = at;
            *end = at + take;
            return true;
        }
    }
}

/* The same one grain at a time in the order begin, begin + step, begin + 2 · step, … modulo the
 * number of grains, which step has no factor in common with. */
static bool take_dealt(struct ops_pool *pool, size_t *begin, size_t *end)
{
    const size_t n_grains = (pool->n + pool->grain - 1) / pool->grain;
    const size_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);

    if (i >= n_grains)
        return false;
    *begin = (pool->deal_first + i * pool->deal_step) % n_grains * pool->grain;
    *end = pool->n - *begin < pool->grain ? pool->n : *begin + pool->grain;
    return true;
}

static void work(struct ops_pool *pool, unsigned thread)
{
    size_t begin, end;

    while (pool->deal ? take_dealt(pool, &begin, &end) : take_chunk(pool, &begin, &end))
        pool->fn(pool->arg, begin, end, thread);
}

static size_t greatest_common_divisor(size_t a, size_t b)
{
    return b ? greatest_common_divisor(b, a % b) : a;
}

/* Another order for each region: a linear congruential generator draws first and step. */
static void shuffle(struct ops_pool *pool)
{
    const size_t n_grains = (pool->n + pool->grain - 1) / pool->grain;

    pool->deal = pool->deal * 1664525u + 1013904223u;
    if (!pool->deal)
        pool->deal = 1;
    pool->deal_first = pool->deal >> 8;
    pool->deal_step = (pool->deal >> 4) % n_grains;
    while (greatest_common_divisor(pool->deal_step, n_grains) != 1)
        pool->deal_step++;
}

/* Spins until *word differs from `seen` or the time is over; returns what it saw last. */
static unsigned spin_while_equal(const struct ops_pool *pool, atomic_uint *word, unsigned seen)
{
    unsigned value = atomic_load_explicit(word, memory_order_acquire);
    uint64_t give_up = 0;

    for (unsigned i = 0; value == seen && pool->spin_ns; i++) {
        _mm_pause();
        if (i % 64 == 63) {
            const uint64_t now = now_ns();
            if (!give_up)
                give_up = now + pool->spin_ns;
            else if (now > give_up)
                break;
        }
        value = atomic_load_explicit(word, memory_order_acquire);
    }
    return value;
}

static unsigned wait_for_epoch(struct ops_pool *pool, unsigned seen)
{
    unsigned epoch = spin_while_equal(pool, &pool->epoch, seen);

    while (epoch == seen) {
        /* The sleeper's half: count, then look again; the other is in ops_pool_run (and
         * ops_pool_free), which changes epoch and then reads n_sleeping. */
        atomic_fetch_add(&pool->n_sleeping, 1);
        if (atomic_load(&pool->epoch) == seen)
            futex_wait(&pool->epoch, seen);
        atomic_fetch_sub(&pool->n_sleeping, 1);
        epoch = atomic_load(&pool->epoch);
    }
    return epoch;
}

/* Joins the region if it is open. The exchange acquires what the caller wrote before opening. */
static bool join_region(struct ops_pool *pool)
{
    unsigned state = atomic_load_explicit(&pool->state, memory_order_relaxed);

    while (state & REGION_OPEN) {
        if (atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    }
    return false;
}

static void leave_region(struct ops_pool *pool)
{
    /* Releases this worker's results to the caller (close_region). The last to leave a closed
     * region wakes the caller: its half is in close_region, which says caller_sleeps and then
     * looks at state again. */
    if (atomic_fetch_sub(&pool->state, 1) == 1 && atomic_load(&pool->caller_sleeps))
        futex_wake_all(&pool->state);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct ops_pool *pool = worker->pool;
    unsigned epoch = 0;

    set_float_mode();
    pin_self(worker->cpu);
    for (;;) {
        epoch = wait_for_epoch(pool, epoch);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        if (join_region(pool)) {
            work(pool, worker->index);
            leave_region(pool);
        }
    }
}

/* Lets nobody join any more and waits for those inside. */
static void close_region(struct ops_pool *pool)
{
    unsigned inside = atomic_fetch_and(&pool->state, ~REGION_OPEN) & ~REGION_OPEN;
    uint64_t give_up = 0;

    for (unsigned i = 0; inside && pool->spin_ns; i++) {
        _mm_pause();
        if (i % 64 == 63) {
            const uint64_t now = now_ns();
            if (!give_up)
                give_up = now + pool->spin_ns;
            else if (now > give_up)
                break;
        }
        inside = atomic_load_explicit(&pool->state, memory_order_acquire);
    }
    if (!inside)
        return;
    /* The sleeper's half; the other is in leave_region. */
    atomic_store(&pool->caller_sleeps, true);
    while ((inside = atomic_load(&pool->state)))
        futex_wait(&pool->state, inside);
    atomic_store(&pool->caller_sleeps, false);
}

static void prepare_caller(struct ops_pool *pool)
{
    set_float_mode();
    pool->caller = pthread_self();
    if (pool->caller_cpu >= 0 &&
        pthread_getaffinity_np(pool->caller, sizeof(pool->caller_mask), &pool->caller_mask))
        pool->caller_cpu = -1;
    pin_self(pool->caller_cpu);
    pool->caller_ready = true;
}

static void step_aside(struct ops_pool *pool)
{
    if (pool->aside && !pool->aside(pool->aside_arg))
        pool->aside = NULL;
}

void ops_pool_run(struct ops_pool *pool, size_t n, size_t grain, ops_pool_fn *fn, void *arg)
{
    if (!pool->caller_ready)
        prepare_caller(pool);
    if (!grain)
        grain = 1;
    if (pool->n_threads == 1)
        step_aside(pool);
    if (n <= grain || (pool->n_threads == 1 && !pool->deal)) {
        if (n)
            fn(arg, 0, n, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n = n;
    pool->grain = grain;
    if (pool->deal)
        shuffle(pool);
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    /* Publishes the region to join_region. */
    atomic_store_explicit(&pool->state, REGION_OPEN, memory_order_release);
    /* The waker's half: change epoch, then read n_sleeping; the other is in wait_for_epoch. */
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->n_sleeping))
        futex_wake_all(&pool->epoch);
    if (pool->n_threads > 1)
        step_aside(pool);
    work(pool, 0);
    close_region(pool);
}

void ops_pool_deal(struct ops_pool *pool, uint32_t seed)
{
    pool->deal = seed;
}

void ops_pool_set_aside(struct ops_pool *pool, ops_pool_aside_fn *fn, void *arg)
{
    pool->aside = fn;
    pool->aside_arg = arg;
}

static void stop_workers(struct ops_pool *pool, unsigned n_started)
{
    atomic_store_explicit(&pool->stop, true, memory_order_relaxed);
    atomic_fetch_add(&pool->epoch, 1); /* as in ops_pool_run */
    futex_wake_all(&pool->epoch);
    for (unsigned i = 0; i < n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

unsigned ops_pool_default_threads(void)
{
    const unsigned n_cpus = ops_cpus_list(NULL, 0), quota = ops_cpus_quota();

    return quota && quota < n_cpus ? quota : n_cpus ? n_cpus : 1;
}

int ops_pool_new(struct ops_pool **ret, const struct ops_pool_options *options)
{
    unsigned n_threads = options->n_threads ? options->n_threads : ops_pool_default_threads();
    int *cpus = NULL;
    int err;

    if (n_threads > N_THREADS_MAX)
        n_threads = N_THREADS_MAX;
    struct ops_pool *pool = aligned_alloc(64, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    *pool = (struct ops_pool){.n_threads = n_threads, .caller_cpu = -1};
    err = -ENOMEM;
    pool->workers = calloc(n_threads, sizeof(*pool->workers));
    cpus = calloc(n_threads, sizeof(*cpus));
    if (!pool->workers || !cpus)
        goto free_pool;

    const unsigned n_cpus = ops_cpus_list(cpus, n_threads);
    const bool room = n_threads <= n_cpus;
    const bool pinned = room && !options->no_pinning && n_threads > 1;
    if (room)
        pool->spin_ns = 1000 * (uint64_t)(options->spin_us ? options->spin_us : SPIN_US_DEFAULT);
    if (pinned)
        pool->caller_cpu = cpus[0];
    for (unsigned i = 0; i + 1 < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i + 1;
        worker->cpu = pinned ? cpus[i + 1] : -1;
        err = -pthread_create(&worker->thread, NULL, worker_main, worker);
        if (err) {
            stop_workers(pool, i);
            goto free_pool;
        }
    }
    free(cpus);
    *ret = pool;
    return 0;

free_pool:
    free(cpus);
    free(pool->workers);
    free(pool);
    return err;
}

void ops_pool_free(struct ops_pool *pool)
{
    if (!pool)
        return;
    stop_workers(pool, pool->n_threads - 1);
    if (pool->caller_ready && pool->caller_cpu >= 0 && pthread_equal(pool->caller, pthread_self()))
        pthread_setaffinity_np(pool->caller, sizeof(pool->caller_mask), &pool->caller_mask);
    free(pool->workers);
    free(pool);
}

unsigned ops_pool_n_threads(const struct ops_pool *pool)
{
    return pool->n_threads;
}
