/* Arenas: which kind of page a span of memory gets, and populating it.
 *
 * hugetlb arenas are memfds, so that a finished one can be sealed and handed to a later process;
 * the kernel reserves their pages at mmap, and MADV_POPULATE_WRITE turns what may still go wrong
 * (a hugetlb cgroup, a poisoned page) into an error instead of a SIGBUS in the step loop. The other
 * kinds are private anonymous memory. */
#define _GNU_SOURCE /* memfd_create, MADV_POPULATE_WRITE */
#include "mm/arena.h"

#include "mm/why.h"

#include <errno.h>
#include <fcntl.h>
#include <hugetlbfs.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

#define KIB       1024ULL
#define MIB       (1024 * KIB)
#define GIB       (1024 * MIB)
#define PAGE_1G   GIB
#define PAGE_2M   (2 * MIB)
#define SIZES_MAX 16

struct pool { /* counters of one hugetlb pool, in pages */
    uint64_t total, free, reserved, overcommit;
};

static int map_hugetlb(struct mm_arena *ret, size_t size, size_t page, char *why, size_t why_size);
static int map_anonymous(struct mm_arena *ret, size_t size, bool huge, char *why, size_t why_size);
static bool size_suits(size_t size, size_t page);
static bool has_page_size(size_t page);
static void read_pool(struct pool *ret, size_t page);
static void explain_short_pool(size_t size, size_t page, int error, char *why, size_t why_size);
static int check_available(size_t size, char *why, size_t why_size);
static bool thp_enabled(void);
static uint64_t thp_bytes(const void *base, size_t size);

int mm_arena_map(struct mm_arena *ret, size_t size, enum mm_huge_policy policy, char *why,
                 size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    if (size == 0 || size > SIZE_MAX / 2)
        return size == 0 ? -EINVAL : -ENOMEM;
    if (policy == MM_HUGE_OFF)
        return mm_arena_map_kind(ret, size, MM_PAGES_SMALL, why, why_size);

    if (size_suits(size, PAGE_1G) &&
        mm_arena_map_kind(ret, size, MM_PAGES_HUGE_1G, why, why_size) == 0)
        return 0;
    if (mm_arena_map_kind(ret, size, MM_PAGES_HUGE_2M, why, why_size) == 0)
        return 0;
    if (policy == MM_HUGE_REQUIRE)
        return -ENOMEM;
    int r = mm_arena_map_kind(ret, size, MM_PAGES_THP, why, why_size);
    if (r == -ENODEV)
        r = mm_arena_map_kind(ret, size, MM_PAGES_SMALL, why, why_size);
    if (r == 0)
        mm_why_add(why, why_size, "Using %s instead.", mm_page_kind_name(ret->kind));
    return r;
}

int mm_arena_map_kind(struct mm_arena *ret, size_t size, enum mm_page_kind kind, char *why,
                      size_t why_size)
{
    size_t page = mm_page_kind_bytes(kind);
    size_t rounded;
    if (size == 0)
        return -EINVAL;
    if (__builtin_add_overflow(size, page - 1, &rounded) || rounded > SIZE_MAX / 2)
        return -ENOMEM;
    rounded -= rounded % page;
    switch (kind) {
    case MM_PAGES_HUGE_1G:
    case MM_PAGES_HUGE_2M:
        return map_hugetlb(ret, rounded, page, why, why_size);
    case MM_PAGES_THP:
        return map_anonymous(ret, rounded, true, why, why_size);
    case MM_PAGES_SMALL:
        return map_anonymous(ret, rounded, false, why, why_size);
    }
    return -EINVAL;
}

void mm_arena_unmap(struct mm_arena *arena)
{
    if (arena == NULL || arena->base == NULL)
        return;
    munmap(arena->base, arena->size);
    if (arena->fd >= 0)
        close(arena->fd);
    *arena = (struct mm_arena){.fd = -1};
}

const char *mm_page_kind_name(enum mm_page_kind kind)
{
    switch (kind) {
    case MM_PAGES_HUGE_1G:
        return "1 GiB huge pages";
    case MM_PAGES_HUGE_2M:
        return "2 MiB huge pages";
    case MM_PAGES_THP:
        return "transparent huge pages";
    case MM_PAGES_SMALL:
        return "small pages";
    }
    return "unknown pages";
}

