/* The same logits, bit by bit, from wherever the weights come: the model file, the packed image,
 * the process before; and what is damaged, stale or in the way is said and costs nothing else. */
#define _GNU_SOURCE /* unshare */
#include "tests/support/confined.h"
#include "tests/support/hugepool.h"
#include "tests/support/loading.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGES 24 /* of 2 MiB: weights of two loads and their KV */

static char folder[] = "/var/tmp/quern-residence-test-XXXXXX";
static char file[80], image[96], mount_path[80], store[96];
static bool mounted;
static unsigned grown;

static struct loading reference;

static void load_and_run(const struct model_options *with, bool wait_for_image, struct loading *ret)
{
    loading_run(file, with, wait_for_image, ret);
}

static void check_same(const struct loading *outcome, const char *word)
{
    assert_true(loading_same(outcome, &reference, word));
}

/* ---- set-up --------------------------------------------------------------------------------- */

static int make_model(const char *seed)
{
    char options[64];
    snprintf(options, sizeof options, "--shape tiny --type q8_0 --seed %s", seed);
    return loading_make_model(options, file);
}

static int start(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    snprintf(image, sizeof image, "%s/model.quern", folder);
    snprintf(mount_path, sizeof mount_path, "%s/huge", folder);
    snprintf(store, sizeof store, "%s/quern", mount_path);
    mkdir(mount_path, 0755);
    grown = hugepool_grow(2048, PAGES);
    mounted = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
              mount("none", mount_path, "hugetlbfs", 0, "pagesize=2M") == 0;
    if (make_model("1") != 0)
        return -1;
    load_and_run(&(struct model_options){.huge_pages = MM_HUGE_OFF}, false, &reference);
    if (reference.result < 0)
        print_message("%s\n", reference.why);
    return reference.result;
}

static int end(void **state)
{
    (void)state;
    unlink(image);
    unlink(file);
    if (mounted)
        umount(mount_path);
    rmdir(mount_path);
    hugepool_shrink(2048, grown);
    return rmdir(folder);
}

static int fresh(void **state)
{
    (void)state;
    unlink(image);
    return 0;
}

static unsigned count_files(void)
{
    unsigned n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static struct loading outcome;

static void every_kind_of_page_gives_the_same_logits(void **state)
{
    (void)state;
    for (int policy = MM_HUGE_PREFER; policy <= MM_HUGE_OFF; policy++) {
        load_and_run(&(struct model_options){.huge_pages = (enum mm_huge_policy)policy}, false,
                     &outcome);
        if (policy == MM_HUGE_REQUIRE && outcome.result == -ENOMEM)
            assert_non_null(strstr(outcome.why, "huge"));
        else
            check_same(&outcome, "packed from the model file");
    }
}

/* Without memfds there is no page of the pool to be had: the kind below. */
static int load_on_transparent_pages(void *arg)
{
    (void)arg;
    load_and_run(&(struct model_options){.huge_pages = MM_HUGE_PREFER}, false, &outcome);
    const bool none = strstr(outcome.notes, "Transparent huge pages are off") != NULL ||
                      strstr(outcome.notes, "fragmented") != NULL;
    return loading_same(&outcome, &reference, none ? "small pages" : ", on transparent huge pages")
               ? 0
               : 1;
}

static void transparent_huge_pages_give_the_same_logits(void **state)
{
    (void)state;
    static const int denied[] = {SYS_memfd_create, -1};
    const struct confinement confinement = {.denied_syscalls = denied};
    assert_int_equal(confined_run(&confinement, load_on_transparent_pages, NULL), 0);
}

static void the_second_start_reads_the_image(void **state)
{
    (void)state;
    struct model_options options = {.image = image};
    for (int policy = MM_HUGE_PREFER; policy <= MM_HUGE_OFF; policy += MM_HUGE_OFF) {
        options.huge_pages = (enum mm_huge_policy)policy;
        unlink(image);
        load_and_run(&options, true, &outcome);
        check_same(&outcome, "packed from the model file");
        assert_non_null(strstr(outcome.image_notes, "is written"));
        assert_int_equal(count_files(), 3); /* model, image, mount */
        load_and_run(&options, false, &outcome);
        check_same(&outcome, "read from");
        assert_null(strstr(outcome.notes, "packed"));
    }
}

static void a_damaged_or_stale_image_is_said_and_replaced(void **state)
{
    (void)state;
    struct model_options options = {.image = image, .huge_pages = MM_HUGE_OFF};
    load_and_run(&options, true, &outcome);
    check_same(&outcome, NULL);
    struct stat st;
    assert_int_equal(stat(image, &st), 0);
    const off_t places[] = {0, 20, 100, 5000, st.st_size / 2, st.st_size - 8192};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        int fd = open(image, O_RDWR);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, places[i]), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, places[i]), 1);
        close(fd);
        load_and_run(&options, true, &outcome);
        check_same(&outcome, image);
        assert_non_null(strstr(outcome.notes, "packed from the model file"));
        load_and_run(&options, true, &outcome);
        check_same(&outcome, "read from");
    }
    assert_int_equal(truncate(image, 100), 0);
    load_and_run(&options, true, &outcome);
    check_same(&outcome, "packed from the model file");
    /* The model file is another one now, though it holds the same. */
    assert_int_equal(make_model("1"), 0);
    load_and_run(&options, true, &outcome);
    check_same(&outcome, "was made of another file");
    load_and_run(&options, true, &outcome);
    check_same(&outcome, "read from");
}

