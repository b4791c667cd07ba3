/* How much memory this process may still take.
 *
 * The machine says MemAvailable; every memory cgroup from ours up to the root may say less
 * (memory.max and memory.high of version 2, memory.limit_in_bytes of version 1), and what such a
 * cgroup holds as page cache can be taken back, so it does not count as used. Huge pages stand in
 * pools of their own, outside those limits unless cgroup2 is mounted with
 * memory_hugetlb_accounting, and the hugetlb controller has limits for them. It enforces these when
 * a page is touched, long after mmap has reserved it. */
#ifndef QUERN_MM_MEMORY_H
#define QUERN_MM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct mm_memory {
    uint64_t ordinary;     /* bytes still to be had: the smaller of the next two */
    uint64_t machine;      /* MemAvailable */
    uint64_t cgroup;       /* the least that a cgroup on our path leaves; UINT64_MAX: no limit */
    char cgroup_path[256]; /* the folder of that cgroup; "" where there is no limit */
    uint64_t hugetlb;      /* bytes free and not reserved in the pools of 2 MiB and 1 GiB pages,
                             * as far as the next two let us have them */
    uint64_t hugetlb_2m, hugetlb_1g; /* what hugetlb cgroups (version 2) on our path leave of each
                                      * size; UINT64_MAX: no limit */
    bool hugetlb_in_cgroup;          /* huge pages count against the cgroup, too */
};

/* Looks under `root` ("" is the machine; tests give a folder with a /proc and /sys of their own).
 * Returns 0 or -errno where not even MemAvailable is to be had. */
int mm_memory_query(struct mm_memory *ret, const char *root);

/* The two totals alone. */
int mm_memory_available(uint64_t *ret_ordinary, uint64_t *ret_hugetlb);

#endif
