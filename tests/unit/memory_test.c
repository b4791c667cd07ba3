/* What memory is left: parsed from a /proc, /sys and cgroup tree that the test writes. */
#define _GNU_SOURCE /* asprintf, nftw */
#include "mm/memory.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define MIB (1024ull * 1024)

static char root[64];

/* Writes a file below the root, and the folders on the way. */
static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/quern-memory-test-XXXXXX");
    if (mkdtemp(root) == NULL)
        return -1;
    put("proc/meminfo",
        "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:    4194304 kB\n");
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void without_cgroups_the_machine_counts(void **state)
{
    (void)state;
    struct mm_memory memory;
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.ordinary, 4096 * MIB);
    assert_int_equal(memory.machine, 4096 * MIB);
    assert_true(memory.cgroup == UINT64_MAX);
    assert_string_equal(memory.cgroup_path, "");
    assert_int_equal(memory.hugetlb, 0);
    assert_false(memory.hugetlb_in_cgroup);
}

static void the_narrowest_cgroup_on_the_path_counts(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/system.slice/quern.service\n");
    put("proc/self/mountinfo",
        "24 1 0:22 / /sys rw - sysfs sysfs rw\n"
        "29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
    put("sys/fs/cgroup/memory.stat", "anon 1\n"); /* the root has no limits */
    put("sys/fs/cgroup/system.slice/memory.max", "max\n");
    put("sys/fs/cgroup/system.slice/memory.high", "2147483648\n");
    put("sys/fs/cgroup/system.slice/memory.current", "1610612736\n");
    put("sys/fs/cgroup/system.slice/memory.stat",
        "anon 5\nfile 7\ninactive_file 1048576\nactive_file 2097152\n");
    put("sys/fs/cgroup/system.slice/quern.service/memory.max", "3221225472\n");
    put("sys/fs/cgroup/system.slice/quern.service/memory.high", "max\n");
    put("sys/fs/cgroup/system.slice/quern.service/memory.current", "1073741824\n");
    struct mm_memory memory;
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.cgroup, (512 + 3) * MIB); /* of system.slice; its page cache is free */
    assert_int_equal(memory.ordinary, memory.cgroup);
    assert_non_null(strstr(memory.cgroup_path, "/sys/fs/cgroup/system.slice"));
    assert_null(strstr(memory.cgroup_path, "quern.service"));

    put("sys/fs/cgroup/system.slice/quern.service/memory.max", "1073741824\n"); /* used up */
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.ordinary, 0);
}

static void a_container_sees_its_part_of_the_tree(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/docker/abc/inner\n");
    put("proc/self/mountinfo", "29 24 0:26 /docker/abc /sys/fs/c\\040group ro - cgroup2 cgroup "
                               "rw,memory_hugetlb_accounting\n");
    put("sys/fs/c group/memory.max", "209715200\n");
    put("sys/fs/c group/memory.current", "104857600\n");
    put("sys/fs/c group/inner/memory.max", "52428800\n");
    put("sys/fs/c group/inner/memory.current", "0\n");
    struct mm_memory memory;
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.ordinary, 50 * MIB);
    assert_true(memory.hugetlb_in_cgroup);

    /* A path that the mount does not show: its own folder is all there is to ask. */
    put("proc/self/cgroup", "0::/elsewhere\n");
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.ordinary, 100 * MIB);
}

static void version_1_counts_too(void **state)
{
    (void)state;
    put("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n");
    put("proc/self/mountinfo", "30 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
                               "31 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "943718400\n");
    put("sys/fs/cgroup/memory/a/b/memory.stat",
        "inactive_file 5\ntotal_inactive_file 10485760\ntotal_active_file 0\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "99\n");
    struct mm_memory memory;
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.ordinary, (1024 - 900 + 10) * MIB);
}

static void free_huge_pages_are_those_nobody_has_reserved(void **state)
{
    (void)state;
    put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "30\n");
    put("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "3\n");
    put("sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "0\n");
    struct mm_memory memory;
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.hugetlb, 140 * MIB + 3072 * MIB);
    assert_int_equal(memory.hugetlb_2m, UINT64_MAX);

    /* The hugetlb controller counts by size, in every group up to the root. */
    put("proc/self/cgroup", "0::/a/b\n");
    put("proc/self/mountinfo", "29 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/a/b/hugetlb.2MB.max", "max\n");
    put("sys/fs/cgroup/a/b/hugetlb.2MB.current", "0\n");
    put("sys/fs/cgroup/a/hugetlb.2MB.max", "104857600\n");
    put("sys/fs/cgroup/a/hugetlb.2MB.current", "41943040\n");
    put("sys/fs/cgroup/a/b/hugetlb.1GB.max", "0\n");
    put("sys/fs/cgroup/a/b/hugetlb.1GB.current", "0\n");
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.hugetlb_2m, 60 * MIB);
    assert_int_equal(memory.hugetlb_1g, 0);
    assert_int_equal(memory.hugetlb, 60 * MIB);
    assert_int_equal(memory.cgroup, UINT64_MAX);
}

static void what_is_no_number_is_an_error_or_no_limit(void **state)
{
    (void)state;
    struct mm_memory memory = {.ordinary = 5};
    put("proc/self/cgroup", "0::\n:::::\n\n0");
    put("proc/self/mountinfo", " - \n - cgroup2\n1 2 3 4 5 - cgroup2 a b\nx");
    assert_int_equal(mm_memory_query(&memory, root), 0);
    assert_int_equal(memory.ordinary, 4096 * MIB);
    put("proc/meminfo", "MemAvailable: many kB\n");
    memory.ordinary = 5;
    assert_int_equal(mm_memory_query(&memory, root), -ENODATA);
    assert_int_equal(memory.ordinary, 5);
    assert_int_equal(mm_memory_query(&memory, "/nonexistent"), -ENOENT);
}

static void this_machine_has_memory(void **state)
{
    (void)state;
    uint64_t ordinary = 0, hugetlb = UINT64_MAX;
    assert_int_equal(mm_memory_available(&ordinary, &hugetlb), 0);
    assert_true(ordinary > 0 && ordinary < UINT64_MAX / 2);
    assert_true(hugetlb < UINT64_MAX / 2);
}

int main(void)
{
#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        WITH_ROOT(without_cgroups_the_machine_counts),
        WITH_ROOT(the_narrowest_cgroup_on_the_path_counts),
        WITH_ROOT(a_container_sees_its_part_of_the_tree),
        WITH_ROOT(version_1_counts_too),
        WITH_ROOT(free_huge_pages_are_those_nobody_has_reserved),
        WITH_ROOT(what_is_no_number_is_an_error_or_no_limit),
        cmocka_unit_test(this_machine_has_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
