/* Owns: GGUF models: parts joined, names looked up, values typed.
 *
 * gguf_part.c reads each file; here the parts become one model. Lookup is by binary search over
 * indices sorted by name, which also find duplicates. */
#define _GNU_SOURCE /* qsort_r */
#include "svc/model/gguf.h"

#include "svc/model/gguf_part.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are read as they lie");

#define SPLIT_MAX_PARTS     1024
#define SPLIT_SUFFIX_FORMAT "-%05u-of-%05u.gguf"
#define SPLIT_SUFFIX_LENGTH 20 /* of "-00001-of-00002.gguf" */

struct gguf_file {
    char *path;
    uint64_t bytes;
    uint8_t *metadata; /* the head of the file, as far as it was needed */
};

struct gguf {
    struct gguf_file *files;
    unsigned n_files;
    struct gguf_pair *pairs; /* of the first part */
    size_t n_pairs;
    uint32_t *pairs_by_key; /* indices, sorted */
    struct gguf_tensor *tensors;
    size_t n_tensors;
    uint32_t *tensors_by_name;
};

/* ---- public functions ------------------------------------------------------------------- */

static int append_part(struct gguf *gguf, struct gguf_part *part, const char *path);
static int open_other_parts(struct gguf *gguf, const char *path, char *why, size_t why_size);
static int index_names(struct gguf *gguf, char *why, size_t why_size);
static int check_overlap(const struct gguf *gguf, char *why, size_t why_size);

int gguf_open(struct gguf **ret, const char *path, char *why, size_t why_size)
{
    struct gguf_part part = {.fd = -1, .label = path, .why = why, .why_size = why_size};
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf)
        return -ENOMEM;
    int r = gguf_part_open(&part, path);
    if (r == 0)
        r = gguf_part_read(&part);
    if (r == 0)
        r = append_part(gguf, &part, path);
    gguf_part_done(&part);
    if (r == 0)
        r = index_names(gguf, why, why_size);
    if (r == 0)
        r = open_other_parts(gguf, path, why, why_size);
    if (r == 0)
        r = check_overlap(gguf, why, why_size);
    if (r < 0) {
        gguf_free(gguf);
        return r;
    }
    *ret = gguf;
    return 0;
}

int gguf_open_memory(struct gguf **ret, const void *data, size_t size, char *why, size_t why_size)
{
    struct gguf_part part = {.fd = -1,
                             .label = "memory",
                             .memory = data,
                             .file_bytes = size,
                             .why = why,
                             .why_size = why_size};
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf)
        return -ENOMEM;
    int r = gguf_part_read(&part);
    if (r == 0)
        r = append_part(gguf, &part, part.label);
    gguf_part_done(&part);
    if (r == 0)
        r = index_names(gguf, why, why_size);
    if (r == 0)
        r = check_overlap(gguf, why, why_size);
    if (r < 0) {
        gguf_free(gguf);
        return r;
    }
    *ret = gguf;
    return 0;
}

void gguf_free(struct gguf *gguf)
{
    if (!gguf)
        return;
    for (unsigned i = 0; i < gguf->n_files; i++) {
        free(gguf->files[i].path);
        free(gguf->files[i].metadata);
    }
    free(gguf->files);
    free(gguf->pairs);
    free(gguf->pairs_by_key);
    free(gguf->tensors);
    free(gguf->tensors_by_name);
    free(gguf);
}

unsigned gguf_n_files(const struct gguf *gguf)
{
    return gguf->n_files;
}

const char *gguf_path(const struct gguf *gguf, unsigned file)
{
    return gguf->files[file].path;
}

uint64_t gguf_file_bytes(const struct gguf *gguf, unsigned file)
{
    return gguf->files[file].bytes;
}

size_t gguf_n_pairs(const struct gguf *gguf)
{
    return gguf->n_pairs;
}

const struct gguf_pair *gguf_pair(const struct gguf *gguf, size_t i)
{
    return &gguf->pairs[i];
}

