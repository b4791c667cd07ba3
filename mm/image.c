/* Reading a packed image. The header is a stranger's until every field has been checked at full
 * width; the sections are not believed until their checksums match. */
#include "mm/image.h"

#include "mm/image_format.h"
#include "mm/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* More than the reader takes by itself: the buffers cost nothing here. */
#define READ_BUFFER_BYTES (2u << 20)
#define READ_DEPTH        16

struct mm_image {
    struct mm_reader *reader;
    char *path;
    struct image_header header; /* checked */
};

struct arrival { /* of one section */
    const struct image_section *section;
    XXH3_state_t *hash;
    uint64_t before; /* bytes of the sections before it */
    mm_image_progress_fn *progress;
    void *arg;
};

static int check_header(const struct mm_image *image, const struct mm_image_key *key, char *why,
                        size_t why_size);
static bool sections_fit(const struct image_header *header);
static const struct image_section *find_section(const struct mm_image *image, const char *name);
static int take_header(void *arg, const struct mm_read *piece, size_t done, const void *data,
                       size_t length);
static int take_section(void *arg, const struct mm_read *piece, size_t done, const void *data,
                        size_t length);

int mm_image_identify(struct mm_image_key *key, const int *fds, size_t n_fds)
{
    XXH3_state_t *hash = XXH3_createState();
    if (hash == NULL)
        return -ENOMEM;
    XXH3_128bits_reset(hash);
    int r = n_fds == 0 ? -EINVAL : 0;
    uid_t owner = 0;
    for (size_t i = 0; i < n_fds && r == 0; i++) {
        struct stat st;
        if (fstat(fds[i], &st) < 0) {
            r = -errno;
            break;
        }
        const uint64_t fields[] = {st.st_dev,
                                   st.st_ino,
                                   (uint64_t)st.st_size,
                                   (uint64_t)st.st_mtim.tv_sec,
                                   (uint64_t)st.st_mtim.tv_nsec,
                                   (uint64_t)st.st_ctim.tv_sec,
                                   (uint64_t)st.st_ctim.tv_nsec};
        XXH3_128bits_update(hash, fields, sizeof fields);
        if (i == 0)
            owner = st.st_uid;
    }
    if (r == 0) {
        XXH128_hash_t digest = XXH3_128bits_digest(hash);
        key->source[0] = digest.low64;
        key->source[1] = digest.high64;
        key->owner = owner;
    }
    XXH3_freeState(hash);
    return r;
}

int mm_image_open(struct mm_image **ret, const char *path, const struct mm_image_key *key,
                  const struct mm_reader_options *options, char *why, size_t why_size)
{
    struct mm_image *image = calloc(1, sizeof *image);
    if (image == NULL)
        return -ENOMEM;
    /* Sections are read to where they belong: registering the buffers, which see the header and the
     * sections' ends, would only populate them all. */
    static const struct mm_reader_options defaults = {
        .depth = READ_DEPTH, .buffer_bytes = READ_BUFFER_BYTES, .no_register = 1};
    image->path = strdup(path);
    int r = image->path == NULL
                ? -ENOMEM
                : mm_reader_new(&image->reader, options ? options : &defaults, why, why_size);
    unsigned file;
    if (r == 0)
        r = mm_reader_add_file(image->reader, path, &file, why, why_size);
    if (r < 0)
        goto free_image;
    struct mm_read piece = {.length = IMAGE_PAGE, .unit = IMAGE_PAGE};
    r = mm_reader_run(image->reader, &piece, 1, take_header, &image->header, why, why_size);
    if (r == -ENODATA) {
        mm_why_set(why, why_size, "%s is no image: it is too short.", path);
        r = -EBADMSG;
    }
    if (r == 0)
        r = check_header(image, key, why, why_size);
    if (r < 0)
        goto free_image;
    *ret = image;
    return 0;

free_image:
    mm_image_free(image);
    return r;
}

void mm_image_free(struct mm_image *image)
{
    if (image == NULL)
        return;
    mm_reader_free(image->reader);
    free(image->path);
    free(image);
}

int mm_image_section(const struct mm_image *image, const char *name, uint64_t *ret_length)
{
    const struct image_section *section = find_section(image, name);
    if (section == NULL)
        return -ENOENT;
    *ret_length = section->length;
    return 0;
}

int mm_image_read_all(struct mm_image *image, const struct mm_image_place *places, unsigned n,
                      mm_image_progress_fn *progress, void *arg, char *why, size_t why_size)
{
    struct arrival arrivals[IMAGE_SECTIONS_MAX] = {0};
    struct mm_read pieces[IMAGE_SECTIONS_MAX] = {0};
    uint64_t before = 0;
    int r = n > IMAGE_SECTIONS_MAX ? -EINVAL : 0;
    for (unsigned i = 0; i < n && r == 0; i++) {
        const struct image_section *section = find_section(image, places[i].name);
        if (section == NULL) {
            mm_why_set(why, why_size, "%s has no section \"%s\".", image->path, places[i].name);
            r = -ENOENT;
            break;
        }
        arrivals[i] = (struct arrival){section, XXH3_createState(), before, progress, arg};
        pieces[i] = (struct mm_read){.offset = section->offset,
                                     .length = section->length,
                                     .into = places[i].into,
                                     .tag = &arrivals[i]};
        before += section->length;
        if (arrivals[i].hash == NULL)
            r = -ENOMEM;
        else
            XXH3_64bits_reset(arrivals[i].hash);
    }
    if (r == 0)
        r = mm_reader_run(image->reader, pieces, n, take_section, NULL, why, why_size);
    for (unsigned i = 0; i < n && r == 0; i++) {
        if (XXH3_64bits_digest(arrivals[i].hash) == arrivals[i].section->checksum)
            continue;
        mm_why_set(why, why_size, "%s is damaged: the checksum of its section \"%s\" is wrong.",
                   image->path, places[i].name);
        r = -EBADMSG;
    }
    for (unsigned i = 0; i < n && i < IMAGE_SECTIONS_MAX; i++)
        XXH3_freeState(arrivals[i].hash);
    return r;
}

