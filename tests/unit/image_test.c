/* The packed image: what was written is read back whichever way, anything else is refused with a
 * sentence, and a writer that dies, fails or is stopped leaves the old image or none. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "mm/image.h"
#include "mm/image_format.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WEIGHT_BYTES ((5u << 20) + 4096)
#define TABLE_BYTES  12345u

static char folder[] = "/var/tmp/quern-image-test-XXXXXX";
static char path[64], temporary[80];
static uint8_t *weights, *room;
static char table[TABLE_BYTES];
static const struct mm_image_key key = {.source = {1, 2}, .layout = 3};
static const uint64_t content[2] = {4, 5};

/* ---- the disk is full after this many bytes -------------------------------------------------- */

static long disk_bytes_left = -1; /* < 0: no limit */

ssize_t pwrite(int fd, const void *from, size_t length, off_t offset)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (real == NULL)
        real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    if (disk_bytes_left < 0)
        return real(fd, from, length, offset);
    if (disk_bytes_left == 0) {
        errno = ENOSPC;
        return -1;
    }
    if (length > (size_t)disk_bytes_left)
        length = (size_t)disk_bytes_left;
    disk_bytes_left -= (long)length;
    return real(fd, from, length, offset);
}

/* ---- helpers --------------------------------------------------------------------------------- */

static int write_image(const struct mm_image_key *with, const int *stop, char *why, size_t why_size)
{
    struct mm_image_writer *writer;
    int r = mm_image_writer_new(&writer, path, NULL, NULL, why, why_size);
    if (r < 0)
        return r;
    const struct mm_image_part parts[] = {
        {"weights", weights, WEIGHT_BYTES}, {"empty", NULL, 0}, {"table", table, TABLE_BYTES}};
    r = mm_image_write(writer, with, content, parts, 3, stop, why, why_size);
    mm_image_writer_free(writer);
    return r;
}