static void a_place_that_cannot_be_written_costs_nothing_else(void **state)
{
    (void)state;
    load_and_run(&(struct model_options){.image = "/proc/none/model.quern"}, false, &outcome);
    check_same(&outcome, "/proc/none/model.quern");
    /* By itself, so small a model gets no image. */
    load_and_run(&(struct model_options){.image = "auto"}, false, &outcome);
    check_same(&outcome, "packed from the model file");
    assert_int_equal(count_files(), 2);
}

static int cancel(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    return done > total / 2 ? -ECANCELED : 0;
}

static void a_cancelled_load_leaves_nothing(void **state)
{
    (void)state;
    struct model_options options = {.image = image, .progress = cancel};
    load_and_run(&options, false, &outcome);
    assert_int_equal(outcome.result, -ECANCELED);
    assert_int_equal(count_files(), 2);
    options.progress = NULL;
    load_and_run(&options, true, &outcome);
    check_same(&outcome, NULL);
    options.progress = cancel;
    load_and_run(&options, false, &outcome);
    assert_int_equal(outcome.result, -ECANCELED);
    assert_int_equal(count_files(), 3);
}

/* In a process of its own, as starts of a service are. */
static pid_t start_process(const struct model_options *options, struct loading *shared)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        load_and_run(options, true, shared);
        _exit(0);
    }
    return pid;
}

static void killed_at_any_moment_the_next_start_is_clean(void **state)
{
    (void)state;
    struct model_options options = {.image = image, .huge_pages = MM_HUGE_OFF};
    static struct loading lost;
    srand(17);
    for (int i = 0; i < 30; i++) {
        if (i % 3 == 0)
            unlink(image);
        pid_t pid = start_process(&options, &lost);
        usleep((unsigned)rand() % 30000);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        load_and_run(&options, true, &outcome);
        check_same(&outcome, NULL);
        assert_int_equal(count_files(), 3);
    }
}

