/* The reader: a ring of slots, each one read, filled in the order of the pieces and delivered in that
 * order. There are twice as many as reads in flight: a device may report all of these at once, and
 * is given the next before the consumer sees the first.
 *
 * A slot reads a span that is widened to the alignment of direct I/O; the head and tail that nobody
 * asked for stay in the staging buffer. Pieces with a place of their own (`into`) are read there
 * when addresses and offsets allow it, else they are copied. Whatever the kernel refuses on the way
 * (EINVAL from a file system without direct I/O, a short read in the middle of a block) is read
 * again through the page cache, from the byte where it stopped. */
#define _GNU_SOURCE /* O_DIRECT, statx, MADV_POPULATE_WRITE */
#include "mm/reader.h"

#include "mm/why.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_DEFAULT        8
#define DEPTH_MAX            1024
#define BUFFER_BYTES_DEFAULT (1024 * 1024)
#define BUFFER_BYTES_MAX     (256 * 1024 * 1024)
#define PART_ALIGN           4096  /* parts are cut here, so that no block is read twice */
#define DIRECT_ALIGN_MAX     65536 /* a file system that wants more is read through the cache */
#define HUGE_PAGE            ((size_t)2 << 20)

struct file {
    char *path;
    int fd;        /* through the page cache */
    int direct_fd; /* O_DIRECT, or -1 */
    bool direct;   /* cleared for good when a direct read is refused */
    size_t offset_align, memory_align;
    uint64_t size;
};

struct slot {
    uint8_t *buffer; /* buffer_bytes and two alignments */
    const struct mm_read *piece;
    size_t done, length; /* of the piece: bytes before this part, bytes of it */
    uint8_t *target;     /* where the span lands: the buffer, or a place in piece->into */
    uint64_t start;      /* offset in the file of the span; head bytes before the part */
    size_t head, span;
    size_t got;
    bool direct, complete;
    int error;
};

struct mm_reader {
    struct io_uring ring;
    bool uring, registered;
    bool no_direct;
    unsigned depth, n_slots;
    size_t buffer_bytes, slot_bytes;
    void *mapped; /* mapped_bytes: staging, from a multiple of a huge page on */
    size_t mapped_bytes;
    uint8_t *staging; /* (n_slots, slot_bytes) */
    struct slot *slots;
    struct file *files;
    unsigned n_files;
    unsigned in_flight;
    char mode[96];
};

struct cursor { /* the next part to be queued */
    const struct mm_read *pieces;
    size_t n_pieces, index, done;
};

static void probe_direct(struct mm_reader *reader, struct file *file);
static int check_pieces(const struct mm_reader *reader, const struct mm_read *pieces,
                        size_t n_pieces, char *why, size_t why_size);
static bool next_part(struct mm_reader *reader, struct cursor *cursor, struct slot *slot);
static void start_read(struct mm_reader *reader, struct slot *slot);
static int submit(struct mm_reader *reader, bool wait);
static int deliver(const struct mm_reader *reader, const struct slot *slot, mm_reader_fn *fn,
                   void *arg, char *why, size_t why_size);
static void describe_mode(struct mm_reader *reader);

