/* Owns: the reading and checking of one GGUF file.
 *
 * The metadata is read (never mapped: a file that shrinks must not become a signal) into one
 * growing buffer. While it grows, records keep offsets in the place of pointers. */
#include "svc/model/gguf_part.h"

#include "ops/type.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GGUF_MAGIC         0x46554747u /* "GGUF" */
#define HUGE_PAGE          ((size_t)2 << 20)
#define METADATA_MAX_BYTES (512u << 20)
#define FIRST_READ_BYTES   (1u << 20)
#define READ_AHEAD_BYTES   (8u << 20) /* a vocabulary of 150,000 tokens is 6 MiB */
#define KEY_MAX_BYTES      256
#define NAME_MAX_BYTES     128
#define PAIRS_MAX          (1u << 16)
#define TENSORS_MAX        (1u << 18)
#define ARRAY_MAX_DEPTH    4
#define ALIGNMENT_MAX      (1u << 20)

#define FAIL GGUF_PART_FAIL

static const struct {
    const char *name;
    size_t bytes; /* 0: of variable length */
} value_types[] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};
#define N_VALUE_TYPES (sizeof value_types / sizeof value_types[0])

const char *gguf_value_type_name(uint32_t type)
{
    return type < N_VALUE_TYPES ? value_types[type].name : "unknown";
}

/* ---- the bytes of one part -------------------------------------------------------------- */

int gguf_part_open(struct gguf_part *part, const char *path)
{
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    part->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (part->fd < 0) {
        int error = errno;
        return FAIL(part, -error, "cannot open %s: %s", path, strerror(error));
    }
    struct stat st;
    if (fstat(part->fd, &st) < 0) {
        int error = errno;
        return FAIL(part, -error, "cannot stat %s: %s", path, strerror(error));
    }
    if (!S_ISREG(st.st_mode))
        return FAIL(part, -EINVAL, "%s is not a regular file: give a GGUF file", path);
    part->file_bytes = (uint64_t)st.st_size;
    posix_fadvise(part->fd, 0, READ_AHEAD_BYTES, POSIX_FADV_WILLNEED);
    return 0;
}

void gguf_part_done(struct gguf_part *part)
{
    if (part->fd >= 0)
        close(part->fd);
    free(part->buffer);
    free(part->pairs);
    free(part->tensors);
    *part = (struct gguf_part){.fd = -1};
}

static int fill(struct gguf_part *part, size_t want)
{
    while (part->length < want) {
        size_t n = want - part->length;
        if (part->fd < 0) {
            memcpy(part->buffer + part->length, part->memory + part->length, n);
            part->length += n;
            continue;
        }
        ssize_t r = pread(part->fd, part->buffer + part->length, n, (off_t)part->length);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0) {
            int error = errno;
            return FAIL(part, -error, "cannot read %s: %s", part->label, strerror(error));
        }
        if (r == 0)
            return FAIL(part, -EBADMSG, "%s became shorter while it was read", part->label);
        part->length += (size_t)r;
    }
    return 0;
}

