/* The reader: the right bytes in the right order, from a disk and from memory, whatever the kernel
 * allows, and a sentence where the file or the disk fails.
 *
 * Faults are put in where the program meets the kernel: this file has its own
 * io_uring_submit_and_wait and pread, which stand before those of the libraries. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "mm/reader.h"
#include "tests/support/confined.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define FILE_BYTES (3 * 1024 * 1024 + 777)
#define INTO_BYTES (FILE_BYTES + 8192 - (FILE_BYTES + 8192) % 4096) /* of a place for pieces */

static char disk_folder[] = "/var/tmp/quern-reader-test-XXXXXX";
static char memory_folder[] = "/dev/shm/quern-reader-test-XXXXXX";
static const char *folders[2]; /* NULL where the machine has none */

/* ---- faults -------------------------------------------------------------------------------- */

enum fault { FAULT_NONE, FAULT_EIO, FAULT_EINVAL, FAULT_SHORT, FAULT_EINTR, FAULT_BREAK };

static struct {
    enum fault kind;
    long at, every; /* the at-th read; then every every-th, 0: no more */
    long n_reads, n_faults;
} inject;

static bool fault_now(void)
{
    long n = inject.n_reads++;
    bool hit = inject.kind != FAULT_NONE && n >= inject.at &&
               (n == inject.at || (inject.every > 0 && (n - inject.at) % inject.every == 0));
    inject.n_faults += hit;
    return hit;
}

/* /proc/self/mem has nothing at address 0: the kernel itself answers EIO. */
static int eio_fd(void)
{
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    return fd;
}

static void spoil(struct io_uring_sqe *sqe)
{
    switch (inject.kind) {
    case FAULT_EIO:
        sqe->opcode = IORING_OP_READ;
        sqe->buf_index = 0;
        sqe->fd = eio_fd();
        sqe->off = 0;
        break;
    case FAULT_EINVAL: /* as a file system without direct I/O answers; harmless to buffered reads */
        if ((fcntl(sqe->fd, F_GETFL) & O_DIRECT) != 0) {
            sqe->off += 1;
            sqe->len -= 1;
        }
        break;
    case FAULT_SHORT:
        sqe->len = sqe->len > 4096 ? 4096 + sqe->len % 4096 : sqe->len;
        break;
    default:
        break;
    }
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
    static int (*real)(struct io_uring *, unsigned);
    if (real == NULL)
        real = (int (*)(struct io_uring *, unsigned))dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    if (inject.kind == FAULT_EINTR) /* of the call, not of a read */
        return fault_now() ? -EINTR : real(ring, wait_nr);
    for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++) {
        if (!fault_now())
            continue;
        if (inject.kind == FAULT_BREAK)
            return -EBADR;
        spoil(&ring->sq.sqes[i & *ring->sq.kring_mask]);
    }
    return real(ring, wait_nr);
}

ssize_t pread(int fd, void *to, size_t length, off_t offset)
{
    static ssize_t (*real)(int, void *, size_t, off_t);
    if (real == NULL)
        real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    if (!fault_now())
        return real(fd, to, length, offset);
    switch (inject.kind) {
    case FAULT_EIO:
        return real(eio_fd(), to, length, 0);
    case FAULT_EINVAL:
        if ((fcntl(fd, F_GETFL) & O_DIRECT) == 0)
            return real(fd, to, length, offset);
        errno = EINVAL;
        return -1;
    case FAULT_SHORT:
        return real(fd, to, length > 4096 ? 4096 : length, offset);
    case FAULT_EINTR:
        errno = EINTR;
        return -1;
    default:
        return real(fd, to, length, offset);
    }
}

/* ---- files, pieces, and what must arrive ---------------------------------------------------- */

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)((offset * 0x9e3779b97f4a7c15u) >> 56);
}

static void make_file(char *ret_path, size_t path_size, const char *folder, size_t bytes)
{
    snprintf(ret_path, path_size, "%s/file-%zu", folder, bytes);
    FILE *file = fopen(ret_path, "w");
    assert_non_null(file);
    for (size_t i = 0; i < bytes; i++)
        putc(byte_at(i), file);
    assert_int_equal(fclose(file), 0);
    chmod(ret_path, 0644);
}

struct arrived { /* checks order and bytes as they come */
    const struct mm_read *piece;
    size_t n_pieces, n_parts;
    size_t done; /* of the piece under way */
    int wrong;   /* line of the first complaint */
    int (*hook)(struct arrived *arrived);
    void *hook_arg;
};