/* 0, or what open or read said; the bytes must be right where it is 0. */
static int read_image(const struct mm_image_key *with, const struct mm_reader_options *options,
                      char *why, size_t why_size)
{
    struct mm_image *image;
    int r = mm_image_open(&image, path, with, options, why, why_size);
    if (r < 0)
        return r;
    uint64_t length = 0;
    memset(room, 0xee, WEIGHT_BYTES + 4096);
    static char table_read[TABLE_BYTES + 1];
    r = mm_image_section(image, "weights", &length);
    if (r == 0 && length != WEIGHT_BYTES)
        r = -ERANGE;
    if (r == 0)
        r = mm_image_read(image, "weights", room, NULL, NULL, why, why_size);
    if (r == 0)
        r = mm_image_read(image, "empty", NULL, NULL, NULL, why, why_size);
    if (r == 0)
        r = mm_image_read(image, "table", table_read + 1, NULL, NULL, why, why_size);
    if (r == 0) {
        assert_memory_equal(room, weights, WEIGHT_BYTES);
        assert_int_equal(room[WEIGHT_BYTES], 0xee);
        assert_memory_equal(table_read + 1, table, TABLE_BYTES);
        struct mm_image_info info;
        mm_image_info(image, &info);
        assert_memory_equal(info.content, content, sizeof content);
        assert_int_equal(info.n_sections, 3);
        assert_string_equal(mm_image_section_name(image, 2), "table");
    }
    mm_image_free(image);
    return r;
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

static void poke(const char *file, off_t offset, const void *bytes, size_t n)
{
    int fd = open(file, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(lseek(fd, offset, SEEK_SET), offset);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
}

static int start(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/model.quern", folder);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    weights = aligned_alloc(4096, WEIGHT_BYTES);
    room = aligned_alloc(4096, WEIGHT_BYTES + 4096);
    for (size_t i = 0; i < WEIGHT_BYTES; i++)
        weights[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < TABLE_BYTES; i++)
        table[i] = (char)(i % 251);
    return 0;
}

static int end(void **state)
{
    (void)state;
    unlink(path);
    unlink(temporary);
    free(weights);
    free(room);
    return rmdir(folder);
}

static int fresh(void **state)
{
    (void)state;
    unlink(path);
    unlink(temporary);
    disk_bytes_left = -1;
    return 0;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void what_was_written_is_read_back(void **state)
{
    (void)state;
    char why[512] = "";
    assert_int_equal(read_image(&key, NULL, why, sizeof why), -ENOENT);
    assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
    assert_int_equal(count_files(), 1);
    for (int ways = 0; ways < 8; ways++) {
        struct mm_reader_options options = {
            .buffer_bytes = ways & 1 ? 65536 : 0, .no_uring = ways & 2, .no_direct = ways & 4};
        assert_int_equal(read_image(&key, &options, why, sizeof why), 0);
    }
    assert_int_equal(read_image(NULL, NULL, why, sizeof why), 0);
    struct mm_image *image;
    assert_int_equal(mm_image_open(&image, path, &key, NULL, why, sizeof why), 0);
    uint64_t length = 7;
    assert_int_equal(mm_image_section(image, "nothing", &length), -ENOENT);
    assert_int_equal(length, 7);
    assert_int_equal(mm_image_read(image, "nothing", room, NULL, NULL, why, sizeof why), -ENOENT);
    mm_image_free(image);
    /* A second one takes the place of the first. */
    struct mm_image_key other = key;
    other.layout++;
    assert_int_equal(write_image(&other, NULL, why, sizeof why), 0);
    assert_int_equal(read_image(&other, NULL, why, sizeof why), 0);
}

static void another_source_or_layout_is_stale(void **state)
{
    (void)state;
    char why[512];
    assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
    struct mm_image_key other = key;
    other.source[1]++;
    assert_int_equal(read_image(&other, NULL, why, sizeof why), -ESTALE);
    assert_non_null(strstr(why, "another file"));
    other = key;
    other.layout++;
    assert_int_equal(read_image(&other, NULL, why, sizeof why), -ESTALE);
    assert_non_null(strstr(why, "another version of quern"));
    uint32_t version = IMAGE_VERSION + 1;
    poke(path, offsetof(struct image_header, version), &version, sizeof version);
    assert_int_equal(read_image(&key, NULL, why, sizeof why), -ESTALE);
    assert_non_null(strstr(why, "version 2"));
    poke(path, 0, "GGUF", 4);
    assert_int_equal(read_image(&key, NULL, why, sizeof why), -EBADMSG);
    chmod(path, 0666);
    poke(path, 0, "QUER", 4);
    version = IMAGE_VERSION;
    poke(path, offsetof(struct image_header, version), &version, sizeof version);
    assert_int_equal(read_image(&key, NULL, why, sizeof why), -EPERM);
    assert_non_null(strstr(why, "written by others"));
    chmod(path, 0644);
    assert_int_equal(read_image(&key, NULL, why, sizeof why), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, 12345), 0);
        assert_int_equal(read_image(&key, NULL, why, sizeof why), -EPERM);
        other = key;
        other.owner = 12345;
        assert_int_equal(read_image(&other, NULL, why, sizeof why), 0);
    }
}

/* One byte flipped anywhere: refused, or the byte was padding and the sections are right (which
 * read_image has compared). */
static void a_flipped_byte_is_found_or_harmless(void **state)
{
    (void)state;
    char why[512];
    assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    int fd = open(path, O_RDWR);
    unsigned n_refused = 0;
    srand(11);
    for (int i = 0; i < 300; i++) {
        off_t at = i < 100 ? rand() % 4096 : rand() % st.st_size;
        if (i >= 280)
            at = st.st_size - 1 - rand() % 4000; /* padding behind the table */
        uint8_t byte, flipped;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        flipped = byte ^ (uint8_t)(1 << rand() % 8);
        poke(path, at, &flipped, 1);
        why[0] = '\0';
        int r = read_image(&key, NULL, why, sizeof why);
        assert_true(r == 0 || r == -EBADMSG || r == -ESTALE);
        if (r < 0)
            assert_non_null(strstr(why, path));
        n_refused += r < 0;
        poke(path, at, &byte, 1);
    }
    close(fd);
    assert_true(n_refused > 250);
    assert_int_equal(read_image(&key, NULL, why, sizeof why), 0);
}

/* A header with a right checksum and wrong fields, as a hostile writer would make. */
static void a_lying_table_is_refused(void **state)
{
    (void)state;
    char why[512];
    struct image_header good, bad;
    assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &good, sizeof good, 0), sizeof good);
    close(fd);
    for (int i = 0; i < 9; i++) {
        bad = good;
        switch (i) {
        case 0:
            bad.n_sections = UINT32_MAX;
            break;
        case 1:
            bad.sections[0].length = UINT64_MAX;
            break;
        case 2:
            bad.sections[0].offset = UINT64_MAX - 4095;
            break;
        case 3:
            bad.sections[2].offset = bad.sections[0].offset;
            break;
        case 4:
            bad.sections[2].length = bad.file_bytes;
            break;
        case 5:
            memset(bad.sections[1].name, 'x', IMAGE_NAME_BYTES);
            break;
        case 6:
            bad.sections[0].offset = 0;
            break;
        case 7:
            bad.file_bytes += 4096;
            break;
        case 8:
            bad.reserved[3] = 1;
            break;
        }
        bad.checksum = mm_image_header_checksum(&bad);
        poke(path, 0, &bad, sizeof bad);
        assert_int_equal(read_image(&key, NULL, why, sizeof why), -EBADMSG);
    }
}

