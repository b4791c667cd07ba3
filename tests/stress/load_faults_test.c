/* What may go wrong while weights are loaded or packed: the disk fails, the process is killed, the
 * kernel or the user's limits refuse the fast way. Each time the service says so or does without, and
 * what it serves has the same bits. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "tests/support/confined.h"
#include "tests/support/loading.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define N_KILLS 100 /* of packing, and of loading */
#define N_EIO   100
#define SHAPE   "--shape tiny --layers 4 --ff 1024 --type f16"

static char folder[] = "/var/tmp/quern-load-faults-XXXXXX";
static char file[96], image[96];
static struct loading reference, outcome;

/* ---- faults: this file has its own io_uring_submit_and_wait, pread and open -------------------- */

static long reads_until_eio = -1; /* < 0: the disk is well */
static bool no_direct;

/* The result of each read that has come back; it is taken in right after. */
int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
    static int (*real)(struct io_uring *, unsigned);
    if (!real)
        real = (int (*)(struct io_uring *, unsigned))dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    int r = real(ring, wait_nr);
    unsigned head;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(ring, head, cqe)
    {
        if (reads_until_eio >= 0 && reads_until_eio-- == 0)
            cqe->res = -EIO;
    }
    return r;
}

ssize_t pread(int fd, void *to, size_t length, off_t offset)
{
    if (reads_until_eio >= 0 && reads_until_eio-- == 0) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, to, length, offset);
}

/* A file system without direct I/O. */
int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = va_arg(args, mode_t);
    va_end(args);
    if (no_direct && (flags & O_DIRECT) != 0) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* ---- set-up ----------------------------------------------------------------------------------- */

static unsigned count_files(void)
{
    unsigned n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static int start(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL || chmod(folder, 0755) < 0)
        return -1;
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    snprintf(image, sizeof image, "%s/model.quern", folder);
    if (loading_make_model(SHAPE, file) != 0)
        return -1;
    loading_run(file, &(struct model_options){.huge_pages = MM_HUGE_OFF}, false, &reference);
    return reference.result;
}

static int end(void **state)
{
    (void)state;
    unlink(file);
    unlink(image);
    return rmdir(folder);
}

static int fresh(void **state)
{
    (void)state;
    unlink(image);
    reads_until_eio = -1;
    no_direct = false;
    return 0;
}

static const struct model_options with_image = {.image = image, .huge_pages = MM_HUGE_OFF};

/* ---- every way of reading ---------------------------------------------------------------------- */

struct way {
    const struct model_options *options;
    const char *word; /* in the notes */
};

static int load_confined(void *arg)
{
    const struct way *way = arg;
    loading_run(file, way->options, false, &outcome);
    return loading_same(&outcome, &reference, way->word) ? 0 : 1;
}

static void every_way_of_reading_gives_the_same_logits(void **state)
{
    (void)state;
    const int no_uring[] = {SYS_io_uring_setup, -1};
    const struct {
        struct confinement confinement;
        bool no_direct;
        const char *mode, *registered; /* an image is read without the buffers */
    } ways[] = {
        {{.unprivileged = 0}, false, "io_uring, direct I/O", ", registered buffers"},
        {{.unprivileged = 1, .memlock_bytes = 65536}, false, "io_uring, direct I/O", ""},
        {{.unprivileged = 1, .memlock_bytes = 65536}, true, "io_uring, page cache", ""},
        {{.unprivileged = 1, .denied_syscalls = no_uring}, false, "pread, direct I/O", ""},
        {{.unprivileged = 1, .denied_syscalls = no_uring}, true, "pread, page cache", ""},
    };
    const struct model_options from_file = {.huge_pages = MM_HUGE_OFF};
    loading_run(file, &with_image, true, &outcome);
    assert_true(loading_same(&outcome, &reference, "packed from"));
    assert_int_equal(chmod(image, 0644), 0);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char packed[128], read[128];
        snprintf(packed, sizeof packed, "packed from the model file, read by %s%s, on",
                 ways[i].mode, ways[i].registered);
        snprintf(read, sizeof read, "model.quern by %s, on", ways[i].mode);
        no_direct = ways[i].no_direct;
        struct way file_way = {&from_file, packed}, image_way = {&with_image, read};
        assert_int_equal(confined_run(&ways[i].confinement, load_confined, &file_way), 0);
        assert_int_equal(confined_run(&ways[i].confinement, load_confined, &image_way), 0);
    }
}

