/* GGUF files, read: metadata and the table of tensors, single or split into -00001-of-0000N parts.
 *
 * A file is input from a stranger: no count, length, offset, nesting depth or product of
 * dimensions is trusted. What gguf_open returns has been checked whole: every string lies in the
 * metadata, every tensor of a known type lies inside its file, on its alignment, and overlaps no
 * other. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3,
 * little-endian. */
#ifndef QUERN_SVC_MODEL_GGUF_H
#define QUERN_SVC_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_value_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
};

#define GGUF_MAX_DIMS 4

/* Bytes inside the metadata of an open file; not NUL-terminated, any bytes. */
struct gguf_string {
    const char *data;
    size_t length;
};

struct gguf_value {
    uint32_t type;       /* enum gguf_value_type; GGUF_ARRAY for arrays */
    uint32_t item_type;  /* of an array's items, else the same as type */
    uint64_t n_items;    /* of an array, else 1 */
    const uint8_t *data; /* the items as in the file, little-endian, size bytes, no alignment */
    size_t size;
};

struct gguf_pair {
    struct gguf_string key; /* printable ASCII */
    struct gguf_value value;
};

struct gguf_tensor {
    struct gguf_string name; /* printable ASCII */
    uint32_t type;           /* a GGUF type id that the format defines (ops_type_name) */
    uint32_t n_dims;
    uint64_t dims[GGUF_MAX_DIMS]; /* innermost first, each ≥ 1, those past n_dims are 1 */
    unsigned file;                /* index of the part that holds it */
    uint64_t offset;              /* in that file */
    uint64_t bytes;               /* 0 where ops has no kernel for the type */
};

struct gguf;

/* Opens `path` and, if it is the first part of a split set, the other parts beside it. Returns 0;
 * -errno of the system; -EBADMSG for a damaged file; -ENOTSUP for a version not read here. `why`
 * gets one sentence on failure. */
int gguf_open(struct gguf **ret, const char *path, char *why, size_t why_size);

/* The same from memory (one part; the bytes are copied as needed). For tests and the fuzzer. */
int gguf_open_memory(struct gguf **ret, const void *data, size_t size, char *why, size_t why_size);

void gguf_free(struct gguf *gguf);

unsigned gguf_n_files(const struct gguf *gguf);
const char *gguf_path(const struct gguf *gguf, unsigned file);
uint64_t gguf_file_bytes(const struct gguf *gguf, unsigned file);

/* Metadata of the first part, in file order. */
size_t gguf_n_pairs(const struct gguf *gguf);
const struct gguf_pair *gguf_pair(const struct gguf *gguf, size_t i);
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key); /* or NULL */

/* Tensors of all parts, in file order. */
size_t gguf_n_tensors(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor(const struct gguf *gguf, size_t i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name); /* or NULL */

/* Typed values: 0; -ENOENT where the key is absent; -EBADMSG with a sentence where its type or
 * range does not fit. Integers of any width are taken if they fit; *ret is untouched on failure. */
int gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *ret, char *why,
                 size_t why_size);
int gguf_get_f32(const struct gguf *gguf, const char *key, float *ret, char *why, size_t why_size);
int gguf_get_bool(const struct gguf *gguf, const char *key, bool *ret, char *why, size_t why_size);
int gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *ret, char *why,
                    size_t why_size);

/* An array whose items have the given type. */
int gguf_get_array(const struct gguf *gguf, const char *key, uint32_t item_type,
                   const struct gguf_value **ret, char *why, size_t why_size);

/* Walks the strings of an array value: set at = value->data, then call n_items times. */
struct gguf_string gguf_next_string(const uint8_t **at);

/* Item i of an array of U32, I32 or F32 (read bytewise: items have no alignment). */
uint32_t gguf_item_u32(const struct gguf_value *array, uint64_t i);
float gguf_item_f32(const struct gguf_value *array, uint64_t i);

const char *gguf_value_type_name(uint32_t type);

#endif
