/* Arenas: which kind of page a span of memory gets, and populating it.
 *
 * hugetlb arenas are memfds, so that a finished one can be sealed and handed to a later process;
 * the kernel reserves their pages at mmap, and MADV_POPULATE_WRITE turns what may still go wrong
 * (a hugetlb cgroup, a poisoned page) into an error instead of a SIGBUS in the step loop. The other
 * kinds are private anonymous memory. */
#define _GNU_SOURCE /* memfd_create, MADV_POPULATE_WRITE */
#include "mm/arena.h"

#include "mm/numa.h"
#include "mm/populate.h"
#include "mm/why.h"

#include <errno.h>
#include <fcntl.h>
#include <hugetlbfs.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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

static int begin_kind(struct mm_arena *ret, size_t size, enum mm_page_kind kind, char *why,
                      size_t why_size);
static int begin_memfd(struct mm_arena *ret, size_t size, size_t page, char *why, size_t why_size);
static int begin_hugetlb(struct mm_arena *ret, size_t size, size_t page, int fd, char *why,
                         size_t why_size);
static int begin_anonymous(struct mm_arena *ret, size_t size, bool huge, char *why,
                           size_t why_size);
static size_t round_up(size_t size, size_t page);
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
    struct mm_arena arena;
    int r = mm_arena_begin(&arena, size, policy, why, why_size);
    if (r < 0)
        return r;
    r = mm_arena_finish(&arena, why, why_size);
    if (r < 0)
        mm_arena_unmap(&arena);
    else
        *ret = arena;
    return r;
}

int mm_arena_map_kind(struct mm_arena *ret, size_t size, enum mm_page_kind kind, char *why,
                      size_t why_size)
{
    struct mm_arena arena;
    int r = begin_kind(&arena, size, kind, why, why_size);
    if (r < 0)
        return r;
    r = mm_arena_finish(&arena, why, why_size);
    if (r < 0)
        mm_arena_unmap(&arena);
    else
        *ret = arena;
    return r;
}

int mm_arena_begin(struct mm_arena *ret, size_t size, enum mm_huge_policy policy, char *why,
                   size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    if (size == 0 || size > SIZE_MAX / 2)
        return size == 0 ? -EINVAL : -ENOMEM;
    if (policy == MM_HUGE_OFF)
        return begin_kind(ret, size, MM_PAGES_SMALL, why, why_size);

    if (size_suits(size, PAGE_1G) && begin_kind(ret, size, MM_PAGES_HUGE_1G, why, why_size) == 0)
        return 0;
    if (begin_kind(ret, size, MM_PAGES_HUGE_2M, why, why_size) == 0)
        return 0;
    if (policy == MM_HUGE_REQUIRE)
        return -ENOMEM;
    int r = begin_kind(ret, size, MM_PAGES_THP, why, why_size);
    if (r == -ENODEV)
        r = begin_kind(ret, size, MM_PAGES_SMALL, why, why_size);
    if (r == 0)
        mm_why_add(why, why_size, "Using %s instead.", mm_page_kind_name(ret->kind));
    return r;
}

int mm_arena_begin_file(struct mm_arena *ret, size_t size, int fd, char *why, size_t why_size)
{
    struct statfs fs;
    if (size == 0 || size > SIZE_MAX / 2)
        return size == 0 ? -EINVAL : -ENOMEM;
    if (fstatfs(fd, &fs) < 0)
        return -errno;
    if (fs.f_type != HUGETLBFS_MAGIC || (fs.f_bsize != PAGE_1G && fs.f_bsize != PAGE_2M))
        return -ENODEV;
    size_t page = (size_t)fs.f_bsize;
    return begin_hugetlb(ret, round_up(size, page), page, fd, why, why_size);
}