size_t mm_page_kind_bytes(enum mm_page_kind kind)
{
    switch (kind) {
    case MM_PAGES_HUGE_1G:
        return PAGE_1G;
    case MM_PAGES_HUGE_2M:
    case MM_PAGES_THP:
        return PAGE_2M;
    case MM_PAGES_SMALL:
        break;
    }
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Linux 6.3 wants to know whether the file may be executed (and may refuse those that may); before
 * that the flag is unknown. */
static int open_memfd(size_t page)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB |
                     (page == PAGE_1G ? MFD_HUGE_1GB : MFD_HUGE_2MB);
    int fd = memfd_create("quern", flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("quern", flags);
    return fd < 0 ? -errno : fd;
}

static int map_hugetlb(struct mm_arena *ret, size_t size, size_t page, char *why, size_t why_size)
{
    if (!has_page_size(page)) {
        if (page == PAGE_2M)
            mm_why_add(why, why_size, "This kernel has no 2 MiB huge pages.");
        return -ENODEV;
    }
    int fd = open_memfd(page);
    int r = fd;
    if (fd < 0)
        goto explain;
    if (ftruncate(fd, (off_t)size) < 0) {
        r = -errno;
        goto close_fd;
    }
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        r = -errno;
        goto close_fd;
    }
    if (madvise(base, size, MADV_POPULATE_WRITE) < 0 || madvise(base, size, MADV_DONTDUMP) < 0) {
        r = -errno;
        goto unmap;
    }
    *ret = (struct mm_arena){.base = base,
                             .size = size,
                             .kind = page == PAGE_1G ? MM_PAGES_HUGE_1G : MM_PAGES_HUGE_2M,
                             .locked = 1,
                             .fd = fd};
    return 0;

unmap:
    munmap(base, size);
close_fd:
    close(fd);
explain:
    explain_short_pool(size, page, r, why, why_size);
    return -ENOMEM;
}

static int map_anonymous(struct mm_arena *ret, size_t size, bool huge, char *why, size_t why_size)
{
    if (huge && !thp_enabled()) {
        mm_why_add(why, why_size,
                   "Transparent huge pages are off "
                   "(echo madvise >/sys/kernel/mm/transparent_hugepage/enabled turns them on).");
        return -ENODEV;
    }
    int r = check_available(size, why, why_size);
    if (r < 0)
        return r;

    size_t slack = huge ? PAGE_2M : 0; /* mmap aligns to small pages only */
    uint8_t *mapped =
        mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        r = -errno;
        mm_why_add(why, why_size, "Mapping %zu MiB of memory failed: %s.", (size_t)(size / MIB),
                   strerror(-r));
        return -ENOMEM;
    }
    uint8_t *base = mapped;
    if (huge) {
        size_t head = (size_t)(-(uintptr_t)mapped % PAGE_2M);
        base = mapped + head;
        if (head > 0)
            munmap(mapped, head);
        if (head < slack)
            munmap(base + size, slack - head);
    }
    madvise(base, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* a kernel without THP refuses */
    if (madvise(base, size, MADV_POPULATE_WRITE) < 0 || madvise(base, size, MADV_DONTDUMP) < 0) {
        r = -errno;
        mm_why_add(why, why_size, "Populating %zu MiB of memory failed: %s.", (size_t)(size / MIB),
                   strerror(-r));
        munmap(base, size);
        return -ENOMEM;
    }
    struct mm_arena arena = {.base = base, .size = size, .kind = MM_PAGES_SMALL, .fd = -1};
    if (huge) {
        uint64_t got = thp_bytes(base, size);
        if (got >= size / 2)
            arena.kind = MM_PAGES_THP;
        if (got < size)
            mm_why_add(why, why_size,
                       "Memory is fragmented: %" PRIu64 " of %zu MiB got "
                       "transparent huge pages.",
                       (uint64_t)(got / MIB), (size_t)(size / MIB));
    }
    arena.locked = mlock(base, size) == 0;
    if (!arena.locked)
        mm_why_add(why, why_size,
                   "%zu MiB could not be locked in memory (%s) and may be swapped out: raise "
                   "LimitMEMLOCK= of the unit or `ulimit -l`.",
                   (size_t)(size / MIB), strerror(errno));
    *ret = arena;
    return 0;
}

