/* Writing a packed image: PATH.tmp, locked as long as we are at it, becomes PATH when it is whole
 * and on the disk. Whoever finds PATH.tmp locked waits for it; one that nobody holds is what a
 * crash left, and is written over. */
#define _GNU_SOURCE /* O_DIRECT, fallocate */
#include "mm/image.h"

#include "mm/image_format.h"
#include "mm/why.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define WRITE_BYTES (4u << 20) /* of one write */

struct mm_image_writer {
    char *path, *temporary;
    int fd;    /* of the temporary file, locked */
    bool done; /* it has its final name */
};

static int open_locked(struct mm_image_writer *writer, int (*wait)(void *arg), void *arg, char *why,
                       size_t why_size);
static int write_section(struct mm_image_writer *writer, const struct mm_image_part *part,
                         struct image_section *section, const int *stop);
static int write_all(int fd, const void *data, size_t length, uint64_t offset);
static int put_in_place(struct mm_image_writer *writer);
static void set_direct(int fd, bool direct);

int mm_image_writer_new(struct mm_image_writer **ret, const char *path, int (*wait)(void *arg),
                        void *arg, char *why, size_t why_size)
{
    struct mm_image_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL)
        return -ENOMEM;
    writer->fd = -1;
    writer->path = strdup(path);
    if (writer->path == NULL || asprintf(&writer->temporary, "%s.tmp", path) < 0)
        writer->temporary = NULL;
    int r = -ENOMEM;
    if (writer->temporary != NULL)
        r = open_locked(writer, wait, arg, why, why_size);
    if (r < 0) {
        mm_image_writer_free(writer);
        return r;
    }
    *ret = writer;
    return 0;
}

void mm_image_writer_free(struct mm_image_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->fd >= 0) {
        if (!writer->done)
            unlink(writer->temporary); /* still ours: before the lock goes */
        close(writer->fd);
    }
    free(writer->temporary);
    free(writer->path);
    free(writer);
}

int mm_image_write(struct mm_image_writer *writer, const struct mm_image_key *key,
                   const uint64_t content[2], const struct mm_image_part *parts, size_t n_parts,
                   const int *stop, char *why, size_t why_size)
{
    if (n_parts > IMAGE_SECTIONS_MAX)
        return -EINVAL;
    struct image_header *header = aligned_alloc(IMAGE_PAGE, sizeof *header); /* for O_DIRECT */
    if (header == NULL)
        return -ENOMEM;
    *header = (struct image_header){.version = IMAGE_VERSION,
                                    .n_sections = (uint32_t)n_parts,
                                    .layout = key->layout,
                                    .source = {key->source[0], key->source[1]},
                                    .content = {content[0], content[1]},
                                    .file_bytes = IMAGE_PAGE};
    memcpy(header->magic, IMAGE_MAGIC, sizeof header->magic);
    int r = 0;
    for (size_t i = 0; i < n_parts && r == 0; i++) {
        struct image_section *section = &header->sections[i];
        if (strlen(parts[i].name) >= IMAGE_NAME_BYTES || parts[i].length > INT64_MAX / 2)
            r = -EINVAL;
        else
            memcpy(section->name, parts[i].name, strlen(parts[i].name));
        section->offset = header->file_bytes;
        section->length = parts[i].length;
        if (r == 0 && (__builtin_add_overflow(header->file_bytes, section->length + IMAGE_PAGE - 1,
                                              &header->file_bytes) ||
                       header->file_bytes > INT64_MAX))
            r = -EFBIG;
        header->file_bytes -= header->file_bytes % IMAGE_PAGE;
    }
    /* A full disk is found here, before anything is written, where the file system can. */
    if (r == 0 && fallocate(writer->fd, 0, 0, (off_t)header->file_bytes) < 0 &&
        errno != EOPNOTSUPP && errno != ENOSYS)
        r = -errno;
    for (size_t i = 0; i < n_parts && r == 0; i++)
        r = write_section(writer, &parts[i], &header->sections[i], stop);
    if (r == 0) {
        header->checksum = mm_image_header_checksum(header);
        r = write_all(writer->fd, header, sizeof *header, 0);
    }
    if (r == 0 && ftruncate(writer->fd, (off_t)header->file_bytes) < 0)
        r = -errno;
    if (r == 0)
        r = put_in_place(writer);
    if (r < 0)
        mm_why_set(why, why_size, "The image %s was not written (%" PRIu64 " MiB): %s.",
                   writer->path, header->file_bytes >> 20, strerror(-r));
    free(header);
    return r;
}