int mm_reader_new(struct mm_reader **ret, const struct mm_reader_options *options, char *why,
                  size_t why_size)
{
    static const struct mm_reader_options defaults;
    if (options == NULL)
        options = &defaults;
    mm_why_set(why, why_size, "%s", "");
    if (options->depth > DEPTH_MAX || options->buffer_bytes > BUFFER_BYTES_MAX)
        return -EINVAL;
    struct mm_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return -ENOMEM;
    reader->mapped = MAP_FAILED;
    reader->no_direct = options->no_direct;
    reader->depth = options->depth ? options->depth : DEPTH_DEFAULT;
    reader->n_slots = 2 * reader->depth;
    size_t bytes = options->buffer_bytes ? options->buffer_bytes : BUFFER_BYTES_DEFAULT;
    reader->buffer_bytes = (bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    reader->slot_bytes = reader->buffer_bytes + 2 * DIRECT_ALIGN_MAX;

    int r = -ENOMEM;
    size_t staging_bytes = reader->n_slots * reader->slot_bytes;
    reader->slots = calloc(reader->n_slots, sizeof *reader->slots);
    reader->mapped_bytes = (staging_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE + HUGE_PAGE;
    reader->mapped = mmap(NULL, reader->mapped_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reader->slots == NULL || reader->mapped == MAP_FAILED)
        goto free_reader;
    reader->staging = (uint8_t *)reader->mapped + (-(uintptr_t)reader->mapped % HUGE_PAGE);
    madvise(reader->mapped, reader->mapped_bytes, MADV_DONTDUMP);
    /* Into small pages a disk of 2.5 GB/s gives 1.5. Where there are no huge ones: as it is. */
    madvise(reader->mapped, reader->mapped_bytes, MADV_HUGEPAGE);
    for (unsigned i = 0; i < reader->n_slots; i++)
        reader->slots[i].buffer = reader->staging + i * reader->slot_bytes;

    if (!options->no_uring)
        reader->uring = io_uring_queue_init(reader->depth, &reader->ring, 0) == 0;
    if (reader->uring && !options->no_register) {
        struct iovec all = {.iov_base = reader->staging, .iov_len = staging_bytes};
        reader->registered = io_uring_register_buffers(&reader->ring, &all, 1) == 0;
    }
    describe_mode(reader);
    *ret = reader;
    return 0;

free_reader:
    mm_why_set(why, why_size, "No memory for %u read buffers of %zu KiB.", reader->n_slots,
               (size_t)(reader->slot_bytes / 1024));
    mm_reader_free(reader);
    return r;
}

void mm_reader_free(struct mm_reader *reader)
{
    if (reader == NULL)
        return;
    if (reader->uring)
        io_uring_queue_exit(&reader->ring);
    for (unsigned i = 0; i < reader->n_files; i++) {
        close(reader->files[i].fd);
        if (reader->files[i].direct_fd >= 0)
            close(reader->files[i].direct_fd);
        free(reader->files[i].path);
    }
    free(reader->files);
    free(reader->slots);
    if (reader->mapped != MAP_FAILED)
        munmap(reader->mapped, reader->mapped_bytes);
    free(reader);
}

int mm_reader_add_file(struct mm_reader *reader, const char *path, unsigned *ret_file, char *why,
                       size_t why_size)
{
    struct file *files = realloc(reader->files, (reader->n_files + 1) * sizeof *files);
    if (files == NULL)
        return -ENOMEM;
    reader->files = files;
    struct file file = {.path = strdup(path), .fd = -1, .direct_fd = -1};
    if (file.path == NULL)
        return -ENOMEM;
    int r;
    struct stat st;
    /* Without O_NONBLOCK a FIFO of that name would hold us here for ever. */
    file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (file.fd < 0 || fstat(file.fd, &st) < 0) {
        r = -errno;
        mm_why_set(why, why_size, "%s cannot be opened: %s.", path, strerror(errno));
        goto close_file;
    }
    if (!S_ISREG(st.st_mode)) {
        r = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
        mm_why_set(why, why_size, "%s is %s, not a file.", path,
                   S_ISDIR(st.st_mode) ? "a folder" : "a device, pipe or socket");
        goto close_file;
    }
    file.size = (uint64_t)st.st_size;
    probe_direct(reader, &file);
    reader->files[reader->n_files] = file;
    *ret_file = reader->n_files++;
    describe_mode(reader);
    return 0;

close_file:
    if (file.fd >= 0)
        close(file.fd);
    free(file.path);
    return r;
}

uint64_t mm_reader_file_size(const struct mm_reader *reader, unsigned file)
{
    return reader->files[file].size;
}

int mm_reader_file_fd(const struct mm_reader *reader, unsigned file)
{
    return reader->files[file].fd;
}

const char *mm_reader_mode(const struct mm_reader *reader)
{
    return reader->mode;
}

int mm_reader_run(struct mm_reader *reader, const struct mm_read *pieces, size_t n_pieces,
                  mm_reader_fn *fn, void *arg, char *why, size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    int r = check_pieces(reader, pieces, n_pieces, why, why_size);
    if (r < 0)
        return r;
    struct cursor cursor = {.pieces = pieces, .n_pieces = n_pieces};
    uint64_t head = 0, tail = 0; /* slots delivered and queued, since the start of the run */
    for (;;) {
        while (reader->in_flight < reader->depth && tail - head < reader->n_slots &&
               next_part(reader, &cursor, &reader->slots[tail % reader->n_slots])) {
            start_read(reader, &reader->slots[tail % reader->n_slots]);
            tail++;
        }
        if (head == tail)
            break;
        struct slot *slot = &reader->slots[head % reader->n_slots];
        const bool complete = slot->complete;
        r = submit(reader, !complete);
        if (r < 0) {
            mm_why_set(why, why_size, "io_uring stopped working: %s.", strerror(-r));
            break;
        }
        if (!complete) /* what is back makes room for others */
            continue;
        r = deliver(reader, slot, fn, arg, why, why_size);
        if (r < 0)
            break;
        head++;
    }
    /* The kernel still writes to our buffers, and to the caller's, until the last read is back. */
    while (reader->in_flight > 0 && submit(reader, true) >= 0)
        ;
    if (reader->in_flight > 0) { /* a broken ring: what is left of it must not be taken in later */
        io_uring_queue_exit(&reader->ring);
        reader->uring = reader->registered = false;
        reader->in_flight = 0;
    }
    describe_mode(reader);
    return r;
}

/* Whether, and with which alignment, the file can be read past the page cache. Linux 6.1 tells;
 * where the file system does not, a page is tried. */
static void probe_direct(struct mm_reader *reader, struct file *file)
{
    if (reader->no_direct)
        return;
    file->direct_fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_DIRECT);
    if (file->direct_fd < 0)
        return;
    struct stat opened, reopened; /* the name may lead to another file by now */
    struct statx info;
    if (fstat(file->fd, &opened) < 0 || fstat(file->direct_fd, &reopened) < 0 ||
        opened.st_dev != reopened.st_dev || opened.st_ino != reopened.st_ino)
        goto no_direct;
    file->offset_align = file->memory_align = PART_ALIGN;
    if (statx(file->direct_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
        (info.stx_mask & STATX_DIOALIGN) != 0) {
        file->offset_align = info.stx_dio_offset_align;
        file->memory_align = info.stx_dio_mem_align;
        if (file->offset_align == 0 || file->offset_align > DIRECT_ALIGN_MAX ||
            file->memory_align == 0 || file->memory_align > PART_ALIGN ||
            DIRECT_ALIGN_MAX % file->offset_align != 0 || PART_ALIGN % file->memory_align != 0)
            goto no_direct;
    } else if (pread(file->direct_fd, reader->staging, PART_ALIGN, 0) < 0) {
        goto no_direct;
    }
    file->direct = true;
    return;

no_direct:
    close(file->direct_fd);
    file->direct_fd = -1;
}

static int check_pieces(const struct mm_reader *reader, const struct mm_read *pieces,
                        size_t n_pieces, char *why, size_t why_size)
{
    for (size_t i = 0; i < n_pieces; i++) {
        const struct mm_read *piece = &pieces[i];
        if (piece->file >= reader->n_files || piece->unit > reader->buffer_bytes)
            return -EINVAL;
        const struct file *file = &reader->files[piece->file];
        uint64_t end;
        if (__builtin_add_overflow(piece->offset, (uint64_t)piece->length, &end) ||
            end > file->size) {
            mm_why_set(why, why_size,
                       "%s is truncated: %zu bytes at offset %" PRIu64
                       " are wanted, and it has %" PRIu64 ".",
                       file->path, piece->length, piece->offset, file->size);
            return -ENODATA;
        }
    }
    return 0;
}

/* Cuts the next part off the pieces and lays out its span; false when there is none. */
static bool next_part(struct mm_reader *reader, struct cursor *cursor, struct slot *slot)
{
    while (cursor->index < cursor->n_pieces &&
           cursor->done == cursor->pieces[cursor->index].length) {
        cursor->index++;
        cursor->done = 0;
    }
    if (cursor->index == cursor->n_pieces)
        return false;
    const struct mm_read *piece = &cursor->pieces[cursor->index];
    const struct file *file = &reader->files[piece->file];
    uint64_t offset = piece->offset + cursor->done;
    size_t length = piece->length - cursor->done;
    if (length > reader->buffer_bytes) {
        length = reader->buffer_bytes;
        if (piece->unit > 0)
            length -= length % piece->unit;
        else
            length -= (offset + length) % PART_ALIGN;
    }
    *slot = (struct slot){.buffer = slot->buffer,
                          .piece = piece,
                          .done = cursor->done,
                          .length = length,
                          .target = slot->buffer,
                          .start = offset,
                          .span = length,
                          .direct = file->direct};
    uint8_t *place = piece->into ? (uint8_t *)piece->into + cursor->done : NULL;
    cursor->done += length;
    if (!file->direct) {
        if (place != NULL)
            slot->target = place;
        return true;
    }
    size_t align = file->offset_align;
    slot->head = offset % align;
    slot->start = offset - slot->head;
    slot->span = (slot->head + length + align - 1) / align * align;
    if (place != NULL && slot->span == length && (uintptr_t)place % file->memory_align == 0)
        slot->target = place;
    return true;
}

static bool finish_if_complete(struct slot *slot)
{
    if (slot->got >= slot->head + slot->length)
        slot->complete = true;
    return slot->complete;
}

/* What came back from the kernel for one read: bytes, 0 at the end of the file, or -errno. Returns
 * whether there is more to read. */
static bool take_result(struct mm_reader *reader, struct slot *slot, int result)
{
    struct file *file = &reader->files[slot->piece->file];
    if (result == -EINTR || result == -EAGAIN)
        return true;
    if ((result == -EINVAL || result == -EOPNOTSUPP) && slot->direct) {
        file->direct = slot->direct = false;
        return true;
    }
    if (result <= 0) {
        slot->error = result < 0 ? result : -ENODATA;
        slot->complete = true;
        return false;
    }
    slot->got += (size_t)result;
    if (finish_if_complete(slot))
        return false;
    if (slot->direct && slot->got % file->offset_align != 0)
        slot->direct = false;
    return true;
}

static void read_now(struct mm_reader *reader, struct slot *slot)
{
    ssize_t n;
    do {
        const struct file *file = &reader->files[slot->piece->file];
        n = pread(slot->direct ? file->direct_fd : file->fd, slot->target + slot->got,
                  slot->span - slot->got, (off_t)(slot->start + slot->got));
    } while (take_result(reader, slot, n < 0 ? -errno : (int)n));
}

/* Queues what the slot still misses; without io_uring, reads it. */
static void start_read(struct mm_reader *reader, struct slot *slot)
{
    if (!reader->uring) {
        read_now(reader, slot);
        return;
    }
    const struct file *file = &reader->files[slot->piece->file];
    int fd = slot->direct ? file->direct_fd : file->fd;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&reader->ring); /* never NULL: one a slot */
    uint8_t *to = slot->target + slot->got;
    unsigned length = (unsigned)(slot->span - slot->got);
    uint64_t offset = slot->start + slot->got;
    if (reader->registered && slot->target == slot->buffer)
        io_uring_prep_read_fixed(sqe, fd, to, length, offset, 0);
    else
        io_uring_prep_read(sqe, fd, to, length, offset);
    io_uring_sqe_set_data(sqe, slot);
    reader->in_flight++;
}

/* Hands queued reads to the kernel and takes in what is done; `wait`: at least one. */
static int submit(struct mm_reader *reader, bool wait)
{
    if (!reader->uring || (!wait && io_uring_sq_ready(&reader->ring) == 0))
        return 0;
    int r = io_uring_submit_and_wait(&reader->ring, wait ? 1 : 0);
    if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
        return r;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&reader->ring, &cqe) == 0) {
        struct slot *slot = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&reader->ring, cqe);
        reader->in_flight--;
        if (take_result(reader, slot, result))
            start_read(reader, slot);
    }
    return 0;
}