static int take(void *arg, const struct mm_read *piece, size_t done, const void *data,
                size_t length)
{
    struct arrived *arrived = arg;
    const uint8_t *bytes = data;
    if (piece != arrived->piece) { /* the next that is not empty, after a whole one */
        const struct mm_read *next = arrived->piece ? arrived->piece + 1 : piece;
        while (next < piece && next->length == 0)
            next++;
        if (next != piece || done != 0 ||
            (arrived->piece && arrived->done != arrived->piece->length))
            arrived->wrong = __LINE__;
        arrived->piece = piece;
        arrived->done = 0;
        arrived->n_pieces++;
    }
    if (done != arrived->done || length == 0 || length > piece->length - done)
        arrived->wrong = __LINE__;
    if (piece->unit > 0 && done + length < piece->length && length % piece->unit != 0)
        arrived->wrong = __LINE__;
    if (piece->into != NULL && bytes != (uint8_t *)piece->into + done)
        arrived->wrong = __LINE__;
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != byte_at(piece->offset + done + i))
            arrived->wrong = __LINE__;
    }
    arrived->done += length;
    arrived->n_parts++;
    return arrived->hook ? arrived->hook(arrived) : 0;
}

static struct mm_reader *open_reader(const struct mm_reader_options *options, const char *path)
{
    struct mm_reader *reader;
    unsigned file = 99;
    char why[512] = "";
    assert_int_equal(mm_reader_new(&reader, options, why, sizeof why), 0);
    int r = mm_reader_add_file(reader, path, &file, why, sizeof why);
    if (r < 0)
        print_message("%s\n", why);
    assert_int_equal(r, 0);
    assert_int_equal(file, 0);
    return reader;
}

#define N_PIECES 40

/* Random pieces: odd offsets and lengths, empty ones, the very end, with units and with places. */
static void random_pieces(struct mm_read *pieces, uint8_t *into, size_t buffer_bytes)
{
    for (size_t i = 0; i < N_PIECES; i++) {
        struct mm_read *piece = &pieces[i];
        uint64_t from = (uint64_t)rand() % FILE_BYTES;
        size_t length = (size_t)rand() % (i % 3 ? 5000 : 300000);
        if (i % 7 == 0) {
            from &= ~4095ull;
            length &= ~(size_t)4095;
        }
        if (i == N_PIECES - 1)
            length = FILE_BYTES;
        if (length > FILE_BYTES - from)
            length = FILE_BYTES - from;
        *piece = (struct mm_read){.offset = from, .length = length};
        if (i % 4 == 1)
            piece->unit = 1 + (size_t)rand() % buffer_bytes;
        if (i % 5 == 2)
            piece->into = into + (i % 2 ? 0 : 13); /* each piece overwrites the one before */
        if (i % 7 == 0 && i % 2 == 0)
            piece->into = into;
    }
}

/* One run of random pieces; returns 0 or the line of the complaint. */
static int run_random(const struct mm_reader_options *options, const char *path, uint8_t *into)
{
    struct mm_reader *reader = open_reader(options, path);
    struct mm_read pieces[N_PIECES];
    size_t buffer = options->buffer_bytes ? options->buffer_bytes : 1 << 20;
    int wrong = 0;
    /* Pieces that share a place are run one by one: the reader fills ahead of the consumer. */
    random_pieces(pieces, into, buffer);
    for (size_t i = 0; i < N_PIECES && wrong == 0; i++) {
        struct arrived arrived = {0};
        size_t n = pieces[i].into ? 1 : 0;
        if (n == 0) {
            while (i + n < N_PIECES && pieces[i + n].into == NULL)
                n++;
        }
        char why[512];
        int r = mm_reader_run(reader, &pieces[i], n, take, &arrived, why, sizeof why);
        size_t n_full = 0;
        for (size_t j = 0; j < n; j++)
            n_full += pieces[i + j].length > 0;
        wrong = arrived.wrong                                            ? arrived.wrong
                : r != 0                                                 ? __LINE__
                : arrived.n_pieces != n_full                             ? __LINE__
                : arrived.piece && arrived.done != arrived.piece->length ? __LINE__
                                                                         : 0;
        i += n - 1;
    }
    mm_reader_free(reader);
    return wrong;
}

static const size_t buffer_sizes[] = {4096, 12288, 65536, 0};