int mm_image_read(struct mm_image *image, const char *name, void *into,
                  mm_image_progress_fn *progress, void *arg, char *why, size_t why_size)
{
    const struct mm_image_place place = {name, into};
    return mm_image_read_all(image, &place, 1, progress, arg, why, why_size);
}

const char *mm_image_mode(const struct mm_image *image)
{
    return mm_reader_mode(image->reader);
}

void mm_image_info(const struct mm_image *image, struct mm_image_info *ret)
{
    const struct image_header *header = &image->header;
    struct stat st;
    *ret = (struct mm_image_info){.layout = header->layout,
                                  .content = {header->content[0], header->content[1]},
                                  .file_bytes = header->file_bytes,
                                  .n_sections = header->n_sections};
    ret->own = fstat(mm_reader_file_fd(image->reader, 0), &st) == 0 &&
               (st.st_uid == geteuid() || st.st_uid == 0) &&
               (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

const char *mm_image_section_name(const struct mm_image *image, unsigned i)
{
    return i < image->header.n_sections ? image->header.sections[i].name : "";
}

uint64_t mm_image_header_checksum(const struct image_header *header)
{
    struct image_header copy = *header;
    copy.checksum = 0;
    return XXH3_64bits(&copy, sizeof copy);
}

static int check_header(const struct mm_image *image, const struct mm_image_key *key, char *why,
                        size_t why_size)
{
    const struct image_header *header = &image->header;
    if (memcmp(header->magic, IMAGE_MAGIC, sizeof header->magic) != 0) {
        mm_why_set(why, why_size, "%s is no image of quern.", image->path);
        return -EBADMSG;
    }
    if (header->version != IMAGE_VERSION) {
        mm_why_set(why, why_size, "%s has version %" PRIu32 " of the image format, not %u.",
                   image->path, header->version, IMAGE_VERSION);
        return -ESTALE;
    }
    if (header->checksum != mm_image_header_checksum(header) ||
        header->file_bytes != mm_reader_file_size(image->reader, 0) || !sections_fit(header)) {
        mm_why_set(why, why_size, "%s is damaged or cut short.", image->path);
        return -EBADMSG;
    }
    if (key == NULL)
        return 0;
    struct stat st;
    if (fstat(mm_reader_file_fd(image->reader, 0), &st) < 0)
        return -errno;
    if ((st.st_uid != geteuid() && st.st_uid != 0 && st.st_uid != key->owner) ||
        (st.st_mode & S_IWOTH) != 0) {
        mm_why_set(why, why_size,
                   "%s is not used: it can be written by others (uid %u, mode %04o).", image->path,
                   (unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
        return -EPERM;
    }
    if (header->source[0] != key->source[0] || header->source[1] != key->source[1]) {
        mm_why_set(why, why_size, "%s was made of another file, or the file changed since.",
                   image->path);
        return -ESTALE;
    }
    if (header->layout != key->layout) {
        mm_why_set(why, why_size, "%s was made by another version of quern.", image->path);
        return -ESTALE;
    }
    return 0;
}

/* Whole pages, one after the other, inside the file; terminated names; nothing in reserved. */
static bool sections_fit(const struct image_header *header)
{
    if (header->n_sections > IMAGE_SECTIONS_MAX)
        return false;
    uint64_t free_from = IMAGE_PAGE; /* the first byte that no section before has */
    for (uint32_t i = 0; i < header->n_sections; i++) {
        const struct image_section *section = &header->sections[i];
        uint64_t end;
        if (section->offset % IMAGE_PAGE != 0 || section->offset < free_from ||
            __builtin_add_overflow(section->offset, section->length, &end) ||
            end > header->file_bytes || section->name[IMAGE_NAME_BYTES - 1] != '\0' ||
            section->reserved[0] != 0 || section->reserved[1] != 0)
            return false;
        free_from = end;
    }
    for (size_t i = 0; i < sizeof header->reserved / sizeof header->reserved[0]; i++) {
        if (header->reserved[i] != 0)
            return false;
    }
    return true;
}

static const struct image_section *find_section(const struct mm_image *image, const char *name)
{
    for (uint32_t i = 0; i < image->header.n_sections; i++) {
        if (strcmp(image->header.sections[i].name, name) == 0)
            return &image->header.sections[i];
    }
    return NULL;
}

static int take_header(void *arg, const struct mm_read *piece, size_t done, const void *data,
                       size_t length)
{
    (void)piece;
    memcpy((uint8_t *)arg + done, data, length);
    return 0;
}

static int take_section(void *arg, const struct mm_read *piece, size_t done, const void *data,
                        size_t length)
{
    (void)arg;
    struct arrival *arrival = piece->tag;
    XXH3_64bits_update(arrival->hash, data, length);
    return arrival->progress ? arrival->progress(arrival->arg, arrival->before + done + length) : 0;
}
