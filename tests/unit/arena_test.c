/* Arenas on every kind of page that the machine gives, with the pools as they are found, and as a
 * user without capabilities. */
#define _GNU_SOURCE /* MAP_HUGETLB and friends */
#include "mm/arena.h"
#include "mm/numa.h"
#include "tests/support/confined.h"
#include "tests/support/hugepool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <numaif.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB  (1024ull * 1024)
#define SIZE (5 * MIB + 12345)

struct backing {       /* what smaps says of a span */
    uint64_t resident; /* bytes present, huge or not */
    bool dumped;
};

static struct backing look_at(const struct mm_arena *arena)
{
    struct backing backing = {.dumped = false};
    FILE *file = fopen("/proc/self/smaps", "re");
    assert_non_null(file);
    char line[512];
    bool inside = false;
    while (fgets(line, sizeof line, file) != NULL) {
        uint64_t start, end, kib;
        char flags[256];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
            inside = start < (uintptr_t)arena->base + arena->size && end > (uintptr_t)arena->base;
        else if (inside && (sscanf(line, "Rss: %" SCNu64, &kib) == 1 ||
                            sscanf(line, "Shared_Hugetlb: %" SCNu64, &kib) == 1 ||
                            sscanf(line, "Private_Hugetlb: %" SCNu64, &kib) == 1))
            backing.resident += kib * 1024;
        else if (inside && sscanf(line, "VmFlags: %255[^\n]", flags) == 1)
            backing.dumped |= strstr(flags, "dd") == NULL;
    }
    fclose(file);
    return backing;
}

