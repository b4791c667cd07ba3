/* Owns: the writing of GGUF files.
 *
 * Metadata and the table of tensors are gathered in two memory streams, since the header counts
 * them; tensor data goes straight to the file. */
#define _GNU_SOURCE /* asprintf */
#include "svc/model/gguf_write.h"

#include "ops/type.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGNMENT        32
#define STREAM_BUFFER    (1u << 20)
#define TEMPORARY_ENDING ".part"

struct gguf_writer {
    char *path, *temporary;
    FILE *file;
    FILE *pairs, *tensors; /* memory streams */
    char *pairs_bytes, *tensors_bytes;
    size_t pairs_size, tensors_size;
    uint64_t n_pairs, n_tensors;
    uint64_t *tensor_bytes; /* (n_tensors) */
    uint64_t next_offset;   /* of the next declared tensor's data */
    uint64_t tensor;        /* whose data is being written */
    uint64_t tensor_done;   /* bytes of it */
    int error;
    bool started, finished;
};

/* ---- public functions ------------------------------------------------------------------- */

int gguf_writer_new(struct gguf_writer **ret, const char *path, char *why, size_t why_size)
{
    struct gguf_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return -ENOMEM;
    int r = -ENOMEM;
    writer->path = strdup(path);
    if (!writer->path || asprintf(&writer->temporary, "%s" TEMPORARY_ENDING, path) < 0)
        goto free_writer;
    writer->pairs = open_memstream(&writer->pairs_bytes, &writer->pairs_size);
    writer->tensors = open_memstream(&writer->tensors_bytes, &writer->tensors_size);
    if (!writer->pairs || !writer->tensors)
        goto free_writer;
    writer->file = fopen(writer->temporary, "wbe");
    if (!writer->file) {
        r = -errno;
        snprintf(why, why_size, "cannot create %s: %s", writer->temporary, strerror(-r));
        goto free_writer;
    }
    setvbuf(writer->file, NULL, _IOFBF, STREAM_BUFFER);
    *ret = writer;
    return 0;
free_writer:
    gguf_writer_free(writer);
    return r;
}

void gguf_writer_free(struct gguf_writer *writer)
{
    if (!writer)
        return;
    if (writer->file) {
        fclose(writer->file);
        if (!writer->finished)
            unlink(writer->temporary);
    }
    if (writer->pairs)
        fclose(writer->pairs);
    if (writer->tensors)
        fclose(writer->tensors);
    free(writer->pairs_bytes);
    free(writer->tensors_bytes);
    free(writer->tensor_bytes);
    free(writer->path);
    free(writer->temporary);
    free(writer);
}

static void put(struct gguf_writer *writer, FILE *stream, const void *data, size_t length)
{
    errno = 0;
    if (length && fwrite(data, 1, length, stream) != length && !writer->error)
        writer->error = errno ? -errno : -EIO;
}

static void put_u32(struct gguf_writer *writer, FILE *stream, uint32_t value)
{
    put(writer, stream, &value, sizeof value);
}

static void put_u64(struct gguf_writer *writer, FILE *stream, uint64_t value)
{
    put(writer, stream, &value, sizeof value);
}

static void put_string(struct gguf_writer *writer, FILE *stream, const char *s, size_t length)
{
    put_u64(writer, stream, length);
    put(writer, stream, s, length);
}

static void put_key(struct gguf_writer *writer, const char *key, size_t length, uint32_t type)
{
    assert(!writer->started);
    put_string(writer, writer->pairs, key, length);
    put_u32(writer, writer->pairs, type);
    writer->n_pairs++;
}

void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    put_key(writer, key, strlen(key), GGUF_U32);
    put_u32(writer, writer->pairs, value);
}

void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value)
{
    put_key(writer, key, strlen(key), GGUF_F32);
    put(writer, writer->pairs, &value, sizeof value);
}

void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value)
{
    put_key(writer, key, strlen(key), GGUF_BOOL);
    put(writer, writer->pairs, &(uint8_t){value}, 1);
}

void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value,
                        size_t length)
{
    put_key(writer, key, strlen(key), GGUF_STRING);
    put_string(writer, writer->pairs, value, length);
}

void gguf_writer_strings(struct gguf_writer *writer, const char *key,
                         const struct gguf_string *strings, size_t n_strings)
{
    put_key(writer, key, strlen(key), GGUF_ARRAY);
    put_u32(writer, writer->pairs, GGUF_STRING);
    put_u64(writer, writer->pairs, n_strings);
    for (size_t i = 0; i < n_strings; i++)
        put_string(writer, writer->pairs, strings[i].data, strings[i].length);
}

