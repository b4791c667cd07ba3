/* An arena: one span of memory for weights (or the KV pool), on the largest pages that the machine
 * gives, populated before use so that no fault and no SIGBUS waits in the step loop.
 *
 * Kinds are tried in order: hugetlb 1 GiB where the pool has them and the size suits, hugetlb
 * 2 MiB (sizes found through libhugetlbfs), transparent huge pages, small pages. Each step down is
 * reported in `why`, with the remedy and its number of pages. Never MAP_NORESERVE; MADV_DONTDUMP;
 * the kinds other than hugetlb are locked where the limit allows. */
#ifndef QUERN_MM_ARENA_H
#define QUERN_MM_ARENA_H

#include <stddef.h>
#include <stdint.h>

enum mm_page_kind { MM_PAGES_HUGE_1G, MM_PAGES_HUGE_2M, MM_PAGES_THP, MM_PAGES_SMALL };
enum mm_huge_policy { MM_HUGE_PREFER, MM_HUGE_REQUIRE, MM_HUGE_OFF };

struct mm_arena {
    uint8_t *base; /* page-aligned; size bytes */
    size_t size;   /* rounded up to the page size of the kind */
    enum mm_page_kind kind;
    int locked; /* stays in memory: hugetlb, or mlock succeeded */
    int fd;     /* the memfd behind it, or -1 */
};

/* Maps and populates `size` bytes. Returns 0; -ENOMEM where not even small pages are to be had (or
 * the policy is `require` and the pool is short); `why` (if not NULL) gets a sentence for each step
 * down, or an empty string. */
int mm_arena_map(struct mm_arena *ret, size_t size, enum mm_huge_policy policy, char *why,
                 size_t why_size);
void mm_arena_unmap(struct mm_arena *arena);

const char *mm_page_kind_name(enum mm_page_kind kind); /* "1 GiB huge pages", … */

/* Bytes that this process may still take: the smallest of MemAvailable and what the cgroup v2
 * limits on the path to the root leave. hugetlb pages free in the pools are returned apart. */
int mm_memory_available(uint64_t *ret_ordinary, uint64_t *ret_hugetlb);

#endif
