/* GGUF files, written: version 3, metadata first, then tensors streamed in order to disk.
 *
 * The file is written under a temporary name beside its place and renamed when it is complete, so
 * that nobody ever opens half a model. Errors are kept: only _finish needs to be looked at. */
#ifndef QUERN_SVC_MODEL_GGUF_WRITE_H
#define QUERN_SVC_MODEL_GGUF_WRITE_H

#include "svc/model/gguf.h"

struct gguf_writer;

/* Starts a file that will be at `path`. Returns 0 or -errno with a sentence. */
int gguf_writer_new(struct gguf_writer **ret, const char *path, char *why, size_t why_size);

/* Removes what was written, unless _finish succeeded. */
void gguf_writer_free(struct gguf_writer *writer);

/* Metadata, in any order. The value of _raw is copied as it lies in another file. */
void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value,
                        size_t length);
void gguf_writer_strings(struct gguf_writer *writer, const char *key,
                         const struct gguf_string *strings, size_t n_strings);
void gguf_writer_i32s(struct gguf_writer *writer, const char *key, const int32_t *values,
                      size_t n_values);
void gguf_writer_raw(struct gguf_writer *writer, struct gguf_string key,
                     const struct gguf_value *value);

/* Declares a tensor; its data follows in the order of declaration. */
void gguf_writer_tensor(struct gguf_writer *writer, const char *name, size_t name_length,
                        uint32_t type, uint32_t n_dims, const uint64_t *dims);

/* Appends bytes to the data of the current tensor; the next begins by itself when one is full. The
 * first call writes the metadata. */
void gguf_writer_data(struct gguf_writer *writer, const void *data, size_t length);

/* Leaves the rest of the current tensor's data a hole in the file, which reads as zeros. */
void gguf_writer_hole(struct gguf_writer *writer);

/* Completes the file: every tensor must be full. Returns 0 or the first error, with a sentence. */
int gguf_writer_finish(struct gguf_writer *writer, char *why, size_t why_size);

#endif
