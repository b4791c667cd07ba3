/* The thread pool: pinned workers that take tasks of one parallel region in chunks as they come
 * free. Who computes a task cannot change its bits, so tasks are handed out greedily.
 *
 * The caller of ops_pool_run is worker 0 and works too. Between regions workers spin for a short,
 * configured time, then sleep on a futex: an idle pool uses no CPU. */
#ifndef QUERN_OPS_POOL_H
#define QUERN_OPS_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ops_pool;

struct ops_pool_options {
    unsigned
        n_threads; /* 0: as many as affinity and cgroup cpu.max allow (ops_pool_default_threads) */
    unsigned spin_us; /* how long a worker spins before it sleeps; 0 takes the default */
    int no_pinning;   /* leave placement to the scheduler (more pools than cores: tests) */
};

/* CPUs this process may keep busy: the affinity mask, and the smallest cgroup v2 cpu.max on the
 * path to the root, rounded up; at least 1. */
unsigned ops_pool_default_threads(void);

/* Starts n_threads - 1 workers. Returns 0, -ENOMEM or -EAGAIN. Every worker (and the caller's
 * thread, on its first region) sets MXCSR to round-to-nearest with FTZ and DAZ off. */
int ops_pool_new(struct ops_pool **ret, const struct ops_pool_options *options);
void ops_pool_free(struct ops_pool *pool);

unsigned ops_pool_n_threads(const struct ops_pool *pool);

/* A task: [begin, end) of the region's index space, on worker `thread` (0 … n_threads - 1). */
typedef void ops_pool_fn(void *arg, size_t begin, size_t end, unsigned thread);

/* Runs fn over [0, n) cut into chunks of at least `grain`, and returns when all is done. One
 * region at a time, always from the same thread; fn must not call back into the pool. */
void ops_pool_run(struct ops_pool *pool, size_t n, size_t grain, ops_pool_fn *fn, void *arg);

/* Something small that the caller's thread has to do and that can wait for a good moment (a system
 * call, say): every ops_pool_run from now on calls fn(arg) once, just after it has handed its
 * region to the workers, until fn returns false. The workers take the caller's share meanwhile, so
 * the region ends hardly later. NULL: nothing any more. fn must not call back into the pool. */
typedef bool ops_pool_aside_fn(void *arg);
void ops_pool_set_aside(struct ops_pool *pool, ops_pool_aside_fn *fn, void *arg);

/* From now on every region is dealt one grain at a time, in an order drawn from `seed` (0: again as
 * it comes). For tests: who computes a task, and when, cannot change its bits. Caller's thread,
 * between regions. */
void ops_pool_deal(struct ops_pool *pool, uint32_t seed);

#endif