static int deliver(const struct mm_reader *reader, const struct slot *slot, mm_reader_fn *fn,
                   void *arg, char *why, size_t why_size)
{
    const struct mm_read *piece = slot->piece;
    if (slot->error == -ENODATA) {
        mm_why_set(why, why_size, "%s became shorter while it was read (at offset %" PRIu64 ").",
                   reader->files[piece->file].path, (uint64_t)(slot->start + slot->got));
        return slot->error;
    }
    if (slot->error < 0) {
        mm_why_set(why, why_size, "Reading %s at offset %" PRIu64 " failed: %s.",
                   reader->files[piece->file].path, (uint64_t)(slot->start + slot->got),
                   strerror(-slot->error));
        return slot->error;
    }
    const uint8_t *data = slot->target + slot->head;
    if (piece->into != NULL && slot->target == slot->buffer) {
        memcpy((uint8_t *)piece->into + slot->done, data, slot->length);
        data = (uint8_t *)piece->into + slot->done;
    }
    return fn(arg, piece, slot->done, data, slot->length);
}

static void describe_mode(struct mm_reader *reader)
{
    unsigned n_direct = 0;
    for (unsigned i = 0; i < reader->n_files; i++)
        n_direct += reader->files[i].direct;
    const char *cache = n_direct == 0                 ? "page cache"
                        : n_direct == reader->n_files ? "direct I/O"
                                                      : "direct I/O for some files";
    snprintf(reader->mode, sizeof reader->mode, "%s, %s%s", reader->uring ? "io_uring" : "pread",
             cache, reader->registered ? ", registered buffers" : "");
}
