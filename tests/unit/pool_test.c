/* The thread pool: every index once, more threads than processors, sleep between regions, the
 * float mode of every worker, and the limits that it reads. */
#define _GNU_SOURCE
#include "ops/cpus.h"
#include "ops/isa.h"
#include "ops/pool.h"

#include <errno.h>
#include <immintrin.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define N_MAX 1000

struct tally {
    size_t n;
    unsigned n_threads;
    atomic_uint hits[N_MAX];
    atomic_uint bad_ranges;
    unsigned plain[N_MAX]; /* written without atomics: the region's end must publish it */
};

static void count_indices(void *arg, size_t begin, size_t end, unsigned thread)
{
    struct tally *tally = arg;

    if (begin >= end || end > tally->n || thread >= tally->n_threads)
        atomic_fetch_add(&tally->bad_ranges, 1);
    for (size_t i = begin; i < end && i < N_MAX; i++) {
        atomic_fetch_add(&tally->hits[i], 1);
        tally->plain[i] += (unsigned)i + 1;
    }
}

static void each_index_once(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 7, 64, 999};
    static const size_t grains[] = {0, 1, 3, 1000};
    (void)state;

    for (unsigned n_threads = 1; n_threads <= 5; n_threads++) {
        struct ops_pool *pool;
        assert_int_equal(ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = n_threads}),
                         0);
        assert_int_equal(ops_pool_n_threads(pool), n_threads);
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            for (size_t g = 0; g < sizeof(grains) / sizeof(grains[0]); g++) {
                static struct tally tally;
                memset(&tally, 0, sizeof(tally));
                tally.n = sizes[s];
                tally.n_threads = n_threads;
                for (unsigned round = 1; round <= 20; round++) {
                    ops_pool_deal(pool, round > 10 ? round : 0); /* in any order, too */
                    ops_pool_run(pool, tally.n, grains[g], count_indices, &tally);
                }
                assert_int_equal(atomic_load(&tally.bad_ranges), 0);
                for (size_t i = 0; i < N_MAX; i++) {
                    assert_int_equal(atomic_load(&tally.hits[i]), i < tally.n ? 20 : 0);
                    assert_int_equal(tally.plain[i], i < tally.n ? 20 * (i + 1) : 0);
                }
            }
        }
        ops_pool_free(pool);
    }
}

/* A region after the workers went to sleep, and one right behind another: no wake-up is lost. */
static void wakes_after_sleep(void **state)
{
    struct ops_pool *pool;
    static struct tally tally;
    (void)state;

    assert_int_equal(ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = 2, .spin_us = 1}),
                     0);
    memset(&tally, 0, sizeof(tally));
    tally.n = 64;
    tally.n_threads = 2;
    for (unsigned round = 0; round < 200; round++) {
        if (round % 4 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
        ops_pool_run(pool, tally.n, 1, count_indices, &tally);
    }
    for (size_t i = 0; i < tally.n; i++)
        assert_int_equal(atomic_load(&tally.hits[i]), 200);
    ops_pool_free(pool);
}

static void note_worker(void *arg, size_t begin, size_t end, unsigned thread)
{
    atomic_long *tids = arg;
    (void)begin, (void)end;

    atomic_store(&tids[thread], syscall(SYS_gettid));
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Nanoseconds that a thread of this process has run. */
static unsigned long long run_time_ns(long tid)
{
    char path[64];
    unsigned long long ns;

    snprintf(path, sizeof(path), "/proc/self/task/%ld/schedstat", tid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    assert_int_equal(fscanf(file, "%llu", &ns), 1);
    fclose(file);
    return ns;
}

static void idle_uses_no_cpu(void **state)
{
    struct ops_pool *pool;
    atomic_long tids[3] = {0};
    unsigned long long before[3];
    (void)state;

    assert_int_equal(ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = 3}), 0);
    while (!atomic_load(&tids[1]) || !atomic_load(&tids[2]))
        ops_pool_run(pool, 12, 1, note_worker, tids);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    for (int i = 1; i < 3; i++)
        before[i] = run_time_ns(atomic_load(&tids[i]));
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    for (int i = 1; i < 3; i++)
        assert_true(run_time_ns(atomic_load(&tids[i])) == before[i]);
    ops_pool_free(pool);
}