size_t gguf_n_tensors(const struct gguf *gguf)
{
    return gguf->n_tensors;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *gguf, size_t i)
{
    return &gguf->tensors[i];
}

static int compare_string(struct gguf_string a, struct gguf_string b)
{
    size_t n = a.length < b.length ? a.length : b.length;
    int c = memcmp(a.data, b.data, n);
    return c ? c : (a.length > b.length) - (a.length < b.length);
}

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key)
{
    struct gguf_string want = {key, strlen(key)};
    size_t low = 0, high = gguf->n_pairs;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_pair *pair = &gguf->pairs[gguf->pairs_by_key[middle]];
        int c = compare_string(want, pair->key);
        if (c == 0)
            return &pair->value;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name)
{
    struct gguf_string want = {name, strlen(name)};
    size_t low = 0, high = gguf->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_tensor *tensor = &gguf->tensors[gguf->tensors_by_name[middle]];
        int c = compare_string(want, tensor->name);
        if (c == 0)
            return tensor;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* The value as a signed 128-bit integer, which holds every integer type of the format. */
static bool integer_of(const struct gguf_value *value, __int128 *ret)
{
    union {
        uint64_t u;
        int64_t i;
    } raw = {0};
    if (value->size <= sizeof raw)
        memcpy(&raw, value->data, value->size);
    switch (value->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        *ret = raw.u;
        return true;
    case GGUF_I8:
        *ret = (int8_t)raw.u;
        return true;
    case GGUF_I16:
        *ret = (int16_t)raw.u;
        return true;
    case GGUF_I32:
        *ret = (int32_t)raw.u;
        return true;
    case GGUF_I64:
        *ret = raw.i;
        return true;
    default:
        return false;
    }
}

static int wrong_type(const char *key, const struct gguf_value *value, const char *want, char *why,
                      size_t why_size)
{
    snprintf(why, why_size, "key %s is of type %s where %s is expected", key,
             gguf_value_type_name(value->type), want);
    return -EBADMSG;
}

int gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *ret, char *why,
                 size_t why_size)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value)
        return -ENOENT;
    __int128 integer;
    if (!integer_of(value, &integer))
        return wrong_type(key, value, "an integer", why, why_size);
    if (integer < 0 || integer > UINT32_MAX) {
        snprintf(why, why_size, "key %s is out of range: it does not fit 32 bits unsigned", key);
        return -EBADMSG;
    }
    *ret = (uint32_t)integer;
    return 0;
}

int gguf_get_f32(const struct gguf *gguf, const char *key, float *ret, char *why, size_t why_size)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value)
        return -ENOENT;
    float f;
    if (value->type == GGUF_F32) {
        memcpy(&f, value->data, sizeof f);
    } else if (value->type == GGUF_F64) {
        double d;
        memcpy(&d, value->data, sizeof d);
        f = (float)d;
    } else {
        return wrong_type(key, value, "a float", why, why_size);
    }
    *ret = f;
    return 0;
}

int gguf_get_bool(const struct gguf *gguf, const char *key, bool *ret, char *why, size_t why_size)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value)
        return -ENOENT;
    if (value->type != GGUF_BOOL)
        return wrong_type(key, value, "a bool", why, why_size);
    *ret = value->data[0] != 0;
    return 0;
}

int gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *ret, char *why,
                    size_t why_size)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value)
        return -ENOENT;
    if (value->type != GGUF_STRING)
        return wrong_type(key, value, "a string", why, why_size);
    const uint8_t *at = value->data;
    *ret = gguf_next_string(&at);
    return 0;
}

int gguf_get_array(const struct gguf *gguf, const char *key, uint32_t item_type,
                   const struct gguf_value **ret, char *why, size_t why_size)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value)
        return -ENOENT;
    if (value->type != GGUF_ARRAY || value->item_type != item_type) {
        snprintf(why, why_size, "key %s is %s%s where an array of %s is expected", key,
                 value->type == GGUF_ARRAY ? "an array of " : "of type ",
                 gguf_value_type_name(value->item_type), gguf_value_type_name(item_type));
        return -EBADMSG;
    }
    *ret = value;
    return 0;
}