static void of_two_that_start_together_one_packs(void **state)
{
    (void)state;
    struct model_options options = {.image = image, .huge_pages = MM_HUGE_OFF};
    struct loading *both =
        mmap(NULL, 2 * sizeof *both, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(both != MAP_FAILED);
    for (int i = 0; i < 5; i++) {
        unlink(image);
        pid_t pids[2] = {start_process(&options, &both[0]), start_process(&options, &both[1])};
        for (int j = 0; j < 2; j++)
            assert_int_equal(waitpid(pids[j], NULL, 0), pids[j]);
        int n_packed = 0;
        for (int j = 0; j < 2; j++) {
            check_same(&both[j], NULL);
            n_packed += strstr(both[j].notes, "packed from the model file") != NULL;
        }
        assert_int_equal(n_packed, 1);
    }
    munmap(both, 2 * sizeof *both);
}

static void a_restart_finds_the_weights(void **state)
{
    (void)state;
    if (!mounted)
        skip();
    struct model_options options = {.image = image, .store = store, .huge_pages = MM_HUGE_REQUIRE};
    load_and_run(&options, true, &outcome);
    if (outcome.result == -ENOMEM) { /* others were quicker to take the pages */
        print_message("%s\n", outcome.why);
        skip();
    }
    check_same(&outcome, "packed from the model file");
    assert_false(outcome.warm);
    for (int i = 0; i < 3; i++) {
        load_and_run(&options, false, &outcome);
        check_same(&outcome, "kept from the process before");
        assert_true(outcome.warm);
    }
    /* Another file under the name: what was kept is dropped, and why. */
    assert_int_equal(make_model("1"), 0);
    load_and_run(&options, true, &outcome);
    check_same(&outcome, "belongs to another model file");
    assert_false(outcome.warm);
    load_and_run(&options, false, &outcome);
    check_same(&outcome, "kept from the process before");
    /* Where nothing is kept, the image is next. */
    char command[160];
    snprintf(command, sizeof command, "rm -r '%s'", store);
    assert_int_equal(system(command), 0);
    load_and_run(&options, false, &outcome);
    check_same(&outcome, "read from");
    assert_int_equal(system(command), 0);
}

/* Of the weights that are kept in the store, or 0. */
static off_t kept_bytes(void)
{
    off_t bytes = 0;
    struct stat st;
    DIR *dir = opendir(store);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, "weights-", 8) == 0 &&
            fstatat(dirfd(dir), entry->d_name, &st, 0) == 0)
            bytes += st.st_size;
    if (dir != NULL)
        closedir(dir);
    return bytes;
}

/* On a mount that has room for the weights of one model, those of the next can be kept only if the
 * others have gone before it took memory. */
static void kept_weights_of_no_use_go_first(void **state)
{
    (void)state;
    struct model_options options = {.store = store, .huge_pages = MM_HUGE_REQUIRE};
    char command[160], size[64];
    if (mounted)
        load_and_run(&options, false, &outcome);
    if (!mounted || outcome.result == -ENOMEM) {
        print_message("no huge pages are to be had\n");
        skip();
    }
    check_same(&outcome, NULL);
    const off_t bytes = kept_bytes();
    assert_true(bytes > 0);
    snprintf(command, sizeof command, "rm -r '%s'", store);
    assert_int_equal(system(command), 0);
    snprintf(size, sizeof size, "pagesize=2M,size=%lld", (long long)bytes);
    assert_int_equal(mount("none", mount_path, "hugetlbfs", 0, size), 0); /* over the other */
    for (int model = 0; model < 2; model++) {
        if (model > 0) /* another file, though it holds the same */
            assert_int_equal(make_model("1"), 0);
        load_and_run(&options, false, &outcome);
        check_same(&outcome, model > 0 ? "belongs to another model file" : "packed from");
        assert_false(outcome.warm);
        assert_int_equal(kept_bytes(), bytes);
        load_and_run(&options, false, &outcome);
        check_same(&outcome, "kept from the process before");
    }
    assert_int_equal(umount(mount_path), 0);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup(test, fresh)
    const struct CMUnitTest tests[] = {
        FRESH(every_kind_of_page_gives_the_same_logits),
        FRESH(transparent_huge_pages_give_the_same_logits),
        FRESH(the_second_start_reads_the_image),
        FRESH(a_damaged_or_stale_image_is_said_and_replaced),
        FRESH(a_place_that_cannot_be_written_costs_nothing_else),
        FRESH(a_cancelled_load_leaves_nothing),
        FRESH(killed_at_any_moment_the_next_start_is_clean),
        FRESH(of_two_that_start_together_one_packs),
        FRESH(a_restart_finds_the_weights),
        FRESH(kept_weights_of_no_use_go_first),
    };
    return cmocka_run_group_tests(tests, start, end);
}