/* Faults of small pages took half of the time that reading a large vocabulary took. */
static uint8_t *new_buffer(size_t size)
{
    void *buffer = NULL;
    if (size < HUGE_PAGE)
        return malloc(size);
    if (posix_memalign(&buffer, HUGE_PAGE, size) != 0)
        return NULL;
    madvise(buffer, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* where there are any */
    return buffer;
}

/* Makes sure that `n` more bytes at the cursor are in the buffer. */
static int need(struct gguf_part *part, uint64_t n)
{
    if (n <= part->length - part->at)
        return 0;
    if (n > part->file_bytes - part->at)
        return FAIL(part, -EBADMSG,
                    "%s is truncated or damaged: its metadata runs past the end of the file",
                    part->label);
    uint64_t want = part->at + n;
    if (want > METADATA_MAX_BYTES)
        return FAIL(part, -EBADMSG, "%s is damaged: its metadata is longer than %u MiB",
                    part->label, METADATA_MAX_BYTES >> 20);
    uint64_t grow = part->capacity ? 2 * (uint64_t)part->capacity : FIRST_READ_BYTES;
    if (part->capacity && grow < READ_AHEAD_BYTES)
        grow = READ_AHEAD_BYTES;
    if (grow > want)
        want = grow;
    if (want > part->file_bytes)
        want = part->file_bytes;
    if (want > METADATA_MAX_BYTES)
        want = METADATA_MAX_BYTES;
    uint8_t *buffer = new_buffer(want);
    if (!buffer)
        return FAIL(part, -ENOMEM, "no memory for the metadata of %s", part->label);
    if (part->length > 0)
        memcpy(buffer, part->buffer, part->length);
    free(part->buffer);
    part->buffer = buffer;
    part->capacity = want;
    return fill(part, want);
}

static int take(struct gguf_part *part, void *dst, size_t n)
{
    int r = need(part, n);
    if (r < 0)
        return r;
    memcpy(dst, part->buffer + part->at, n);
    part->at += n;
    return 0;
}

/* Steps over a string; its bytes stay in the buffer. */
static int take_string(struct gguf_part *part, uint64_t *ret_length)
{
    uint64_t length;
    int r = take(part, &length, sizeof length);
    if (r < 0)
        return r;
    r = need(part, length);
    if (r < 0)
        return r;
    part->at += length;
    *ret_length = length;
    return 0;
}

/* A key or a tensor name: short, printable, not empty, so that messages may show it. The data
 * pointer of *ret holds the offset until the part is complete. */
static int take_name(struct gguf_part *part, const char *what, size_t index, size_t length_max,
                     struct gguf_string *ret)
{
    uint64_t length;
    int r = take_string(part, &length);
    if (r < 0)
        return r;
    if (length == 0 || length > length_max)
        return FAIL(part, -EBADMSG, "%s is damaged: the name of %s %zu has %" PRIu64 " bytes",
                    part->label, what, index, length);
    const uint8_t *bytes = part->buffer + part->at - length;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] < 0x20 || bytes[i] > 0x7e)
            return FAIL(part, -EBADMSG, "%s is damaged: the name of %s %zu holds the byte 0x%02x",
                        part->label, what, index, bytes[i]);
    ret->data = (const char *)(uintptr_t)(part->at - length);
    ret->length = length;
    return 0;
}

static const char *name_in_buffer(const struct gguf_part *part, struct gguf_string string)
{
    return (const char *)part->buffer + (uintptr_t)string.data;
}

/* ---- metadata --------------------------------------------------------------------------- */

static int skip_items(struct gguf_part *part, uint32_t type, uint64_t n_items, unsigned depth,
                      struct gguf_string key);

static int skip_array(struct gguf_part *part, unsigned depth, struct gguf_string key,
                      struct gguf_value *ret)
{
    uint32_t item_type;
    uint64_t n_items;
    int r = take(part, &item_type, sizeof item_type);
    if (r == 0)
        r = take(part, &n_items, sizeof n_items);
    if (r < 0)
        return r;
    if (depth > ARRAY_MAX_DEPTH)
        return FAIL(part, -EBADMSG, "key %.*s nests arrays deeper than %d", (int)key.length,
                    name_in_buffer(part, key), ARRAY_MAX_DEPTH);
    size_t start = part->at;
    r = skip_items(part, item_type, n_items, depth, key);
    if (r < 0)
        return r;
    if (ret) {
        ret->item_type = item_type;
        ret->n_items = n_items;
        ret->data = (const uint8_t *)(uintptr_t)start;
        ret->size = part->at - start;
    }
    return 0;
}

