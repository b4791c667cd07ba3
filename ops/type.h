/* Weight types: what a block of each is, on disk and in memory.
 *
 * The numbers are GGUF's tensor type ids, so that a loader narrows nothing: it asks for the
 * description of an id from a file, and gets NULL for one that quern does not compute with.
 */
#ifndef QUERN_OPS_TYPE_H
#define QUERN_OPS_TYPE_H

#include <stdint.h>

enum ops_type {
    OPS_F32 = 0,
    OPS_F16 = 1,
    OPS_Q4_0 = 2,
    OPS_Q4_1 = 3,
    OPS_Q5_0 = 6,
    OPS_Q5_1 = 7,
    OPS_Q8_0 = 8,
    OPS_Q2_K = 10,
    OPS_Q3_K = 11,
    OPS_Q4_K = 12,
    OPS_Q5_K = 13,
    OPS_Q6_K = 14,
    OPS_IQ4_NL = 20,
    OPS_IQ4_XS = 23,
    OPS_BF16 = 30,
};

struct ops_type_info {
    const char *name;     /* as the field writes it: "Q8_0" */
    uint32_t block_len;   /* elements in a block; a row is a whole number of blocks */
    uint32_t block_bytes; /* bytes of a block in a GGUF file */
};

/* The description of a GGUF type id, or NULL where ops has no kernel for it. */
const struct ops_type_info *ops_type_info(uint32_t gguf_type);

/* The name of any GGUF type id that the format defines, also those without a kernel; NULL for an
 * id that the format does not define. For messages. */
const char *ops_type_name(uint32_t gguf_type);

#endif