/* Rounding up may waste an eighth at most. */
static bool size_suits(size_t size, size_t page)
{
    size_t waste = (page - size % page) % page;
    return waste <= size / 8;
}

static bool has_page_size(size_t page)
{
    long sizes[SIZES_MAX];
    int n = gethugepagesizes(sizes, SIZES_MAX);
    for (int i = 0; i < n; i++) {
        if ((size_t)sizes[i] == page)
            return true;
    }
    return false;
}

static uint64_t read_counter(size_t page, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%zukB/%s", (size_t)(page / KIB),
             name);
    FILE *file = fopen(path, "re");
    uint64_t value = 0;
    if (file != NULL && fscanf(file, "%" SCNu64, &value) != 1)
        value = 0;
    if (file != NULL)
        fclose(file);
    return value;
}

static void read_pool(struct pool *ret, size_t page)
{
    ret->total = read_counter(page, "nr_hugepages");
    ret->free = read_counter(page, "free_hugepages");
    ret->reserved = read_counter(page, "resv_hugepages");
    ret->overcommit = read_counter(page, "nr_overcommit_hugepages");
}

/* An empty pool of 1 GiB pages is the rule and no news. */
static void explain_short_pool(size_t size, size_t page, int error, char *why, size_t why_size)
{
    struct pool pool;
    read_pool(&pool, page);
    if (page == PAGE_1G && pool.total == 0)
        return;
    uint64_t needed = size / page;
    uint64_t at_hand = pool.free > pool.reserved ? pool.free - pool.reserved : 0;
    const char *name = page == PAGE_1G ? "1 GiB" : "2 MiB";
    if (at_hand >= needed) {
        mm_why_add(why, why_size,
                   "%s huge pages could not be taken though the pool has them: %s "
                   "(a hugetlb cgroup limit?).",
                   name, strerror(-error));
        return;
    }
    uint64_t wanted = pool.total + (needed - at_hand);
    if (page == PAGE_1G)
        mm_why_add(why, why_size,
                   "The pool of 1 GiB huge pages has %" PRIu64 " of the %" PRIu64
                   " pages needed free (`hugeadm --pool-pages-min 1GB:%" PRIu64 "`).",
                   at_hand, needed, wanted);
    else
        mm_why_add(why, why_size,
                   "The pool of 2 MiB huge pages has %" PRIu64 " of the %" PRIu64
                   " pages needed free: `hugeadm --pool-pages-min 2MB:%" PRIu64 "` or `sysctl "
                   "vm.nr_hugepages=%" PRIu64 "` gives them.",
                   at_hand, needed, wanted, wanted);
}

/* Ordinary memory that is not there would not fail at mmap but bring the kernel's OOM killer while
 * it is populated. */
static int check_available(size_t size, char *why, size_t why_size)
{
    struct mm_memory memory;
    if (mm_memory_query(&memory, "") < 0 || size <= memory.ordinary)
        return 0;
    if (memory.cgroup < memory.machine)
        mm_why_add(why, why_size,
                   "%zu MiB are needed, and the limit of cgroup %s leaves %" PRIu64
                   " MiB (MemoryMax= of the unit).",
                   (size_t)(size / MIB), memory.cgroup_path, (uint64_t)(memory.cgroup / MIB));
    else
        mm_why_add(why, why_size, "%zu MiB are needed, and %" PRIu64 " MiB are available.",
                   (size_t)(size / MIB), (uint64_t)(memory.machine / MIB));
    return -ENOMEM;
}

static bool thp_enabled(void)
{
    char text[128] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (file == NULL)
        return false;
    bool enabled = fgets(text, sizeof text, file) != NULL && strstr(text, "[never]") == NULL;
    fclose(file);
    return enabled;
}

/* How many bytes of the span the kernel backs with transparent huge pages, from smaps. */
static uint64_t thp_bytes(const void *base, size_t size)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool inside = false;
    uint64_t bytes = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        uint64_t start, end, kib;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
            inside = start < (uintptr_t)base + size && end > (uintptr_t)base;
        else if (inside && sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
            bytes += kib * KIB;
    }
    if (file != NULL)
        fclose(file);
    return bytes < size ? bytes : size;
}