/* The lock belongs to the file, and the file may have got its final name while we waited for it. */
static int open_locked(struct mm_image_writer *writer, int (*wait)(void *arg), void *arg, char *why,
                       size_t why_size)
{
    for (;;) {
        struct stat mine, named;
        int fd = open(writer->temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0 || fstat(fd, &mine) < 0) {
            int error = errno;
            mm_why_set(why, why_size, "No image can be written at %s: %s.", writer->path,
                       strerror(error));
            if (fd >= 0)
                close(fd);
            return -error;
        }
        if (!S_ISREG(mine.st_mode)) {
            mm_why_set(why, why_size, "%s is in the way: it is no file.", writer->temporary);
            close(fd);
            return -EINVAL;
        }
        bool locked;
        while (!(locked = flock(fd, LOCK_EX | LOCK_NB) == 0) && errno == EWOULDBLOCK) {
            if (wait == NULL || wait(arg) < 0)
                break;
            nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
        }
        if (!locked) {
            mm_why_set(why, why_size, "Another process is writing %s.", writer->path);
            close(fd);
            return -EAGAIN;
        }
        if (stat(writer->temporary, &named) == 0 && named.st_ino == mine.st_ino &&
            named.st_dev == mine.st_dev) {
            writer->fd = fd;
            return 0;
        }
        close(fd);
        if (stat(writer->path, &named) == 0 && named.st_ino == mine.st_ino &&
            named.st_dev == mine.st_dev) {
            mm_why_set(why, why_size, "Another process has written %s.", writer->path);
            return -EEXIST;
        }
    }
}

/* Whole pages straight from the caller's memory; the last, if it is cut, through one of our own. */
static int write_section(struct mm_image_writer *writer, const struct mm_image_part *part,
                         struct image_section *section, const int *stop)
{
    XXH3_state_t *hash = XXH3_createState();
    uint8_t *page = aligned_alloc(IMAGE_PAGE, IMAGE_PAGE);
    int r = hash != NULL && page != NULL ? 0 : -ENOMEM;
    if (r == 0)
        XXH3_64bits_reset(hash);
    const uint8_t *data = part->data;
    set_direct(writer->fd, (uintptr_t)data % IMAGE_PAGE == 0);
    for (uint64_t at = 0; at < part->length && r == 0;) {
        if (stop != NULL && __atomic_load_n(stop, __ATOMIC_RELAXED) != 0) {
            r = -ECANCELED;
            break;
        }
        uint64_t rest = part->length - at;
        size_t length = rest < WRITE_BYTES ? (size_t)rest : WRITE_BYTES;
        XXH3_64bits_update(hash, data + at, length);
        size_t whole = length - length % IMAGE_PAGE;
        if (whole > 0)
            r = write_all(writer->fd, data + at, whole, section->offset + at);
        if (r == 0 && whole < length) {
            memset(page, 0, IMAGE_PAGE);
            memcpy(page, data + at + whole, length - whole);
            r = write_all(writer->fd, page, IMAGE_PAGE, section->offset + at + whole);
        }
        at += length;
    }
    if (r == 0)
        section->checksum = XXH3_64bits_digest(hash);
    free(page);
    XXH3_freeState(hash);
    return r;
}

static int write_all(int fd, const void *data, size_t length, uint64_t offset)
{
    const uint8_t *at = data;
    while (length > 0) {
        ssize_t n = pwrite(fd, at, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if ((n < 0 && errno == EINVAL) || (n > 0 && n % IMAGE_PAGE != 0)) {
            /* Without direct I/O, then; a second refusal is real. */
            if ((fcntl(fd, F_GETFL) & O_DIRECT) == 0 && n < 0)
                return -EINVAL;
            set_direct(fd, false);
        }
        if (n < 0 && errno != EINVAL)
            return -errno;
        if (n == 0)
            return -EIO;
        if (n > 0) {
            at += n;
            offset += (uint64_t)n;
            length -= (size_t)n;
        }
    }
    return 0;
}

static void set_direct(int fd, bool direct)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0) /* refused by file systems without it: then the page cache writes */
        fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/* Data, then name, then the folder that holds the name. */
static int put_in_place(struct mm_image_writer *writer)
{
    if (fsync(writer->fd) < 0 || rename(writer->temporary, writer->path) < 0)
        return -errno;
    writer->done = true;
    char folder[PATH_MAX];
    const char *slash = strrchr(writer->path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - writer->path) + 1 : 1,
             slash ? writer->path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd); /* the image is whole under either name: nothing to undo where this fails */
        close(fd);
    }
    return 0;
}
