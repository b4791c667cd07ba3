/* Statistics of the ordinary heap, and the guard that shows that a step allocates nothing.
 *
 * jemalloc serves quernd's heap; builds without it (the sanitizers', the tests') have no
 * statistics and no guard, and say so. */
#ifndef QUERN_MM_STATS_H
#define QUERN_MM_STATS_H

#include <stddef.h>
#include <stdint.h>

struct mm_stats {
    uint64_t allocated; /* bytes that the program holds */
    uint64_t active;    /* bytes of the pages they lie in */
    uint64_t resident;  /* bytes of physical memory that the allocator holds */
    uint64_t mapped;    /* bytes of its address space */
};

/* 0, or -ENOSYS where jemalloc does not serve the heap. Takes some microseconds; any thread. */
int mm_stats_query(struct mm_stats *ret);

/* Bytes that this thread has allocated since it started, freed or not: equal before and after a
 * piece of code that allocated nothing. 0 or -ENOSYS. The first call of a thread may allocate. */
int mm_stats_thread_allocated(uint64_t *ret);

#endif
