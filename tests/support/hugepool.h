/* Adds pages to the machine's pool of huge pages for a test, and takes them back. Tests that run at
 * once add and take under a lock, and relative to what is there, so that the old number is back
 * when the last of them is done. */
#ifndef QUERN_TESTS_SUPPORT_HUGEPOOL_H
#define QUERN_TESTS_SUPPORT_HUGEPOOL_H

#include <stddef.h>

/* Returns how many pages of page_kib KiB (2048 or 1048576) the pool has got, at most `pages`: 0
 * where we may not or memory is fragmented. Give the number to hugepool_shrink. */
unsigned hugepool_grow(size_t page_kib, unsigned pages);
void hugepool_shrink(size_t page_kib, unsigned pages);

#endif
