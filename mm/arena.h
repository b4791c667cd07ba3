/* An arena: one span of memory for weights (or the KV pool), on the largest pages that the machine
 * gives, populated before use so that no fault and no SIGBUS waits in the step loop.
 *
 * Kinds are tried in order: hugetlb 1 GiB where the pool has them and the size suits, hugetlb
 * 2 MiB (sizes found through libhugetlbfs), transparent huge pages, small pages. Each step down is
 * reported in `why`, with the remedy and its number of pages. Never MAP_NORESERVE; MADV_DONTDUMP;
 * the kinds other than hugetlb are locked where the limit allows. */
#ifndef QUERN_MM_ARENA_H
#define QUERN_MM_ARENA_H

#include "mm/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mm_page_kind { MM_PAGES_HUGE_1G, MM_PAGES_HUGE_2M, MM_PAGES_THP, MM_PAGES_SMALL };
enum mm_huge_policy {
    MM_HUGE_PREFER,  /* the largest that is to be had */
    MM_HUGE_REQUIRE, /* hugetlb or nothing */
    MM_HUGE_OFF      /* small pages */
};

struct mm_arena {
    uint8_t *base; /* page-aligned; size bytes */
    size_t size;   /* rounded up to the page size of the kind */
    enum mm_page_kind kind;
    int locked;                /* stays in memory: hugetlb, or mlock succeeded */
    int fd;                    /* the file behind it (hugetlb), or -1 */
    struct mm_populate *ahead; /* between mm_arena_begin and _finish, else NULL */
};

/* Maps and populates `size` bytes, all zero. Returns 0; -ENOMEM where not even small pages are to
 * be had (or the policy is `require` and the pool is short); `why` (if not NULL) gets a sentence
 * for each step down, or an empty string. */
int mm_arena_map(struct mm_arena *ret, size_t size, enum mm_huge_policy policy, char *why,
                 size_t why_size);

/* The same with pages of this kind or -ENOMEM (-ENODEV: the machine has no such pages). `why` is
 * appended to. */
int mm_arena_map_kind(struct mm_arena *ret, size_t size, enum mm_page_kind kind, char *why,
                      size_t why_size);

/* mm_arena_map in two halves: after _begin the span is there, and a thread of the arena's own
 * populates it from its start on. Whoever writes to bytes before `end` waits for them with _await
 * first (from any thread; 0 or -ENOMEM), and all that is written in the order of addresses waits
 * least. _finish ends the thread when all is populated, and locks the memory; on failure the arena
 * is still mapped, and is to be unmapped. */
int mm_arena_begin(struct mm_arena *ret, size_t size, enum mm_huge_policy policy, char *why,
                   size_t why_size);
int mm_arena_await(const struct mm_arena *arena, size_t end);
bool mm_arena_is_populated(const struct mm_arena *arena); /* or it failed: _finish will not wait */
int mm_arena_finish(struct mm_arena *arena, char *why, size_t why_size);

/* The same as _begin, on a file of a hugetlbfs mount (empty, open for reading and writing; the
 * arena takes the descriptor where it returns 0). -ENODEV: another kind of file; -ENOMEM: the pool
 * is short, said in `why`. */
int mm_arena_begin_file(struct mm_arena *ret, size_t size, int fd, char *why, size_t why_size);

/* Maps a finished hugetlb file of at least this size read-only (see mm_arena_seal); takes the
 * descriptor. -ENODEV, -ESTALE (too small) or -ENOMEM. */
int mm_arena_open_file(struct mm_arena *ret, size_t size, int fd);

/* Makes a finished arena read-only at the same address, for good where it is a memfd: sealed, it
 * cannot be changed by anyone who gets hold of it. -EBUSY: somebody still holds it for writing (the
 * arena is as before). */
int mm_arena_seal(struct mm_arena *arena);

/* Gives the memory back; an arena that is all zero, or unmapped before, is left alone. */
void mm_arena_unmap(struct mm_arena *arena);

const char *mm_page_kind_name(enum mm_page_kind kind); /* "1 GiB huge pages", … */
size_t mm_page_kind_bytes(enum mm_page_kind kind);     /* of one page; THP: 2 MiB */

#endif