static void every_way_of_reading_gives_the_same_bytes(void **state)
{
    (void)state;
    srand(3);
    uint8_t *into = aligned_alloc(4096, INTO_BYTES);
    for (int f = 0; f < 2; f++) {
        if (folders[f] == NULL)
            continue;
        char path[256];
        make_file(path, sizeof path, folders[f], FILE_BYTES);
        for (int ways = 0; ways < 8; ways++) {
            for (size_t b = 0; b < 4; b++) {
                struct mm_reader_options options = {.depth =
                                                        (unsigned[]){1, 3, 16, 0}[(b + ways) % 4],
                                                    .buffer_bytes = buffer_sizes[b],
                                                    .no_uring = ways & 1,
                                                    .no_direct = (ways >> 1) & 1,
                                                    .no_register = ways >> 2};
                assert_int_equal(run_random(&options, path, into), 0);
            }
        }
        unlink(path);
    }
    free(into);
}

static void the_mode_says_what_was_forced(void **state)
{
    (void)state;
    char path[256];
    make_file(path, sizeof path, folders[0], 5000);
    struct mm_reader *reader =
        open_reader(&(struct mm_reader_options){.no_uring = 1, .no_direct = 1}, path);
    assert_string_equal(mm_reader_mode(reader), "pread, page cache");
    assert_int_equal(mm_reader_file_size(reader, 0), 5000);
    mm_reader_free(reader);
    reader = open_reader(&(struct mm_reader_options){.no_direct = 1, .no_register = 1}, path);
    assert_null(strstr(mm_reader_mode(reader), "registered"));
    assert_null(strstr(mm_reader_mode(reader), "direct"));
    mm_reader_free(reader);
    unlink(path);
}

/* ---- faults --------------------------------------------------------------------------------- */

static int run_whole(const struct mm_reader_options *options, const char *path,
                     struct arrived *arrived, char *why, size_t why_size)
{
    struct mm_reader *reader = open_reader(options, path);
    struct mm_read piece = {.offset = 5, .length = mm_reader_file_size(reader, 0) - 5};
    inject.n_reads = inject.n_faults = 0;
    int r = mm_reader_run(reader, &piece, 1, take, arrived, why, why_size);
    inject.kind = FAULT_NONE;
    /* Whatever happened: the reader is still good for another run. */
    struct arrived again = {0};
    assert_int_equal(mm_reader_run(reader, &piece, 1, take, &again, NULL, 0),
                     r == -ENODATA ? -ENODATA : 0);
    assert_int_equal(again.wrong, 0);
    mm_reader_free(reader);
    return r;
}

static void an_error_of_the_disk_is_an_error_with_its_place(void **state)
{
    (void)state;
    char path[256], why[512];
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    srand(5);
    for (int i = 0; i < 100; i++) {
        struct mm_reader_options options = {.buffer_bytes = 65536,
                                            .no_uring = i & 1,
                                            .no_direct = (i >> 1) & 1,
                                            .no_register = (i >> 2) & 1};
        struct arrived arrived = {0};
        inject.kind = FAULT_EIO;
        inject.at = rand() % 48;
        inject.every = 0;
        assert_int_equal(run_whole(&options, path, &arrived, why, sizeof why), -EIO);
        assert_int_equal(inject.n_faults, 1);
        assert_int_equal(arrived.wrong, 0);
        assert_non_null(strstr(why, path));
        assert_non_null(strstr(why, "Input/output error"));
    }
    unlink(path);
}

static void short_reads_interrupts_and_refusals_are_made_good(void **state)
{
    (void)state;
    char path[256], why[512];
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    for (enum fault kind = FAULT_EINVAL; kind <= FAULT_EINTR; kind++) {
        for (int ways = 0; ways < 4; ways++) {
            struct mm_reader_options options = {.depth = 2, /* many calls, each of which may fail */
                                                .buffer_bytes = 65536,
                                                .no_uring = ways & 1,
                                                .no_direct = ways >> 1};
            struct arrived arrived = {0};
            inject.kind = kind;
            inject.at = 2;
            inject.every = 3;
            int r = run_whole(&options, path, &arrived, why, sizeof why);
            if (r < 0)
                print_message("%s\n", why);
            assert_int_equal(r, 0);
            assert_true(inject.n_faults > 3);
            assert_int_equal(arrived.wrong, 0);
            assert_int_equal(arrived.done, FILE_BYTES - 5);
        }
    }
    unlink(path);
}