int mm_arena_open_file(struct mm_arena *ret, size_t size, int fd)
{
    struct statfs fs;
    struct stat st;
    if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (fs.f_type != HUGETLBFS_MAGIC || (fs.f_bsize != PAGE_1G && fs.f_bsize != PAGE_2M))
        return -ENODEV;
    size_t page = (size_t)fs.f_bsize;
    if (size == 0 || size > SIZE_MAX / 2 || (uint64_t)st.st_size < size ||
        (uint64_t)st.st_size % page != 0 || (uint64_t)st.st_size > SIZE_MAX / 2)
        return -ESTALE;
    void *base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    /* A hole in the file would be a page of zeros, or a SIGBUS where the pool is empty. */
    if (madvise(base, (size_t)st.st_size, MADV_POPULATE_READ) < 0 ||
        madvise(base, (size_t)st.st_size, MADV_DONTDUMP) < 0) {
        munmap(base, (size_t)st.st_size);
        return -ENOMEM;
    }
    *ret = (struct mm_arena){.base = base,
                             .size = (size_t)st.st_size,
                             .kind = page == PAGE_1G ? MM_PAGES_HUGE_1G : MM_PAGES_HUGE_2M,
                             .locked = 1,
                             .fd = fd};
    return 0;
}

int mm_arena_await(const struct mm_arena *arena, size_t end)
{
    return arena->ahead == NULL ? 0 : mm_populate_await(arena->ahead, end);
}

bool mm_arena_is_populated(const struct mm_arena *arena)
{
    return arena->ahead == NULL || mm_populate_is_done(arena->ahead);
}

int mm_arena_finish(struct mm_arena *arena, char *why, size_t why_size)
{
    int r = mm_arena_await(arena, arena->size);
    bool on_thread = arena->ahead != NULL;
    int lock_error = on_thread ? mm_populate_lock_error(arena->ahead) : 0;
    mm_populate_free(arena->ahead);
    arena->ahead = NULL;
    if (r < 0) {
        mm_why_add(why, why_size, "Populating %zu MiB of memory failed: %s.",
                   (size_t)(arena->size / MIB), strerror(-r));
        return -ENOMEM;
    }
    if (arena->kind == MM_PAGES_THP) {
        uint64_t got = thp_bytes(arena->base, arena->size);
        if (got < arena->size / 2)
            arena->kind = MM_PAGES_SMALL;
        if (got < arena->size)
            mm_why_add(why, why_size,
                       "Memory is fragmented: %" PRIu64 " of %zu MiB got transparent huge pages.",
                       (uint64_t)(got / MIB), (size_t)(arena->size / MIB));
    }
    if (arena->fd < 0) {
        if (!on_thread && mlock(arena->base, arena->size) < 0)
            lock_error = -errno;
        arena->locked = lock_error == 0;
        if (!arena->locked)
            mm_why_add(why, why_size,
                       "%zu MiB could not be locked in memory (%s) and may be swapped out: raise "
                       "LimitMEMLOCK= of the unit or `ulimit -l`.",
                       (size_t)(arena->size / MIB), strerror(-lock_error));
    }
    return 0;
}