static void a_cut_image_is_refused(void **state)
{
    (void)state;
    char why[512];
    const off_t cuts[] = {0, 1, 4095, 4096, 5000, 1 << 20};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
        assert_int_equal(truncate(path, cuts[i]), 0);
        assert_int_equal(read_image(&key, NULL, why, sizeof why), -EBADMSG);
    }
}

static void a_full_disk_leaves_the_old_image(void **state)
{
    (void)state;
    char why[512];
    struct mm_image_key newer = key;
    newer.layout = 9;
    for (int with_old = 0; with_old < 2; with_old++) {
        if (with_old)
            assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
        for (int i = 0; i < 20; i++) {
            disk_bytes_left = (long)WEIGHT_BYTES * i / 20 + i;
            int r = write_image(&newer, NULL, why, sizeof why);
            disk_bytes_left = -1;
            assert_int_equal(r, -ENOSPC);
            assert_non_null(strstr(why, "No space left"));
            assert_int_equal(count_files(), with_old);
            assert_int_equal(read_image(&key, NULL, why, sizeof why), with_old ? 0 : -ENOENT);
        }
    }
}

static void a_stopped_writer_leaves_nothing(void **state)
{
    (void)state;
    char why[512];
    int stop = 1;
    assert_int_equal(write_image(&key, &stop, why, sizeof why), -ECANCELED);
    assert_int_equal(count_files(), 0);
}

/* SIGKILL at random moments of writing: then the image is whole or not there, and the next writer
 * gets by the temporary file that was left. */
