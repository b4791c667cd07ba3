/* Reads ranges of files through io_uring with O_DIRECT and a deep queue, into staging buffers (or
 * straight to where the bytes belong) that are handed to the caller's consumer; the consumer runs
 * on the caller's thread while further reads are under way.
 *
 * Falls back, each step on its own: without registered buffers (memlock limit), without O_DIRECT
 * (file systems that refuse it), without io_uring (sysctl, seccomp: pread). Short reads, EINTR and
 * a file that shrinks are handled: -EIO or -ENODATA with a sentence, never a signal, since nothing
 * is mapped from the file. A reader belongs to one thread at a time. */
#ifndef QUERN_MM_READER_H
#define QUERN_MM_READER_H

#include <stddef.h>
#include <stdint.h>

struct mm_reader;

struct mm_reader_options {
    unsigned depth;                       /* reads in flight; 0: 8; buffers are twice as many */
    size_t buffer_bytes;                  /* of one read; 0: 1 MiB; rounded up to whole pages */
    int no_uring, no_direct, no_register; /* force the fallbacks (tests) */
};

/* One piece to read: `length` bytes at `offset` of file `file` (index as given to _add_file). */
struct mm_read {
    unsigned file;
    uint64_t offset;
    size_t length; /* longer than a buffer: delivered in several parts; 0: not at all */
    void *tag;
    size_t unit; /* parts are cut at multiples of this, ≤ buffer_bytes; 0: anywhere */
    void *into;  /* length bytes that get the piece, or NULL: staging buffers */
};

int mm_reader_new(struct mm_reader **ret, const struct mm_reader_options *options, char *why,
                  size_t why_size);
void mm_reader_free(struct mm_reader *reader);

/* Opens a regular file for reading; *ret_file is its index. Errors: that of open, -EISDIR or
 * -EINVAL for what is no regular file. */
int mm_reader_add_file(struct mm_reader *reader, const char *path, unsigned *ret_file, char *why,
                       size_t why_size);

/* Size of a file when it was opened; its descriptor (for fstat; reads are buffered). */
uint64_t mm_reader_file_size(const struct mm_reader *reader, unsigned file);
int mm_reader_file_fd(const struct mm_reader *reader, unsigned file);

/* How reads go: "io_uring, direct, registered", … for the journal. Final after a run. */
const char *mm_reader_mode(const struct mm_reader *reader);

/* A part of a piece has arrived: `length` bytes at `data`, `done` bytes of the piece came before
 * it. Called on the calling thread, pieces in the order given, parts of a piece in order. `data` is
 * valid until the return (with `into`: it is into + done). A negative return ends the run. */
typedef int mm_reader_fn(void *arg, const struct mm_read *piece, size_t done, const void *data,
                         size_t length);

/* Reads all pieces (best in file order). Returns 0, the consumer's error, or -errno: -ENODATA where
 * a piece lies beyond the end of its file, or the file shrank; -EIO and the like from the disk. */
int mm_reader_run(struct mm_reader *reader, const struct mm_read *pieces, size_t n_pieces,
                  mm_reader_fn *fn, void *arg, char *why, size_t why_size);

#endif
