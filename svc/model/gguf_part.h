/* Private to gguf.c: one part (file) of a GGUF model while it is read. */
#ifndef QUERN_SVC_MODEL_GGUF_PART_H
#define QUERN_SVC_MODEL_GGUF_PART_H

#include "svc/model/gguf.h"

/* One part while it is read. Its records hold offsets into the buffer in place of pointers. */
struct gguf_part {
    const char *label; /* the path, for messages */
    int fd;            /* -1: the whole file is in memory */
    const uint8_t *memory;
    uint64_t file_bytes;
    uint8_t *buffer;
    size_t length, capacity;
    size_t at;
    struct gguf_pair *pairs;
    size_t n_pairs;
    struct gguf_tensor *tensors;
    size_t n_tensors;
    uint32_t alignment;
    char *why;
    size_t why_size;
};

/* Says why, and gives the error back. */
#define GGUF_PART_FAIL(part, error, ...)                                                           \
    (snprintf((part)->why, (part)->why_size, __VA_ARGS__), (error))

/* Opens a regular file for gguf_part_read. */
int gguf_part_open(struct gguf_part *part, const char *path);

/* Reads and checks the metadata and the table of tensors. */
int gguf_part_read(struct gguf_part *part);

/* Closes and frees what was not taken out. */
void gguf_part_done(struct gguf_part *part);

#endif