struct gguf_string gguf_next_string(const uint8_t **at)
{
    uint64_t length;
    memcpy(&length, *at, sizeof length);
    struct gguf_string string = {(const char *)*at + sizeof length, length};
    *at += sizeof length + length;
    return string;
}

uint32_t gguf_item_u32(const struct gguf_value *array, uint64_t i)
{
    assert(i < array->n_items);
    uint32_t u;
    memcpy(&u, array->data + i * sizeof u, sizeof u);
    return u;
}

float gguf_item_f32(const struct gguf_value *array, uint64_t i)
{
    assert(i < array->n_items);
    float f;
    memcpy(&f, array->data + i * sizeof f, sizeof f);
    return f;
}

/* ---- parts into one model --------------------------------------------------------------- */

/* Moves the records and the buffer of a complete part into gguf; the buffer no longer moves, so
 * that offsets become pointers. Pairs are those of the first part. */
static int append_part(struct gguf *gguf, struct gguf_part *part, const char *path)
{
    struct gguf_file *files = realloc(gguf->files, (gguf->n_files + 1) * sizeof *files);
    if (!files)
        return GGUF_PART_FAIL(part, -ENOMEM, "no memory for the metadata of %s", part->label);
    gguf->files = files;
    size_t n_tensors = gguf->n_tensors + part->n_tensors;
    struct gguf_tensor *tensors =
        realloc(gguf->tensors, (n_tensors ? n_tensors : 1) * sizeof *tensors);
    if (!tensors)
        return GGUF_PART_FAIL(part, -ENOMEM, "no memory for the metadata of %s", part->label);
    gguf->tensors = tensors;
    char *path_copy = strdup(path);
    if (!path_copy)
        return GGUF_PART_FAIL(part, -ENOMEM, "no memory for the metadata of %s", part->label);

    const char *base = (const char *)part->buffer;
    for (size_t i = 0; i < part->n_tensors; i++) {
        struct gguf_tensor *tensor = &tensors[gguf->n_tensors + i];
        *tensor = part->tensors[i];
        tensor->name.data = base + (uintptr_t)tensor->name.data;
        tensor->file = gguf->n_files;
    }
    gguf->n_tensors = n_tensors;
    if (gguf->n_files == 0) {
        for (size_t i = 0; i < part->n_pairs; i++) {
            part->pairs[i].key.data = base + (uintptr_t)part->pairs[i].key.data;
            part->pairs[i].value.data = part->buffer + (uintptr_t)part->pairs[i].value.data;
        }
        gguf->pairs = part->pairs;
        gguf->n_pairs = part->n_pairs;
        part->pairs = NULL;
    }
    files[gguf->n_files++] =
        (struct gguf_file){.path = path_copy, .bytes = part->file_bytes, .metadata = part->buffer};
    part->buffer = NULL;
    return 0;
}

static int compare_pairs(const void *a, const void *b, void *gguf)
{
    const struct gguf_pair *pairs = ((struct gguf *)gguf)->pairs;
    return compare_string(pairs[*(const uint32_t *)a].key, pairs[*(const uint32_t *)b].key);
}

static int compare_tensors(const void *a, const void *b, void *gguf)
{
    const struct gguf_tensor *tensors = ((struct gguf *)gguf)->tensors;
    return compare_string(tensors[*(const uint32_t *)a].name, tensors[*(const uint32_t *)b].name);
}

static uint32_t *sorted_index(size_t n, int (*compare)(const void *, const void *, void *),
                              struct gguf *gguf)
{
    uint32_t *index = malloc((n ? n : 1) * sizeof *index);
    if (!index)
        return NULL;
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    qsort_r(index, n, sizeof *index, compare, gguf);
    return index;
}