static unsigned count_open_files(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void check_arena(struct mm_arena *arena, enum mm_page_kind kind, size_t size)
{
    assert_int_equal(arena->kind, kind);
    assert_true(arena->size >= size && arena->size < size + mm_page_kind_bytes(kind));
    assert_int_equal((uintptr_t)arena->base % mm_page_kind_bytes(kind), 0);
    bool hugetlb = kind == MM_PAGES_HUGE_1G || kind == MM_PAGES_HUGE_2M;
    assert_int_equal(arena->fd >= 0, hugetlb);
    assert_true(!hugetlb || arena->locked);
    struct backing backing = look_at(arena);
    assert_true(backing.resident >= arena->size); /* populated: no fault is left to happen */
    assert_false(backing.dumped);
    for (size_t i = 0; i < arena->size; i += 509)
        assert_int_equal(arena->base[i], 0);
    memset(arena->base, 0xa5, arena->size);
}

/* Maps SIZE bytes on pages of a kind from a pool that may have to grow first; other programs may be
 * quicker to take what it grew by, so several times. */
static void try_hugetlb(enum mm_page_kind kind)
{
    size_t page = mm_page_kind_bytes(kind);
    unsigned files = count_open_files();
    struct mm_arena arena;
    char why[1024] = "";
    for (int attempt = 0; attempt < 5; attempt++) {
        unsigned grown = hugepool_grow(page / 1024, (unsigned)((SIZE + page - 1) / page));
        int r = mm_arena_map_kind(&arena, SIZE, kind, why, sizeof why);
        if (r == 0) {
            check_arena(&arena, kind, SIZE);
            mm_arena_unmap(&arena);
        }
        hugepool_shrink(page / 1024, grown);
        assert_int_equal(count_open_files(), files);
        if (r == 0)
            return;
    }
    print_message("no %s here: %s\n", mm_page_kind_name(kind), why);
    skip();
}

static void huge_pages_of_2_mib(void **state)
{
    (void)state;
    try_hugetlb(MM_PAGES_HUGE_2M);
}

static void huge_pages_of_1_gib(void **state)
{
    (void)state;
    uint64_t ordinary, hugetlb;
    assert_int_equal(mm_memory_available(&ordinary, &hugetlb), 0);
    if (ordinary < 4096 * MIB)
        skip();
    try_hugetlb(MM_PAGES_HUGE_1G);
}

static void transparent_and_small_pages(void **state)
{
    (void)state;
    struct mm_arena arena;
    char why[1024] = "";
    int r = mm_arena_map_kind(&arena, SIZE, MM_PAGES_THP, why, sizeof why);
    if (r == -ENODEV) {
        assert_non_null(strstr(why, "transparent_hugepage"));
    } else {
        assert_int_equal(r, 0);
        if (arena.kind == MM_PAGES_THP) /* else memory is fragmented, which was said */
            check_arena(&arena, MM_PAGES_THP, SIZE);
        else
            assert_non_null(strstr(why, "fragmented"));
        mm_arena_unmap(&arena);
    }
    why[0] = '\0';
    assert_int_equal(mm_arena_map_kind(&arena, SIZE, MM_PAGES_SMALL, why, sizeof why), 0);
    check_arena(&arena, MM_PAGES_SMALL, SIZE);
    mm_arena_unmap(&arena);
    assert_null(arena.base);
    mm_arena_unmap(&arena);
    mm_arena_unmap(NULL);
}

static void off_means_small_pages_and_no_words(void **state)
{
    (void)state;
    struct mm_arena arena;
    char why[1024] = "old";
    assert_int_equal(mm_arena_map(&arena, 1, MM_HUGE_OFF, why, sizeof why), 0);
    check_arena(&arena, MM_PAGES_SMALL, 1);
    mm_arena_unmap(&arena);
    if (geteuid() == 0)
        assert_string_equal(why, "");
}

static void a_short_pool_is_said_with_the_number_of_pages(void **state)
{
    (void)state;
    struct mm_arena arena = {.fd = -7};
    char why[1024];
    const size_t tib = 1ull << 40;
    unsigned files = count_open_files();
    assert_int_equal(mm_arena_map(&arena, tib, MM_HUGE_REQUIRE, why, sizeof why), -ENOMEM);
    assert_non_null(strstr(why, "of the 524288 pages needed"));
    assert_non_null(strstr(why, "hugeadm --pool-pages-min 2MB:"));
    assert_non_null(strstr(why, "vm.nr_hugepages="));
    assert_int_equal(mm_arena_map(&arena, tib, MM_HUGE_PREFER, why, sizeof why), -ENOMEM);
    assert_non_null(strstr(why, "1048576 MiB are needed"));
    assert_int_equal(mm_arena_map(&arena, tib, MM_HUGE_OFF, why, sizeof why), -ENOMEM);
    assert_int_equal(arena.fd, -7); /* untouched */
    assert_int_equal(count_open_files(), files);
}

static void prefer_steps_down_and_says_so(void **state)
{
    (void)state;
    uint64_t ordinary, hugetlb;
    assert_int_equal(mm_memory_available(&ordinary, &hugetlb), 0);
    size_t size = hugetlb + 64 * MIB; /* more than the pool has */
    if (size > 1024 * MIB || ordinary < 2 * size)
        skip();
    struct mm_arena arena;
    char why[1024];
    assert_int_equal(mm_arena_map(&arena, size, MM_HUGE_PREFER, why, sizeof why), 0);
    if (arena.kind >= MM_PAGES_THP) { /* another test may have grown the pool meanwhile */
        assert_non_null(strstr(why, "hugeadm"));
        assert_non_null(strstr(why, mm_page_kind_name(arena.kind)));
    }
    mm_arena_unmap(&arena);
}

static void sizes_that_cannot_be(void **state)
{
    (void)state;
    struct mm_arena arena = {.fd = -7};
    for (int policy = MM_HUGE_PREFER; policy <= MM_HUGE_OFF; policy++) {
        assert_int_equal(mm_arena_map(&arena, 0, (enum mm_huge_policy)policy, NULL, 0), -EINVAL);
        assert_int_equal(mm_arena_map(&arena, SIZE_MAX, (enum mm_huge_policy)policy, NULL, 0),
                         -ENOMEM);
        assert_int_equal(
            mm_arena_map(&arena, SIZE_MAX / 2 + 1, (enum mm_huge_policy)policy, NULL, 0), -ENOMEM);
    }
    for (int kind = MM_PAGES_HUGE_1G; kind <= MM_PAGES_SMALL; kind++) {
        assert_int_equal(mm_arena_map_kind(&arena, 0, (enum mm_page_kind)kind, NULL, 0), -EINVAL);
        assert_true(mm_arena_map_kind(&arena, SIZE_MAX, (enum mm_page_kind)kind, NULL, 0) < 0);
    }
    assert_int_equal(arena.fd, -7);
}

/* Zeroing runs ahead; what was waited for is there, and in the end all of it. */
static void populating_ahead_ends_populated(void **state)
{
    (void)state;
    struct mm_arena arena;
    char why[1024];
    const size_t size = 96 * MIB;
    for (int policy = MM_HUGE_PREFER; policy <= MM_HUGE_OFF; policy += MM_HUGE_OFF) {
        assert_int_equal(mm_arena_begin(&arena, size, (enum mm_huge_policy)policy, why, sizeof why),
                         0);
        for (size_t at = 0; at < size; at += 8 * MIB) {
            assert_int_equal(mm_arena_await(&arena, at + 8 * MIB), 0);
            memset(arena.base + at, 1, 8 * MIB);
        }
        assert_int_equal(mm_arena_finish(&arena, why, sizeof why), 0);
        assert_null(arena.ahead);
        assert_int_equal(mm_arena_await(&arena, size), 0);
        assert_true(look_at(&arena).resident >= arena.size);
        for (size_t at = 0; at < size; at += 4099)
            assert_int_equal(arena.base[at], 1);
        mm_arena_unmap(&arena);
        /* Given back before it is finished: the thread goes first. */
        assert_int_equal(mm_arena_begin(&arena, size, (enum mm_huge_policy)policy, why, sizeof why),
                         0);
        mm_arena_unmap(&arena);
    }
}

static int write_to(void *arg)
{
    *(volatile uint8_t *)arg = 1;
    return 0;
}

static void check_seal(struct mm_arena *arena)
{
    memset(arena->base, 0x5a, arena->size);
    uint8_t *base = arena->base;
    assert_int_equal(mm_arena_seal(arena), 0);
    assert_ptr_equal(arena->base, base);
    for (size_t i = 0; i < arena->size; i += 509)
        assert_int_equal(arena->base[i], 0x5a);
    assert_true(look_at(arena).resident >= arena->size);
    assert_false(look_at(arena).dumped);
    /* A write dies of it: of a signal, or of the sanitizer that reports it. */
    assert_int_not_equal(confined_run(&(struct confinement){0}, write_to, arena->base), 0);
    if (arena->fd >= 0) {
        void *again = mmap(NULL, arena->size, PROT_READ | PROT_WRITE, MAP_SHARED, arena->fd, 0);
        assert_ptr_equal(again, MAP_FAILED);
        assert_int_equal(ftruncate(arena->fd, 0), -1);
        assert_int_equal(fcntl(arena->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
    }
}

static void a_sealed_arena_cannot_be_changed(void **state)
{
    (void)state;
    struct mm_arena arena;
    char why[1024] = "";
    assert_int_equal(mm_arena_map(&arena, SIZE, MM_HUGE_OFF, why, sizeof why), 0);
    check_seal(&arena);
    mm_arena_unmap(&arena);

    unsigned grown = hugepool_grow(2048, 8);
    int r = mm_arena_map_kind(&arena, SIZE, MM_PAGES_HUGE_2M, why, sizeof why);
    if (r == 0) {
        /* While somebody else may write to it there is no seal, and nothing is lost. */
        uint8_t *other = mmap(NULL, arena.size, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0);
        assert_true(other != MAP_FAILED);
        assert_int_equal(mm_arena_seal(&arena), -EBUSY);
        arena.base[0] = 7;
        assert_int_equal(other[0], 7);
        munmap(other, arena.size);
        check_seal(&arena);
        mm_arena_unmap(&arena);
    }
    hugepool_shrink(2048, grown);
}

/* In a child of an ordinary user: memory, but not locked, and that is said. */
static int map_as_nobody(void *arg)
{
    (void)arg;
    struct mm_arena arena;
    char why[1024];
    if (mm_arena_map(&arena, 8 * MIB, MM_HUGE_OFF, why, sizeof why) < 0)
        return __LINE__ % 128;
    memset(arena.base, 1, arena.size);
#ifndef QUERN_SANITIZE /* the sanitizers make mlock do nothing and succeed */
    if (arena.locked)
        return __LINE__ % 128;
    if (strstr(why, "LimitMEMLOCK") == NULL)
        return __LINE__ % 128;
#endif
    mm_arena_unmap(&arena);
    return 0;
}

static void a_small_lock_limit_is_no_error(void **state)
{
    (void)state;
    struct confinement confinement = {.unprivileged = 1, .memlock_bytes = 64 * 1024};
    assert_int_equal(confined_run(&confinement, map_as_nobody, NULL), 0);
}

static int map_without_memfd(void *arg)
{
    (void)arg;
    struct mm_arena arena;
    char why[1024];
    if (mm_arena_map(&arena, 8 * MIB, MM_HUGE_REQUIRE, why, sizeof why) != -ENOMEM)
        return __LINE__ % 128;
    if (why[0] == '\0')
        return __LINE__ % 128;
    if (mm_arena_map(&arena, 8 * MIB, MM_HUGE_PREFER, why, sizeof why) < 0)
        return __LINE__ % 128;
    if (arena.kind < MM_PAGES_THP || arena.fd != -1 || strstr(why, "instead") == NULL)
        return __LINE__ % 128;
    mm_arena_unmap(&arena);
    return 0;
}

static void without_memfd_create_the_next_kind_is_taken(void **state)
{
    (void)state;
    static const int denied[] = {SYS_memfd_create, -1};
    struct confinement confinement = {.denied_syscalls = denied};
    assert_int_equal(confined_run(&confinement, map_without_memfd, NULL), 0);
}

/* ---- a limit of the hugetlb cgroup -------------------------------------------------------------- */

static char mounted[256], cgroup[512];
static bool switched_on; /* the controller, by us */

static bool set_limit(const char *folder, const char *name, const char *text)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return false;
    bool ok = fputs(text, file) >= 0;
    return fclose(file) == 0 && ok;
}

static bool mentions_hugetlb(const char *name)
{
    char path[700], text[512] = "";
    snprintf(path, sizeof path, "%s/%s", mounted, name);
    FILE *file = fopen(path, "re");
    bool there =
        file != NULL && fgets(text, sizeof text, file) != NULL && strstr(text, "hugetlb") != NULL;
    if (file != NULL)
        fclose(file);
    return there;
}

/* A cgroup of our own under the version 2 mount, where that has the hugetlb controller. */
static bool make_cgroup(void)
{
    char line[1024], type[64];
    bool found = false;
    FILE *file = fopen("/proc/mounts", "re");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = sscanf(line, "%*s %255s %63s", mounted, type) == 2 && strcmp(type, "cgroup2") == 0;
    if (file != NULL)
        fclose(file);
    if (!found || !mentions_hugetlb("cgroup.controllers"))
        return false;
    switched_on = !mentions_hugetlb("cgroup.subtree_control");
    snprintf(cgroup, sizeof cgroup, "%s/quern-arena-test-%d", mounted, (int)getpid());
    return (!switched_on || set_limit(mounted, "cgroup.subtree_control", "+hugetlb")) &&
           mkdir(cgroup, 0755) == 0;
}

static void remove_cgroup(void)
{
    rmdir(cgroup);
    if (switched_on)
        set_limit(mounted, "cgroup.subtree_control", "-hugetlb");
}

/* Within the limit: a span of huge pages, or of other pages where the limit leaves too few, but
 * always one that can be written to its end, and a sentence that names the cause. */
static int map_within_limit(void *arg)
{
    struct mm_arena arena;
    char why[1024] = "";
    const bool enough = *(const bool *)arg;
    if (!set_limit(cgroup, "cgroup.procs", "0") ||
        mm_arena_map(&arena, SIZE, MM_HUGE_PREFER, why, sizeof why) != 0) {
        print_message("%s\n", why);
        return 1;
    }
    memset(arena.base, 1, arena.size);
    bool huge = arena.kind == MM_PAGES_HUGE_2M;
    mm_arena_unmap(&arena);
    if (huge != enough || (strstr(why, "cgroup") != NULL) == enough) {
        print_message("%s: %s\n", enough ? "enough" : "too few", why);
        return 2;
    }
    return 0;
}

static void a_limit_of_the_hugetlb_cgroup_is_a_step_down(void **state)
{
    (void)state;
    const struct {
        const char *file, *limit;
        bool enough;
    } limits[] = {
        {"hugetlb.2MB.max", "0", false},       {"hugetlb.2MB.max", "4194304", false},
        {"hugetlb.2MB.max", "6291456", true},  {"hugetlb.2MB.rsvd.max", "4194304", false},
        {"hugetlb.2MB.rsvd.max", "max", true},
    };
    const struct confinement none = {0};
    unsigned grown = hugepool_grow(2048, 3);
    if (grown < 3 || !make_cgroup()) {
        hugepool_shrink(2048, grown);
        print_message("no huge pages, or no hugetlb controller of cgroup 2, to be had here\n");
        skip();
    }
    int result[5];
    for (size_t i = 0; i < 5; i++) {
        bool enough = limits[i].enough;
        result[i] = set_limit(cgroup, limits[i].file, limits[i].limit)
                        ? confined_run(&none, map_within_limit, &enough)
                        : -1;
    }
    remove_cgroup();
    hugepool_shrink(2048, grown);
    for (size_t i = 0; i < 5; i++)
        if (result[i] != 0)
            fail_msg("%s of %s: %d", limits[i].file, limits[i].limit, result[i]);
}

/* What one node can show: every kind of page on it or spread over "all", other nodes refused. */
static void memory_nodes(void **state)
{
    (void)state;
    char why[512] = "";
    assert_int_equal(mm_numa_set("4095", why, sizeof why), -EINVAL);
    assert_non_null(strstr(why, "4095"));
    assert_int_equal(mm_numa_set("left", why, sizeof why), -EINVAL);
    assert_non_null(strstr(why, "left"));
    const char *const settings[] = {"interleave", "0", "off"};
    for (size_t i = 0; i < 3; i++) {
        if (mm_numa_set(settings[i], why, sizeof why) == -ENODEV) {
            print_message("%s\n", why);
            skip();
        }
        for (int policy = MM_HUGE_PREFER; policy <= MM_HUGE_OFF; policy += MM_HUGE_OFF) {
            struct mm_arena arena;
            int mode = -1;
            assert_int_equal(
                mm_arena_map(&arena, 5 << 20, (enum mm_huge_policy)policy, why, sizeof why), 0);
            assert_int_equal(get_mempolicy(&mode, NULL, 0, arena.base, MPOL_F_ADDR), 0);
            assert_int_equal(mode, i == 0 ? MPOL_INTERLEAVE : i == 1 ? MPOL_BIND : MPOL_DEFAULT);
            arena.base[arena.size - 1] = 1;
            mm_arena_unmap(&arena);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_nodes),
        cmocka_unit_test(huge_pages_of_2_mib),
        cmocka_unit_test(huge_pages_of_1_gib),
        cmocka_unit_test(transparent_and_small_pages),
        cmocka_unit_test(off_means_small_pages_and_no_words),
        cmocka_unit_test(a_short_pool_is_said_with_the_number_of_pages),
        cmocka_unit_test(prefer_steps_down_and_says_so),
        cmocka_unit_test(sizes_that_cannot_be),
        cmocka_unit_test(populating_ahead_ends_populated),
        cmocka_unit_test(a_sealed_arena_cannot_be_changed),
        cmocka_unit_test(a_small_lock_limit_is_no_error),
        cmocka_unit_test(without_memfd_create_the_next_kind_is_taken),
        cmocka_unit_test(a_limit_of_the_hugetlb_cgroup_is_a_step_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