static void a_ring_that_breaks_is_an_error_and_pread_goes_on(void **state)
{
    (void)state;
    char path[256], why[512];
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    struct arrived arrived = {0};
    inject.kind = FAULT_BREAK;
    inject.at = 20;
    inject.every = 1;
    int r = run_whole(&(struct mm_reader_options){.buffer_bytes = 65536}, path, &arrived, why,
                      sizeof why);
    assert_true(r == -EBADR || (r == 0 && inject.n_faults == 0)); /* 0: no io_uring here */
    assert_int_equal(arrived.wrong, 0);
    unlink(path);
}

static int truncate_it(struct arrived *arrived)
{
    return arrived->n_parts == 3 ? truncate(arrived->hook_arg, 700001) : 0;
}

static void a_file_that_shrinks_is_no_data_and_no_signal(void **state)
{
    (void)state;
    for (int ways = 0; ways < 4; ways++) {
        char path[256], why[512];
        make_file(path, sizeof path, folders[0], FILE_BYTES);
        struct mm_reader_options options = {
            .depth = 4, .buffer_bytes = 65536, .no_uring = ways & 1, .no_direct = ways >> 1};
        struct arrived arrived = {.hook = truncate_it, .hook_arg = path};
        assert_int_equal(run_whole(&options, path, &arrived, why, sizeof why), -ENODATA);
        assert_int_equal(arrived.wrong, 0);
        assert_non_null(strstr(why, "shorter while it was read"));
        unlink(path);
    }
}

static int give_up(struct arrived *arrived)
{
    return arrived->n_parts == 2 ? -EDOM : 0;
}

static void the_consumer_may_give_up(void **state)
{
    (void)state;
    char path[256], why[512] = "old";
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    for (int no_uring = 0; no_uring < 2; no_uring++) {
        struct arrived arrived = {.hook = give_up};
        struct mm_reader_options options = {.buffer_bytes = 8192, .no_uring = no_uring};
        assert_int_equal(run_whole(&options, path, &arrived, why, sizeof why), -EDOM);
        assert_int_equal(arrived.n_parts, 2);
    }
    unlink(path);
}

static void pieces_beyond_the_file_are_refused_before_anything_is_read(void **state)
{
    (void)state;
    char path[256], why[512];
    make_file(path, sizeof path, folders[0], 10000);
    struct mm_reader *reader = open_reader(NULL, path);
    const struct mm_read bad[] = {
        {.offset = 0, .length = 10001},      {.offset = 10001, .length = 1},
        {.offset = UINT64_MAX, .length = 2}, {.offset = UINT64_MAX - 5, .length = 6},
        {.offset = 1, .length = SIZE_MAX},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mm_read pieces[2] = {{.offset = 0, .length = 100}, bad[i]};
        struct arrived arrived = {0};
        assert_int_equal(mm_reader_run(reader, pieces, 2, take, &arrived, why, sizeof why),
                         -ENODATA);
        assert_int_equal(arrived.n_parts, 0);
        assert_non_null(strstr(why, "is truncated"));
    }
    struct arrived arrived = {0};
    struct mm_read piece = {.file = 1, .length = 1};
    assert_int_equal(mm_reader_run(reader, &piece, 1, take, &arrived, NULL, 0), -EINVAL);
    piece = (struct mm_read){.length = 1, .unit = (1 << 20) + 1};
    assert_int_equal(mm_reader_run(reader, &piece, 1, take, &arrived, NULL, 0), -EINVAL);
    assert_int_equal(mm_reader_run(reader, NULL, 0, take, &arrived, NULL, 0), 0);
    mm_reader_free(reader);
    unlink(path);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    struct mm_reader *reader;
    unsigned file = 7;
    char path[256], why[512];
    assert_int_equal(mm_reader_new(&reader, NULL, why, sizeof why), 0);
    snprintf(path, sizeof path, "%s/none", folders[0]);
    assert_int_equal(mm_reader_add_file(reader, path, &file, why, sizeof why), -ENOENT);
    assert_non_null(strstr(why, path));
    assert_int_equal(mm_reader_add_file(reader, folders[0], &file, why, sizeof why), -EISDIR);
    assert_non_null(strstr(why, "folder"));
    snprintf(path, sizeof path, "%s/fifo", folders[0]);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(mm_reader_add_file(reader, path, &file, why, sizeof why), -EINVAL);
    unlink(path);
    assert_int_equal(mm_reader_add_file(reader, "/dev/zero", &file, why, sizeof why), -EINVAL);
    assert_int_equal(file, 7);
    mm_reader_free(reader);
    mm_reader_free(NULL);
    reader = NULL;
    assert_int_equal(
        mm_reader_new(&reader, &(struct mm_reader_options){.depth = 100000}, why, sizeof why),
        -EINVAL);
    assert_null(reader);
}

