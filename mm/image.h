/* The packed image: what a load made of a model file, kept on disk so that the next start reads it
 * straight into place.
 *
 * mm knows nothing of what the sections hold. An image belongs to one state of its source files
 * (device, inode, size, times of each) and to one layout (a fingerprint of the caller's); any other
 * is refused, and so is one that is damaged, cut, of another version, or owned by a stranger. It is
 * written under a temporary name, synced and renamed: a power cut leaves the old image or none.
 * The temporary file is also the lock that lets two services which start together pack once. */
#ifndef QUERN_MM_IMAGE_H
#define QUERN_MM_IMAGE_H

#include "mm/reader.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Which image is wanted. */
struct mm_image_key {
    uint64_t source[2]; /* of the source files, see mm_image_identify */
    uint64_t layout;    /* fingerprint of code and shape, the caller's */
    uid_t owner;        /* of the first source file: may own the image, as we and root may */
};

/* Fills source and owner from open files. */
int mm_image_identify(struct mm_image_key *key, const int *fds, size_t n_fds);

/* ---- reading ------------------------------------------------------------------------------- */

struct mm_image;

/* Opens and checks header and table. Errors: -ENOENT (no image), -ESTALE (of another source, layout
 * or version), -EPERM (owned by a stranger), -EBADMSG (damaged), those of the reader. `key` NULL:
 * any image of this version. `options` as for mm_reader_new, or NULL. */
int mm_image_open(struct mm_image **ret, const char *path, const struct mm_image_key *key,
                  const struct mm_reader_options *options, char *why, size_t why_size);
void mm_image_free(struct mm_image *image);

/* Length of a section, or -ENOENT. */
int mm_image_section(const struct mm_image *image, const char *name, uint64_t *ret_length);

/* What the header says, for a person. The sections' names are terminated, and a stranger's. */
struct mm_image_info {
    uint64_t layout;
    uint64_t content[2]; /* hash of the source's bytes, as the writer gave it */
    uint64_t file_bytes;
    unsigned n_sections;
    bool own; /* the file belongs to us or to root: nobody else wrote what is in it */
};
void mm_image_info(const struct mm_image *image, struct mm_image_info *ret);
const char *mm_image_section_name(const struct mm_image *image, unsigned i);

/* Called as sections arrive; a negative return ends the read with it. */
typedef int mm_image_progress_fn(void *arg, uint64_t bytes_done);

struct mm_image_place { /* where a section goes */
    const char *name;
    void *into; /* at least its length (page-aligned: without a copy); NULL: nowhere */
};

/* Reads sections (n of them, in the order of the file) and compares their checksums: -EBADMSG where one
 * does not match, and what was read is then not to be used. The disk does not rest between two.
 * Progress counts the bytes of all. */
int mm_image_read_all(struct mm_image *image, const struct mm_image_place *places, unsigned n,
                      mm_image_progress_fn *progress, void *arg, char *why, size_t why_size);

/* The same with one of them. */
int mm_image_read(struct mm_image *image, const char *name, void *into,
                  mm_image_progress_fn *progress, void *arg, char *why, size_t why_size);

const char *mm_image_mode(const struct mm_image *image); /* see mm_reader_mode */

/* ---- writing ------------------------------------------------------------------------------- */

struct mm_image_writer;

struct mm_image_part { /* a section to write */
    const char *name;  /* shorter than 24 bytes */
    const void *data;
    uint64_t length;
};

/* Takes the lock; open once more then, since somebody may have finished before. -EEXIST: while we
 * waited somebody else finished (open again). -EAGAIN: somebody else is at it, and `wait` said to go on
 * without (a negative return; it is called ten times a second; NULL: do not wait). -EACCES, -EROFS and
 * the like: no image can be written here. */
int mm_image_writer_new(struct mm_image_writer **ret, const char *path, int (*wait)(void *arg),
                        void *arg, char *why, size_t why_size);

/* Gives up the lock; an image that was not finished is gone. */
void mm_image_writer_free(struct mm_image_writer *writer);

/* Writes all sections and puts the image in place. `stop`, if not NULL, is looked at every few MiB:
 * nonzero ends with -ECANCELED. On any error (-ENOSPC) there is no new image, and the old one, if
 * any, is as it was. */
int mm_image_write(struct mm_image_writer *writer, const struct mm_image_key *key,
                   const uint64_t content[2], const struct mm_image_part *parts, size_t n_parts,
                   const int *stop, char *why, size_t why_size);

#endif