static int skip_items(struct gguf_part *part, uint32_t type, uint64_t n_items, unsigned depth,
                      struct gguf_string key)
{
    if (type >= N_VALUE_TYPES)
        return FAIL(part, -EBADMSG, "key %.*s has a value of the unknown type %" PRIu32,
                    (int)key.length, name_in_buffer(part, key), type);
    /* Every item takes at least one byte (a string or an array at least eight), so that a count
     * which the file cannot hold ends in need() and not in a long loop. */
    if (value_types[type].bytes) {
        uint64_t bytes;
        if (__builtin_mul_overflow(n_items, value_types[type].bytes, &bytes))
            return FAIL(part, -EBADMSG, "key %.*s claims %" PRIu64 " items", (int)key.length,
                        name_in_buffer(part, key), n_items);
        int r = need(part, bytes);
        if (r == 0)
            part->at += bytes;
        return r;
    }
    for (uint64_t i = 0; i < n_items; i++) {
        uint64_t length;
        int r = type == GGUF_STRING ? take_string(part, &length)
                                    : skip_array(part, depth + 1, key, NULL);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_pair(struct gguf_part *part, size_t index, struct gguf_pair *pair)
{
    int r = take_name(part, "key", index, KEY_MAX_BYTES, &pair->key);
    if (r < 0)
        return r;
    struct gguf_value *value = &pair->value;
    r = take(part, &value->type, sizeof value->type);
    if (r < 0)
        return r;
    if (value->type == GGUF_ARRAY)
        return skip_array(part, 1, pair->key, value);
    size_t start = part->at;
    r = skip_items(part, value->type, 1, 1, pair->key);
    if (r < 0)
        return r;
    value->item_type = value->type;
    value->n_items = 1;
    value->data = (const uint8_t *)(uintptr_t)start;
    value->size = part->at - start;
    return 0;
}

/* general.alignment, which the place of the tensor data depends on. */
static int read_alignment(struct gguf_part *part)
{
    static const char key[] = "general.alignment";
    part->alignment = 32;
    for (size_t i = 0; i < part->n_pairs; i++) {
        const struct gguf_pair *pair = &part->pairs[i];
        if (pair->key.length != sizeof key - 1 ||
            memcmp(name_in_buffer(part, pair->key), key, sizeof key - 1) != 0)
            continue;
        if (pair->value.type != GGUF_U32)
            return FAIL(part, -EBADMSG, "key %s is of type %s where u32 is expected", key,
                        gguf_value_type_name(pair->value.type));
        uint32_t alignment;
        memcpy(&alignment, part->buffer + (uintptr_t)pair->value.data, sizeof alignment);
        if (alignment == 0 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)))
            return FAIL(part, -EBADMSG, "key %s is %" PRIu32 ", which is no power of two up to %u",
                        key, alignment, ALIGNMENT_MAX);
        part->alignment = alignment;
    }
    return 0;
}

/* ---- the table of tensors --------------------------------------------------------------- */

/* Bytes of a tensor of a type that ops computes; 0 for the others. -EBADMSG where a row is no
 * whole number of blocks or the product of the dimensions overflows. */
static int tensor_bytes(struct gguf_part *part, struct gguf_tensor *tensor, const char *name)
{
    int length = (int)tensor->name.length;
    uint64_t n_elements = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (__builtin_mul_overflow(n_elements, tensor->dims[i], &n_elements) ||
            n_elements > INT64_MAX)
            return FAIL(part, -EBADMSG, "tensor %.*s has dimensions whose product overflows",
                        length, name);
    if (!ops_type_name(tensor->type))
        return FAIL(part, -EBADMSG, "tensor %.*s has the unknown type %" PRIu32, length, name,
                    tensor->type);
    const struct ops_type_info *info = ops_type_info(tensor->type);
    if (!info)
        return 0;
    if (tensor->dims[0] % info->block_len)
        return FAIL(part, -EBADMSG,
                    "tensor %.*s has rows of %" PRIu64
                    " values, no whole number of %s blocks of %" PRIu32,
                    length, name, tensor->dims[0], info->name, info->block_len);
    if (__builtin_mul_overflow(n_elements / info->block_len, info->block_bytes, &tensor->bytes))
        return FAIL(part, -EBADMSG, "tensor %.*s has dimensions whose product overflows", length,
                    name);
    return 0;
}

static int read_tensor(struct gguf_part *part, size_t index, struct gguf_tensor *tensor)
{
    int r = take_name(part, "tensor", index, NAME_MAX_BYTES, &tensor->name);
    if (r == 0)
        r = take(part, &tensor->n_dims, sizeof tensor->n_dims);
    if (r < 0)
        return r;
    int length = (int)tensor->name.length;
    if (tensor->n_dims == 0 || tensor->n_dims > GGUF_MAX_DIMS)
        return FAIL(part, -EBADMSG, "tensor %.*s has %" PRIu32 " dimensions; 1 to %d are possible",
                    length, name_in_buffer(part, tensor->name), tensor->n_dims, GGUF_MAX_DIMS);
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims)
            r = take(part, &tensor->dims[i], sizeof tensor->dims[i]);
        if (r < 0)
            return r;
        if (tensor->dims[i] == 0)
            return FAIL(part, -EBADMSG, "tensor %.*s has a dimension of 0", length,
                        name_in_buffer(part, tensor->name));
    }
    r = take(part, &tensor->type, sizeof tensor->type);
    if (r == 0)
        r = take(part, &tensor->offset, sizeof tensor->offset);
    if (r < 0)
        return r;
    return tensor_bytes(part, tensor, name_in_buffer(part, tensor->name));
}