/* ---- as an ordinary user, and in a sandbox --------------------------------------------------- */

static int read_without_registration(void *arg)
{
    struct mm_reader *reader = open_reader(NULL, arg);
    const char *mode = mm_reader_mode(reader);
    if (strncmp(mode, "io_uring", 8) == 0 && strstr(mode, "registered") != NULL)
        return __LINE__ % 128;
    mm_reader_free(reader);
    uint8_t *into = aligned_alloc(4096, INTO_BYTES);
    int wrong = run_random(&(struct mm_reader_options){.depth = 4}, arg, into);
    free(into);
    return wrong % 128;
}

static int read_without_uring(void *arg)
{
    struct mm_reader *reader = open_reader(NULL, arg);
    if (strncmp(mm_reader_mode(reader), "pread", 5) != 0)
        return __LINE__ % 128;
    mm_reader_free(reader);
    uint8_t *into = aligned_alloc(4096, INTO_BYTES);
    int wrong = run_random(&(struct mm_reader_options){.depth = 4}, arg, into);
    free(into);
    return wrong % 128;
}

static void a_user_without_lockable_memory_reads_unregistered(void **state)
{
    (void)state;
    char path[256];
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    struct confinement confinement = {.unprivileged = 1, .memlock_bytes = 64 * 1024};
    assert_int_equal(confined_run(&confinement, read_without_registration, path), 0);
    unlink(path);
}

static void a_sandbox_without_io_uring_reads_with_pread(void **state)
{
    (void)state;
    char path[256];
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    static const int denied[] = {SYS_io_uring_setup, -1};
    struct confinement confinement = {.unprivileged = 1, .denied_syscalls = denied};
    assert_int_equal(confined_run(&confinement, read_without_uring, path), 0);
    unlink(path);
}

/* An administrator's way: processes without CAP_SYS_ADMIN get no ring. For as long as the child reads,
 * and for the whole machine: it hits nobody who runs as root, and others read with pread meanwhile. */
static void a_machine_without_io_uring_reads_with_pread(void **state)
{
    (void)state;
    static const char setting[] = "/proc/sys/kernel/io_uring_disabled";
    char path[256], before[16] = "";
    struct confinement confinement = {.unprivileged = 1};
    int fd = open(setting, O_RDWR | O_CLOEXEC);
    if (fd < 0 || read(fd, before, sizeof before - 1) <= 0) {
        print_message("%s cannot be set here\n", setting);
        if (fd >= 0)
            close(fd);
        skip();
    }
    make_file(path, sizeof path, folders[0], FILE_BYTES);
    bool set = before[0] != '0' || pwrite(fd, "1", 1, 0) == 1;
    int wrong = set ? confined_run(&confinement, read_without_uring, path) : 0;
    bool restored = before[0] != '0' || pwrite(fd, "0", 1, 0) == 1;
    close(fd);
    unlink(path);
    assert_true(restored);
    if (!set)
        skip();
    assert_int_equal(wrong, 0);
}

static int make_folders(void **state)
{
    (void)state;
    folders[0] = mkdtemp(disk_folder);
    if (folders[0] == NULL)
        return -1;
    chmod(folders[0], 0755);
    folders[1] = mkdtemp(memory_folder);
    return 0;
}

static int remove_folders(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        if (folders[i] != NULL)
            rmdir(folders[i]);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_of_reading_gives_the_same_bytes),
        cmocka_unit_test(the_mode_says_what_was_forced),
        cmocka_unit_test(an_error_of_the_disk_is_an_error_with_its_place),
        cmocka_unit_test(short_reads_interrupts_and_refusals_are_made_good),
        cmocka_unit_test(a_ring_that_breaks_is_an_error_and_pread_goes_on),
        cmocka_unit_test(a_file_that_shrinks_is_no_data_and_no_signal),
        cmocka_unit_test(the_consumer_may_give_up),
        cmocka_unit_test(pieces_beyond_the_file_are_refused_before_anything_is_read),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(a_user_without_lockable_memory_reads_unregistered),
        cmocka_unit_test(a_sandbox_without_io_uring_reads_with_pread),
        cmocka_unit_test(a_machine_without_io_uring_reads_with_pread),
    };
    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
