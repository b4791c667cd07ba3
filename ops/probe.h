/* What this machine can do at best, measured: the bounds that benchmarks print beside a figure.
 *
 * A probe takes the fastest of several short runs on the pool's threads, with the instruction set
 * in use. Nothing in the service depends on what it finds. */
#ifndef QUERN_OPS_PROBE_H
#define QUERN_OPS_PROBE_H

#include "ops/pool.h"

#include <stddef.h>

/* Bytes per second that all threads together read from `data` (64-byte aligned; `bytes` much more
 * than the caches hold; touched before, or the zero page is measured), with software prefetch. */
double ops_probe_read(struct ops_pool *pool, const void *data, size_t bytes);

/* The same over 512 MiB of its own, in GB/s (1e9); 0 where that memory is not to be had. */
double ops_probe_memory_gbps(struct ops_pool *pool);

/* Float32 operations per second of all threads together, two for each lane of an fma, with all
 * operands in registers. */
double ops_probe_fma(struct ops_pool *pool);

#endif