/* Offsets become absolute, and each tensor must lie inside the file. */
static int place_tensors(struct gguf_part *part)
{
    uint64_t data_start =
        ((uint64_t)part->at + part->alignment - 1) & ~(uint64_t)(part->alignment - 1);
    for (size_t i = 0; i < part->n_tensors; i++) {
        struct gguf_tensor *tensor = &part->tensors[i];
        const char *name = name_in_buffer(part, tensor->name);
        int length = (int)tensor->name.length;
        if (tensor->offset % part->alignment)
            return FAIL(part, -EBADMSG,
                        "tensor %.*s starts at %" PRIu64
                        ", which is not on the alignment of %" PRIu32,
                        length, name, tensor->offset, part->alignment);
        uint64_t end;
        if (__builtin_add_overflow(tensor->offset, data_start, &tensor->offset) ||
            __builtin_add_overflow(tensor->offset, tensor->bytes, &end) || end > part->file_bytes)
            return FAIL(part, -EBADMSG,
                        "tensor %.*s lies past the end of %s: the file is truncated or damaged",
                        length, name, part->label);
    }
    return 0;
}

static int read_counts(struct gguf_part *part, uint64_t *n_tensors, uint64_t *n_pairs)
{
    uint32_t head[2] = {0};
    if (part->file_bytes < sizeof head)
        return FAIL(part, -EBADMSG, "%s is no GGUF file: it has only %" PRIu64 " bytes",
                    part->label, part->file_bytes);
    int r = take(part, head, sizeof head);
    if (r < 0)
        return r;
    if (head[0] != GGUF_MAGIC)
        return FAIL(part, -EBADMSG, "%s is no GGUF file: it does not begin with \"GGUF\"",
                    part->label);
    if (head[1] && !(head[1] & 0xffff))
        return FAIL(part, -ENOTSUP, "%s is a big-endian GGUF file: convert it to little-endian",
                    part->label);
    if (head[1] != 2 && head[1] != 3)
        return FAIL(part, -ENOTSUP,
                    "%s is a GGUF file of version %" PRIu32
                    ": versions 2 and 3 are read; convert it",
                    part->label, head[1]);
    r = take(part, n_tensors, sizeof *n_tensors);
    if (r == 0)
        r = take(part, n_pairs, sizeof *n_pairs);
    if (r < 0)
        return r;
    if (*n_tensors > TENSORS_MAX || *n_pairs > PAIRS_MAX)
        return FAIL(part, -EBADMSG,
                    "%s is damaged: it claims %" PRIu64 " tensors and %" PRIu64 " keys",
                    part->label, *n_tensors, *n_pairs);
    return 0;
}

int gguf_part_read(struct gguf_part *part)
{
    uint64_t n_tensors, n_pairs;
    int r = read_counts(part, &n_tensors, &n_pairs);
    if (r < 0)
        return r;
    part->pairs = calloc(n_pairs ? n_pairs : 1, sizeof *part->pairs);
    part->tensors = calloc(n_tensors ? n_tensors : 1, sizeof *part->tensors);
    if (!part->pairs || !part->tensors)
        return FAIL(part, -ENOMEM, "no memory for the metadata of %s", part->label);
    for (; part->n_pairs < n_pairs; part->n_pairs++) {
        r = read_pair(part, part->n_pairs, &part->pairs[part->n_pairs]);
        if (r < 0)
            return r;
    }
    r = read_alignment(part);
    if (r < 0)
        return r;
    for (; part->n_tensors < n_tensors; part->n_tensors++) {
        r = read_tensor(part, part->n_tensors, &part->tensors[part->n_tensors]);
        if (r < 0)
            return r;
    }
    return place_tensors(part);
}