/* (Re)makes both sorted indices and refuses duplicate names. */
static int index_names(struct gguf *gguf, char *why, size_t why_size)
{
    free(gguf->pairs_by_key);
    free(gguf->tensors_by_name);
    gguf->pairs_by_key = sorted_index(gguf->n_pairs, compare_pairs, gguf);
    gguf->tensors_by_name = sorted_index(gguf->n_tensors, compare_tensors, gguf);
    if (!gguf->pairs_by_key || !gguf->tensors_by_name) {
        snprintf(why, why_size, "no memory for the index of %s", gguf->files[0].path);
        return -ENOMEM;
    }
    for (size_t i = 1; i < gguf->n_pairs; i++) {
        const uint32_t *at = &gguf->pairs_by_key[i];
        if (compare_pairs(at, at - 1, gguf) == 0) {
            struct gguf_string key = gguf->pairs[*at].key;
            snprintf(why, why_size, "key %.*s is there twice", (int)key.length, key.data);
            return -EBADMSG;
        }
    }
    for (size_t i = 1; i < gguf->n_tensors; i++) {
        const uint32_t *at = &gguf->tensors_by_name[i];
        if (compare_tensors(at, at - 1, gguf) == 0) {
            struct gguf_string name = gguf->tensors[*at].name;
            snprintf(why, why_size, "tensor %.*s is there twice", (int)name.length, name.data);
            return -EBADMSG;
        }
    }
    return 0;
}