static void read_float_mode(void *arg, size_t begin, size_t end, unsigned thread)
{
    atomic_uint *wrong = arg;
    (void)begin, (void)end, (void)thread;

    if ((_mm_getcsr() & ~0x3fu) != 0x1f80)
        atomic_fetch_add(wrong, 1);
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void float_mode_is_set(void **state)
{
    struct ops_pool *pool;
    atomic_uint wrong = 0;
    (void)state;

    _mm_setcsr(0x9fc0); /* FTZ and DAZ: must not be inherited, nor stay in the caller */
    assert_int_equal(ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = 3}), 0);
    ops_pool_run(pool, 200, 1, read_float_mode, &wrong);
    assert_int_equal(atomic_load(&wrong), 0);
    ops_pool_free(pool);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void quota_is_the_smallest_on_the_path(void **state)
{
    char root[] = "/tmp/quern-cpus-XXXXXX", path[256];
    (void)state;

    assert_non_null(mkdtemp(root));
    snprintf(path, sizeof(path), "%s/a", root);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/a/b", root);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(ops_cpus_quota_at(root, "/a/b"), 0);
    snprintf(path, sizeof(path), "%s/a/b/cpu.max", root);
    write_text(path, "max 100000\n");
    assert_int_equal(ops_cpus_quota_at(root, "/a/b"), 0);
    write_text(path, "450000 100000\n");
    assert_int_equal(ops_cpus_quota_at(root, "/a/b"), 5);
    snprintf(path, sizeof(path), "%s/a/cpu.max", root);
    write_text(path, "150000 100000\n");
    assert_int_equal(ops_cpus_quota_at(root, "/a/b"), 2);
    write_text(path, "1000 100000\n");
    assert_int_equal(ops_cpus_quota_at(root, "/a/b"), 1);
    unlink(path);
    snprintf(path, sizeof(path), "%s/a/b/cpu.max", root);
    unlink(path);
    snprintf(path, sizeof(path), "%s/a/b", root);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/a", root);
    rmdir(path);
    rmdir(root);
    assert_true(ops_pool_default_threads() >= 1);
}

static void isa_names_and_refusals(void **state)
{
    (void)state;

    assert_int_equal(ops_isa_select("sse9"), -EINVAL);
    assert_int_equal(ops_isa_select(""), -EINVAL);
    assert_int_equal(ops_isa_select("AVX2"), -EINVAL);
    for (int isa = 0; isa < OPS_N_ISA; isa++) {
        const char *name = ops_isa_name((enum ops_isa)isa);
        if (ops_isa_supported((enum ops_isa)isa)) {
            assert_int_equal(ops_isa_select(name), 0);
            assert_int_equal(ops_isa(), isa);
        } else {
            const enum ops_isa before = ops_isa();
            assert_int_equal(ops_isa_select(name), -ENOTSUP);
            assert_int_equal(ops_isa(), before);
        }
    }
    assert_int_equal(ops_isa_select(NULL), 0);
    assert_true(ops_isa_supported(ops_isa()));
    assert_true(ops_isa_supported(OPS_ISA_SCALAR));
}

struct aside {
    int calls, wanted;
};

static bool count_down(void *arg)
{
    struct aside *aside = arg;
    aside->calls++;
    return aside->calls < aside->wanted;
}

/* Once in each region, until it says that it is done; then not again. */
static void an_aside_runs_once_a_region(void **state)
{
    (void)state;
    for (unsigned n_threads = 1; n_threads <= 3; n_threads++) {
        static struct tally tally;
        struct aside aside = {.wanted = 3};
        struct ops_pool *pool;
        assert_int_equal(ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = n_threads}),
                         0);
        ops_pool_set_aside(pool, count_down, &aside);
        for (int i = 0; i < 6; i++) {
            memset(&tally, 0, sizeof tally);
            tally.n = 100;
            tally.n_threads = n_threads;
            ops_pool_run(pool, tally.n, 1, count_indices, &tally);
            assert_int_equal(aside.calls, i < 3 ? i + 1 : 3);
            for (size_t k = 0; k < tally.n; k++)
                assert_int_equal(tally.hits[k], 1);
        }
        ops_pool_set_aside(pool, count_down, &aside);
        ops_pool_set_aside(pool, NULL, NULL);
        ops_pool_run(pool, tally.n, 1, count_indices, &tally);
        assert_int_equal(aside.calls, 3);
        ops_pool_free(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_index_once),
        cmocka_unit_test(an_aside_runs_once_a_region),
        cmocka_unit_test(wakes_after_sleep),
        cmocka_unit_test(idle_uses_no_cpu),
        cmocka_unit_test(float_mode_is_set),
        cmocka_unit_test(quota_is_the_smallest_on_the_path),
        cmocka_unit_test(isa_names_and_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
