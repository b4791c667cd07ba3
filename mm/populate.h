/* Populates a span of memory on a thread of its own, from its start on, so that zeroing pages (1 to
 * 3 GB/s for huge ones) runs ahead of whoever fills them. Private to mm/arena.c. */
#ifndef QUERN_MM_POPULATE_H
#define QUERN_MM_POPULATE_H

#include <stdbool.h>
#include <stddef.h>

struct mm_populate;

/* Starts. `page_bytes` is the size of the span's pages; `fd` the hugetlb file that is mapped there,
 * from its start on, or -1: then the pages are locked in memory, too. 0 or -errno (no thread to be
 * had). */
int mm_populate_new(struct mm_populate **ret, void *base, size_t size, size_t page_bytes, int fd);

/* Whether all is populated, or it has failed: then _await does not wait. From any thread. */
bool mm_populate_is_done(struct mm_populate *populate);

/* Why the span is not locked: 0 where it is, or was not to be; -errno. After it is done. */
int mm_populate_lock_error(struct mm_populate *populate);

/* Waits until the first `end` bytes are populated: 0, or the -errno of the first failure. From any
 * thread. */
int mm_populate_await(struct mm_populate *populate, size_t end);

/* Ends the thread as soon as may be, and frees. NULL is allowed. */
void mm_populate_free(struct mm_populate *populate);

#endif