/* ---- the disk fails ---------------------------------------------------------------------------- */

static void a_read_error_anywhere_is_said(void **state)
{
    (void)state;
    const struct model_options from_file = {.huge_pages = MM_HUGE_OFF};
    unsigned n_failed = 0, n_packed = 0;
    loading_run(file, &with_image, true, &outcome);
    assert_true(loading_same(&outcome, &reference, NULL));
    srand(5);
    for (int i = 0; i < N_EIO; i++) {
        bool of_image = i % 2 != 0;
        reads_until_eio = rand() % 20;
        loading_run(file, of_image ? &with_image : &from_file, false, &outcome);
        bool hit = reads_until_eio < 0;
        reads_until_eio = -1;
        if (!hit) { /* fewer reads than that */
            assert_true(loading_same(&outcome, &reference, NULL));
        } else if (outcome.result < 0) { /* the model file itself cannot be read */
            n_failed++;
            assert_int_equal(outcome.result, -EIO);
            assert_non_null(strstr(outcome.why, "Input/output error"));
        } else { /* the image: without it, then; or its header, which is tried once more */
            n_packed += strstr(outcome.notes, "packed from") != NULL;
            assert_true(loading_same(&outcome, &reference, NULL));
            assert_non_null(strstr(outcome.notes, "Input/output error"));
        }
    }
    print_message("%u loads failed with a sentence, %u packed again\n", n_failed, n_packed);
    assert_true(n_failed >= N_EIO / 8 && n_packed >= N_EIO / 8);
    loading_run(file, &with_image, true, &outcome);
    assert_true(loading_same(&outcome, &reference, NULL));
}

/* ---- the process is killed --------------------------------------------------------------------- */

static unsigned now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned)(t.tv_sec * 1000000 + t.tv_nsec / 1000);
}

static pid_t start_process(void)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        loading_run(file, &with_image, true, &outcome);
        _exit(0);
    }
    return pid;
}

/* How long a start takes that nobody kills, to its end: with the image written, or read. */
static unsigned duration_us(bool packing)
{
    if (packing)
        unlink(image);
    unsigned from = now_us();
    pid_t pid = start_process();
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return now_us() - from;
}

static void kill_often(bool packing)
{
    unsigned whole = duration_us(packing), n_killed = 0, n_starts = 0;
    srand(17);
    while (n_killed < N_KILLS) {
        if (packing)
            unlink(image);
        pid_t pid = start_process();
        usleep((unsigned)rand() % (whole + whole / 8));
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        n_starts++;
        n_killed += WIFSIGNALED(status);
        if (!WIFSIGNALED(status) && whole > 4000) /* the machine is quicker than it was */
            whole -= whole / 16;
        loading_run(file, &with_image, true, &outcome);
        assert_true(loading_same(&outcome, &reference, NULL));
        assert_int_equal(count_files(), 2); /* the model, the image, nothing else */
        if (!packing)
            assert_non_null(strstr(outcome.notes, "read from"));
    }
    print_message("%u of %u starts were killed before their end\n", n_killed, n_starts);
}

static void killed_while_packing_the_next_start_is_clean(void **state)
{
    (void)state;
    kill_often(true);
}

static void killed_while_loading_the_next_start_is_clean(void **state)
{
    (void)state;
    loading_run(file, &with_image, true, &outcome);
    kill_often(false);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup(test, fresh)
    const struct CMUnitTest tests[] = {
        FRESH(every_way_of_reading_gives_the_same_logits),
        FRESH(a_read_error_anywhere_is_said),
        FRESH(killed_while_packing_the_next_start_is_clean),
        FRESH(killed_while_loading_the_next_start_is_clean),
    };
    return cmocka_run_group_tests(tests, start, end);
}
