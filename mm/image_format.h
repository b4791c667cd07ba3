/* The packed image on disk: one page of header, then sections, each from a page of its own on.
 * Little-endian. Private to mm/image.c and mm/image_write.c. */
#ifndef QUERN_MM_IMAGE_FORMAT_H
#define QUERN_MM_IMAGE_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_MAGIC        "QUERNIMG"
#define IMAGE_VERSION      1u
#define IMAGE_PAGE         4096u
#define IMAGE_SECTIONS_MAX 62u
#define IMAGE_NAME_BYTES   24u

struct image_section {
    char name[IMAGE_NAME_BYTES]; /* NUL-terminated, zero to the end */
    uint64_t offset;             /* in the file, whole pages */
    uint64_t length;             /* bytes that count; the rest of the last page is padding */
    uint64_t checksum;           /* XXH3-64 of them */
    uint64_t reserved[2];        /* zero */
};

struct image_header {
    char magic[8];
    uint32_t version;
    uint32_t n_sections;
    uint64_t layout;     /* fingerprint of what the sections hold, the caller's */
    uint64_t source[2];  /* mm_image_key: device, inode, size and times of the source files */
    uint64_t content[2]; /* hash of the source's bytes, the caller's */
    uint64_t file_bytes; /* of the whole image */
    uint64_t checksum;   /* XXH3-64 of the header with this field zero */
    uint64_t reserved[7];
    struct image_section sections[IMAGE_SECTIONS_MAX]; /* in the order of their offsets */
};

_Static_assert(sizeof(struct image_section) == 64, "on disk");
_Static_assert(offsetof(struct image_section, offset) == 24, "on disk");
_Static_assert(offsetof(struct image_section, length) == 32, "on disk");
_Static_assert(offsetof(struct image_section, checksum) == 40, "on disk");
_Static_assert(sizeof(struct image_header) == IMAGE_PAGE, "on disk");
_Static_assert(offsetof(struct image_header, version) == 8, "on disk");
_Static_assert(offsetof(struct image_header, n_sections) == 12, "on disk");
_Static_assert(offsetof(struct image_header, layout) == 16, "on disk");
_Static_assert(offsetof(struct image_header, source) == 24, "on disk");
_Static_assert(offsetof(struct image_header, content) == 40, "on disk");
_Static_assert(offsetof(struct image_header, file_bytes) == 56, "on disk");
_Static_assert(offsetof(struct image_header, checksum) == 64, "on disk");
_Static_assert(offsetof(struct image_header, sections) == 128, "on disk");

/* The checksum that belongs into the header's field. */
uint64_t mm_image_header_checksum(const struct image_header *header);

#endif