static void a_killed_writer_leaves_the_old_image_or_the_new(void **state)
{
    (void)state;
    char why[512];
    struct mm_image_key newer = key;
    newer.layout = 9;
    srand(13);
    for (int i = 0; i < 25; i++) {
        assert_int_equal(write_image(&key, NULL, why, sizeof why), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            _exit(write_image(&newer, NULL, NULL, 0) == 0 ? 0 : 1);
        usleep((unsigned)rand() % 8000);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        int old = read_image(&key, NULL, why, sizeof why);
        int new = read_image(&newer, NULL, why, sizeof why);
        assert_true((old == 0 && new == -ESTALE) || (old == -ESTALE && new == 0));
    }
}

static int never(void *arg)
{
    (*(int *)arg)++;
    return -1;
}

static int patient(void *arg)
{
    __atomic_fetch_add((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

struct second { /* a second starter, waiting in a thread */
    int waits, result;
};

static void *wait_for_the_first(void *arg)
{
    struct second *second = arg;
    struct mm_image_writer *writer = NULL;
    second->result = mm_image_writer_new(&writer, path, patient, &second->waits, NULL, 0);
    mm_image_writer_free(writer);
    return NULL;
}

static void of_two_that_start_together_one_writes(void **state)
{
    (void)state;
    char why[512];
    const struct mm_image_part part = {"weights", weights, WEIGHT_BYTES};
    for (int finishes = 0; finishes < 2; finishes++) {
        struct mm_image_writer *first, *other = NULL;
        struct second second = {0};
        assert_int_equal(mm_image_writer_new(&first, path, NULL, NULL, why, sizeof why), 0);
        assert_int_equal(mm_image_writer_new(&other, path, NULL, NULL, why, sizeof why), -EAGAIN);
        assert_non_null(strstr(why, "Another process is writing"));
        int asked = 0;
        assert_int_equal(mm_image_writer_new(&other, path, never, &asked, why, sizeof why),
                         -EAGAIN);
        assert_int_equal(asked, 1);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, wait_for_the_first, &second), 0);
        while (__atomic_load_n(&second.waits, __ATOMIC_RELAXED) == 0)
            usleep(1000);
        if (finishes)
            assert_int_equal(mm_image_write(first, &key, content, &part, 1, NULL, why, sizeof why),
                             0);
        mm_image_writer_free(first);
        pthread_join(thread, NULL);
        /* The second finds an image, or is the one to write it. */
        assert_int_equal(second.result, finishes ? -EEXIST : 0);
        assert_int_equal(count_files(), finishes);
    }
}

static void a_place_that_cannot_be_written_is_said(void **state)
{
    (void)state;
    char why[512];
    struct mm_image_writer *writer;
    assert_int_equal(mm_image_writer_new(&writer, "/proc/model.quern", NULL, NULL, why, sizeof why),
                     -ENOENT);
    assert_non_null(strstr(why, "/proc/model.quern"));
    assert_int_equal(symlink("/etc/passwd", temporary), 0);
    assert_int_equal(mm_image_writer_new(&writer, path, NULL, NULL, why, sizeof why), -ELOOP);
    unlink(temporary);
    assert_int_equal(mkfifo(temporary, 0600), 0);
    assert_int_equal(mm_image_writer_new(&writer, path, NULL, NULL, why, sizeof why), -EINVAL);
    assert_non_null(strstr(why, "in the way"));
    unlink(temporary);
    mm_image_writer_free(NULL);
    mm_image_free(NULL);
}

static void identity_follows_the_file(void **state)
{
    (void)state;
    char name[96];
    snprintf(name, sizeof name, "%s/source", folder);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    struct mm_image_key a = {0}, b = {0};
    assert_int_equal(mm_image_identify(&a, &fd, 1), 0);
    assert_int_equal(mm_image_identify(&b, &fd, 1), 0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(a.owner, geteuid());
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(mm_image_identify(&b, &fd, 1), 0);
    assert_memory_not_equal(a.source, b.source, sizeof a.source);
    assert_int_equal(mm_image_identify(&b, &fd, 0), -EINVAL);
    close(fd);
    assert_int_equal(mm_image_identify(&b, &fd, 1), -EBADF);
    unlink(name);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup(test, fresh)
    const struct CMUnitTest tests[] = {
        FRESH(what_was_written_is_read_back),
        FRESH(another_source_or_layout_is_stale),
        FRESH(a_flipped_byte_is_found_or_harmless),
        FRESH(a_lying_table_is_refused),
        FRESH(a_cut_image_is_refused),
        FRESH(a_full_disk_leaves_the_old_image),
        FRESH(a_stopped_writer_leaves_nothing),
        FRESH(a_killed_writer_leaves_the_old_image_or_the_new),
        FRESH(of_two_that_start_together_one_writes),
        FRESH(a_place_that_cannot_be_written_is_said),
        FRESH(identity_follows_the_file),
    };
    return cmocka_run_group_tests(tests, start, end);
}