void gguf_writer_i32s(struct gguf_writer *writer, const char *key, const int32_t *values,
                      size_t n_values)
{
    put_key(writer, key, strlen(key), GGUF_ARRAY);
    put_u32(writer, writer->pairs, GGUF_I32);
    put_u64(writer, writer->pairs, n_values);
    put(writer, writer->pairs, values, n_values * sizeof *values);
}

void gguf_writer_raw(struct gguf_writer *writer, struct gguf_string key,
                     const struct gguf_value *value)
{
    put_key(writer, key.data, key.length, value->type);
    if (value->type == GGUF_ARRAY) {
        put_u32(writer, writer->pairs, value->item_type);
        put_u64(writer, writer->pairs, value->n_items);
    }
    put(writer, writer->pairs, value->data, value->size);
}

void gguf_writer_tensor(struct gguf_writer *writer, const char *name, size_t name_length,
                        uint32_t type, uint32_t n_dims, const uint64_t *dims)
{
    const struct ops_type_info *info = ops_type_info(type);
    assert(!writer->started && info && dims[0] % info->block_len == 0);
    uint64_t bytes = info->block_bytes * (dims[0] / info->block_len);
    for (uint32_t i = 1; i < n_dims; i++)
        bytes *= dims[i];
    uint64_t *sizes =
        realloc(writer->tensor_bytes, (writer->n_tensors + 1) * sizeof *writer->tensor_bytes);
    if (!sizes) {
        writer->error = -ENOMEM;
        return;
    }
    writer->tensor_bytes = sizes;
    sizes[writer->n_tensors++] = bytes;
    put_string(writer, writer->tensors, name, name_length);
    put_u32(writer, writer->tensors, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        put_u64(writer, writer->tensors, dims[i]);
    put_u32(writer, writer->tensors, type);
    put_u64(writer, writer->tensors, writer->next_offset);
    writer->next_offset += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void pad(struct gguf_writer *writer, uint64_t position)
{
    static const uint8_t zeros[ALIGNMENT];
    put(writer, writer->file, zeros, -position % ALIGNMENT);
}

static void start_data(struct gguf_writer *writer)
{
    writer->started = true;
    if ((fflush(writer->pairs) || fflush(writer->tensors)) && !writer->error)
        writer->error = -ENOMEM;
    if (writer->error)
        return;
    put(writer, writer->file, "GGUF", 4);
    put_u32(writer, writer->file, 3);
    put_u64(writer, writer->file, writer->n_tensors);
    put_u64(writer, writer->file, writer->n_pairs);
    put(writer, writer->file, writer->pairs_bytes, writer->pairs_size);
    put(writer, writer->file, writer->tensors_bytes, writer->tensors_size);
    pad(writer, 4 + 4 + 8 + 8 + writer->pairs_size + writer->tensors_size);
}

void gguf_writer_data(struct gguf_writer *writer, const void *data, size_t length)
{
    if (!writer->started)
        start_data(writer);
    const uint8_t *at = data;
    while (length > 0 && !writer->error) {
        assert(writer->tensor < writer->n_tensors);
        uint64_t left = writer->tensor_bytes[writer->tensor] - writer->tensor_done;
        size_t n = length < left ? length : (size_t)left;
        put(writer, writer->file, at, n);
        at += n;
        length -= n;
        writer->tensor_done += n;
        if (n == left) {
            pad(writer, writer->tensor_done);
            writer->tensor++;
            writer->tensor_done = 0;
        }
    }
}

void gguf_writer_hole(struct gguf_writer *writer)
{
    if (!writer->started)
        start_data(writer);
    assert(writer->error || writer->tensor < writer->n_tensors);
    if (writer->error)
        return;
    uint64_t end = (writer->tensor_bytes[writer->tensor] + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (fseeko(writer->file, (off_t)(end - writer->tensor_done), SEEK_CUR))
        writer->error = -errno;
    writer->tensor++;
    writer->tensor_done = 0;
}

int gguf_writer_finish(struct gguf_writer *writer, char *why, size_t why_size)
{
    if (!writer->started)
        start_data(writer);
    assert(writer->error || writer->tensor == writer->n_tensors);
    if (!writer->error &&
        (fflush(writer->file) || ftruncate(fileno(writer->file), ftello(writer->file)) ||
         fsync(fileno(writer->file))))
        writer->error = -errno;
    if (!writer->error && rename(writer->temporary, writer->path) < 0)
        writer->error = -errno;
    if (writer->error) {
        snprintf(why, why_size, "cannot write %s: %s", writer->path, strerror(-writer->error));
        return writer->error;
    }
    writer->finished = true;
    return 0;
}
