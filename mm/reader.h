/* Reads ranges of files through io_uring with O_DIRECT and a deep queue, into staging buffers that
 * are handed to the caller's consumer in any order; consumers run on the caller's thread(s) while
 * further reads are under way.
 *
 * Falls back, each step on its own: without registered buffers (memlock limit), without O_DIRECT
 * (tmpfs and others refuse it), without io_uring (sysctl, seccomp: pread). Short reads, EINTR and a
 * file that shrinks are handled: -EIO or -ENODATA with a sentence, never a signal, since nothing is
 * mapped from the file. */
#ifndef QUERN_MM_READER_H
#define QUERN_MM_READER_H

#include <stddef.h>
#include <stdint.h>

struct mm_reader;

struct mm_reader_options {
    unsigned depth;      /* reads in flight; 0: 16 */
    size_t buffer_bytes; /* of one read; 0: 1 MiB; rounded to the alignment of direct I/O */
    int no_uring, no_direct, no_register; /* force the fallbacks (tests) */
};

/* One piece to read: `length` bytes at `offset` of file `file` (index as given to _add_file). */
struct mm_read {
    unsigned file;
    uint64_t offset;
    size_t length; /* any; a piece longer than a buffer is delivered in several parts, in order */
    void *tag;
};

int mm_reader_new(struct mm_reader **ret, const struct mm_reader_options *options, char *why,
                  size_t why_size);
void mm_reader_free(struct mm_reader *reader);

/* Opens a file for reading; *ret_file is its index. */
int mm_reader_add_file(struct mm_reader *reader, const char *path, unsigned *ret_file, char *why,
                       size_t why_size);

/* How reads go: "io_uring, direct, registered", … for the journal. */
const char *mm_reader_mode(const struct mm_reader *reader);

/* A part of a piece has arrived: `length` bytes at `data`, `done` bytes of the piece came before
 * it. Parts of one piece come in order, from the calling thread. A negative return ends the run. */
typedef int mm_reader_fn(void *arg, const struct mm_read *piece, size_t done, const void *data,
                         size_t length);

/* Reads all pieces (best in file order). Returns 0, the consumer's error, or -errno. */
int mm_reader_run(struct mm_reader *reader, const struct mm_read *pieces, size_t n_pieces,
                  mm_reader_fn *fn, void *arg, char *why, size_t why_size);

#endif