static int compare_places(const void *a, const void *b, void *gguf)
{
    const struct gguf_tensor *tensors = ((struct gguf *)gguf)->tensors;
    const struct gguf_tensor *x = &tensors[*(const uint32_t *)a],
                             *y = &tensors[*(const uint32_t *)b];
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int check_overlap(const struct gguf *gguf, char *why, size_t why_size)
{
    uint32_t *index = sorted_index(gguf->n_tensors, compare_places, (struct gguf *)gguf);
    if (!index) {
        snprintf(why, why_size, "no memory for the index of %s", gguf->files[0].path);
        return -ENOMEM;
    }
    int r = 0;
    for (size_t i = 1; i < gguf->n_tensors && r == 0; i++) {
        const struct gguf_tensor *a = &gguf->tensors[index[i - 1]], *b = &gguf->tensors[index[i]];
        if (a->file == b->file && a->offset + a->bytes > b->offset) {
            snprintf(why, why_size, "tensors %.*s and %.*s overlap in the file: it is damaged",
                     (int)a->name.length, a->name.data, (int)b->name.length, b->name.data);
            r = -EBADMSG;
        }
    }
    free(index);
    return r;
}

/* ---- split files ------------------------------------------------------------------------ */

static int check_split_key(const struct gguf *gguf, const char *key, uint32_t want,
                           const char *path, char *why, size_t why_size)
{
    uint32_t value;
    int r = gguf_get_u32(gguf, key, &value, why, why_size);
    if (r == -ENOENT) {
        snprintf(why, why_size, "%s has no key %s, which every part of a split model has", path,
                 key);
        return -EBADMSG;
    }
    if (r < 0)
        return r;
    if (value != want) {
        snprintf(why, why_size,
                 "%s does not belong to this split model: key %s is %" PRIu32 " where %" PRIu32
                 " is expected",
                 path, key, value, want);
        return -EBADMSG;
    }
    return 0;
}

/* Opens part `no` (from 0) of `count` and takes over its tensors. */
static int open_other_part(struct gguf *gguf, const char *path, uint32_t no, uint32_t count,
                           char *why, size_t why_size)
{
    struct gguf_part part = {.fd = -1, .label = path, .why = why, .why_size = why_size};
    struct gguf *alone = calloc(1, sizeof *alone);
    int r = alone ? gguf_part_open(&part, path) : -ENOMEM;
    if (r == 0)
        r = gguf_part_read(&part);
    if (r == 0)
        r = append_part(alone, &part, path);
    if (r == 0)
        r = index_names(alone, why, why_size);
    if (r == 0)
        r = check_split_key(alone, "split.no", no, path, why, why_size);
    if (r == 0)
        r = check_split_key(alone, "split.count", count, path, why, why_size);
    if (r < 0)
        goto free_alone;

    size_t n_tensors = gguf->n_tensors + alone->n_tensors;
    struct gguf_file *files = realloc(gguf->files, (gguf->n_files + 1) * sizeof *files);
    if (files)
        gguf->files = files;
    struct gguf_tensor *tensors =
        realloc(gguf->tensors, (n_tensors ? n_tensors : 1) * sizeof *tensors);
    if (tensors)
        gguf->tensors = tensors;
    if (!files || !tensors) {
        r = GGUF_PART_FAIL(&part, -ENOMEM, "no memory for the metadata of %s", path);
        goto free_alone;
    }
    for (size_t i = 0; i < alone->n_tensors; i++) {
        tensors[gguf->n_tensors + i] = alone->tensors[i];
        tensors[gguf->n_tensors + i].file = gguf->n_files;
    }
    gguf->n_tensors = n_tensors;
    files[gguf->n_files++] = alone->files[0];
    alone->n_files = 0;
free_alone:
    gguf_free(alone);
    gguf_part_done(&part);
    return r;
}

static int open_other_parts(struct gguf *gguf, const char *path, char *why, size_t why_size)
{
    uint32_t count, no, n_tensors;
    int r = gguf_get_u32(gguf, "split.count", &count, why, why_size);
    if (r == -ENOENT || (r == 0 && count <= 1))
        return 0;
    if (r == 0)
        r = gguf_get_u32(gguf, "split.no", &no, why, why_size);
    if (r == 0)
        r = gguf_get_u32(gguf, "split.tensors.count", &n_tensors, why, why_size);
    if (r == -ENOENT) {
        snprintf(why, why_size,
                 "%s has the key split.count without split.no or "
                 "split.tensors.count: it is damaged",
                 path);
        return -EBADMSG;
    }
    if (r < 0)
        return r;
    if (count > SPLIT_MAX_PARTS) {
        snprintf(why, why_size, "key split.count is %" PRIu32 "; up to %d parts are read", count,
                 SPLIT_MAX_PARTS);
        return -EBADMSG;
    }
    if (no != 0) {
        snprintf(why, why_size,
                 "%s is part %" PRIu32 " of a split model: give the first, "
                 "whose name ends in -00001-of-%05" PRIu32 ".gguf",
                 path, no + 1, count);
        return -EBADMSG;
    }
    size_t length = strlen(path);
    char suffix[32];
    snprintf(suffix, sizeof suffix, SPLIT_SUFFIX_FORMAT, 1u, count);
    if (length < SPLIT_SUFFIX_LENGTH || strcmp(path + length - SPLIT_SUFFIX_LENGTH, suffix) != 0) {
        snprintf(why, why_size,
                 "%s is the first of %" PRIu32 " parts, and its name must end in %s "
                 "for the others to be found: rename it",
                 path, count, suffix);
        return -EBADMSG;
    }
    char *part_path = strdup(path);
    if (!part_path)
        return -ENOMEM;
    for (uint32_t i = 1; i < count && r == 0; i++) {
        snprintf(suffix, sizeof suffix, SPLIT_SUFFIX_FORMAT, i + 1, count);
        memcpy(part_path + length - SPLIT_SUFFIX_LENGTH, suffix, SPLIT_SUFFIX_LENGTH);
        r = open_other_part(gguf, part_path, i, count, why, why_size);
    }
    free(part_path);
    if (r < 0)
        return r;
    if (n_tensors != gguf->n_tensors) {
        snprintf(why, why_size,
                 "the %" PRIu32 " parts of %s hold %zu tensors where key "
                 "split.tensors.count says %" PRIu32,
                 count, path, gguf->n_tensors, n_tensors);
        return -EBADMSG;
    }
    return index_names(gguf, why, why_size);
}