int mm_arena_seal(struct mm_arena *arena)
{
    if (arena->fd < 0)
        return mprotect(arena->base, arena->size, PROT_READ) < 0 ? -errno : 0;
    /* A mapping that may be written keeps the seal off, so ours goes first; nothing else can be
     * mapped at its address meanwhile. */
    if (mmap(arena->base, arena->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        return -errno;
    int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int r = fcntl(arena->fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
    if (r == -EPERM || r == -EINVAL) /* a file of a hugetlbfs mount knows no seals */
        r = 0;
    int access = r == 0 ? PROT_READ : PROT_READ | PROT_WRITE;
    if (mmap(arena->base, arena->size, access, MAP_SHARED | MAP_FIXED, arena->fd, 0) == MAP_FAILED)
        return -errno;
    madvise(arena->base, arena->size, MADV_DONTDUMP);
    madvise(arena->base, arena->size, MADV_POPULATE_READ); /* they are there: page tables only */
    return r;
}

void mm_arena_unmap(struct mm_arena *arena)
{
    if (arena == NULL || arena->base == NULL)
        return;
    mm_populate_free(arena->ahead);
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

static size_t round_up(size_t size, size_t page)
{
    return (size + page - 1) / page * page;
}

static int begin_kind(struct mm_arena *ret, size_t size, enum mm_page_kind kind, char *why,
                      size_t why_size)
{
    size_t page = mm_page_kind_bytes(kind);
    if (size == 0)
        return -EINVAL;
    if (size > SIZE_MAX / 2)
        return -ENOMEM;
    size = round_up(size, page);
    if (kind == MM_PAGES_THP || kind == MM_PAGES_SMALL)
        return begin_anonymous(ret, size, kind == MM_PAGES_THP, why, why_size);
    return begin_memfd(ret, size, page, why, why_size);
}

/* Populates the first page at once, so that a limit that leaves none is found while another kind
 * can still be tried, and the rest on a thread. */
static int start_populating(struct mm_arena *arena)
{
    size_t page = mm_page_kind_bytes(arena->kind);
    int r = mm_numa_apply(arena->base, arena->size);
    if (r < 0)
        return r;
    if (madvise(arena->base, page, MADV_POPULATE_WRITE) < 0 ||
        madvise(arena->base, arena->size, MADV_DONTDUMP) < 0)
        return -errno;
    if (arena->size == page ||
        mm_populate_new(&arena->ahead, arena->base, arena->size, page, arena->fd) == 0)
        return 0;
    return madvise(arena->base, arena->size, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

static int begin_memfd(struct mm_arena *ret, size_t size, size_t page, char *why, size_t why_size)
{
    if (!has_page_size(page)) {
        if (page == PAGE_2M)
            mm_why_add(why, why_size, "This kernel has no 2 MiB huge pages.");
        return -ENODEV;
    }
    int fd = open_memfd(page);
    if (fd < 0) {
        explain_short_pool(size, page, fd, why, why_size);
        return -ENOMEM;
    }
    int r = begin_hugetlb(ret, size, page, fd, why, why_size);
    if (r < 0)
        close(fd);
    return r;
}

/* The kernel reserves the pages at mmap, or refuses. */
static int begin_hugetlb(struct mm_arena *ret, size_t size, size_t page, int fd, char *why,
                         size_t why_size)
{
    int r;
    struct mm_arena arena = {.size = size,
                             .kind = page == PAGE_1G ? MM_PAGES_HUGE_1G : MM_PAGES_HUGE_2M,
                             .locked = 1,
                             .fd = fd};
    struct mm_memory memory;
    if (mm_memory_query(&memory, "") == 0 &&
        size > (page == PAGE_1G ? memory.hugetlb_1g : memory.hugetlb_2m)) {
        mm_why_add(why, why_size,
                   "%zu MiB of %s are needed, and the hugetlb cgroup leaves %" PRIu64
                   " MiB (hugetlb.%s.max).",
                   (size_t)(size / MIB), mm_page_kind_name(arena.kind),
                   (uint64_t)((page == PAGE_1G ? memory.hugetlb_1g : memory.hugetlb_2m) / MIB),
                   page == PAGE_1G ? "1GB" : "2MB");
        return -ENOMEM;
    }
    if (ftruncate(fd, (off_t)size) < 0) {
        r = -errno;
        goto explain;
    }
    arena.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (arena.base == MAP_FAILED) {
        r = -errno;
        goto explain;
    }
    r = start_populating(&arena);
    if (r < 0) {
        munmap(arena.base, size);
        goto explain;
    }
    *ret = arena;
    return 0;

explain:
    explain_short_pool(size, page, r, why, why_size);
    return -ENOMEM;
}

static int begin_anonymous(struct mm_arena *ret, size_t size, bool huge, char *why, size_t why_size)
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
        mm_why_add(why, why_size, "Mapping %zu MiB of memory failed: %s.", (size_t)(size / MIB),
                   strerror(errno));
        return -ENOMEM;
    }
    struct mm_arena arena = {
        .base = mapped, .size = size, .kind = huge ? MM_PAGES_THP : MM_PAGES_SMALL, .fd = -1};
    if (huge) {
        size_t head = (size_t)(-(uintptr_t)mapped % PAGE_2M);
        arena.base = mapped + head;
        if (head > 0)
            munmap(mapped, head);
        if (head < slack)
            munmap(arena.base + size, slack - head);
    }
    /* A kernel without THP refuses this, and then there is nothing to ask for. */
    madvise(arena.base, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    r = start_populating(&arena);
    if (r < 0) {
        mm_why_add(why, why_size, "Populating %zu MiB of memory failed: %s.", (size_t)(size / MIB),
                   strerror(-r));
        munmap(arena.base, size);
        return -ENOMEM;
    }
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
