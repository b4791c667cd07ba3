/* Heap statistics: with jemalloc (the test starts itself again with it preloaded) and without. */
#include "mm/stats.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (1024ull * 1024)

static const char *program;

/* In the second process: 0, or the line that is wrong; 77 where jemalloc is not to be had. */
static int with_jemalloc(void)
{
    struct mm_stats before, after;
    uint64_t thread_before, thread_after;
    if (mm_stats_query(&before) == -ENOSYS)
        return 77;
    if (mm_stats_thread_allocated(&thread_before) != 0)
        return __LINE__;
    volatile char *block = malloc(8 * MIB);
    if (!block)
        return __LINE__;
    memset((void *)block, 1, 8 * MIB);
    if (mm_stats_query(&after) != 0 || mm_stats_thread_allocated(&thread_after) != 0)
        return __LINE__;
    if (after.allocated < before.allocated + 8 * MIB || after.resident < after.allocated)
        return __LINE__;
    if (after.active < after.allocated || after.mapped < after.active)
        return __LINE__;
    if (thread_after < thread_before + 8 * MIB)
        return __LINE__;
    /* The bytes of a thread only grow: freeing does not hide an allocation. */
    free((void *)block);
    mm_stats_thread_allocated(&thread_before);
    if (thread_before != thread_after)
        return __LINE__;
    return 0;
}

static void jemalloc_counts(void **state)
{
    (void)state;
#ifdef QUERN_SANITIZE /* two allocators do not go together */
    skip();
#endif
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("LD_PRELOAD", "libjemalloc.so.2", 1);
        execl(program, program, "--with-jemalloc", (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void without_jemalloc_there_are_none(void **state)
{
    (void)state;
    struct mm_stats stats = {.allocated = 5};
    uint64_t bytes = 7;
    assert_int_equal(mm_stats_query(&stats), -ENOSYS);
    assert_int_equal(mm_stats_thread_allocated(&bytes), -ENOSYS);
    assert_int_equal(stats.allocated, 5);
    assert_int_equal(bytes, 7);
}

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc > 1 && strcmp(argv[1], "--with-jemalloc") == 0)
        return with_jemalloc() % 256;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jemalloc_counts),
        cmocka_unit_test(without_jemalloc_there_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
