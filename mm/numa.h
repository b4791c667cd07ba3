/* On which memory nodes arenas lie: where the kernel puts them, spread over all nodes page by page, or
 * bound to one. Set once at the start, through libnuma; a machine with one node has node 0. */
#ifndef QUERN_MM_NUMA_H
#define QUERN_MM_NUMA_H

#include <stddef.h>

/* "off" (or NULL), "interleave", or the number of a node. 0, or -EINVAL or -ENODEV with a sentence. */
int mm_numa_set(const char *text, char *why, size_t why_size);

/* Applies it to a span that has been mapped and not yet populated. 0 or -errno. */
int mm_numa_apply(void *base, size_t size);

#endif
