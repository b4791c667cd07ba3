/* The packed form of a block, type by type: what ops/matrix.c writes and the kernels read.
 *
 * A group of 16 rows is a body for each block, then a plane entry for each block. A body is the
 * block's 32-bit words in the order of the file (without the f16 numbers), each word of all 16 rows
 * side by side: word w of row r is at 64 w + 4 r. A plane entry is the f16 numbers, each of all 16
 * rows side by side. The word of fifth bits of Q5_0 and Q5_1 is turned so that bit j of byte k
 * belongs to input 4 j + k. Floats are blocks of one element and no plane. */
#ifndef QUERN_OPS_ARCH_PACKED_H
#define QUERN_OPS_ARCH_PACKED_H

#include "ops/type.h"

#include <stddef.h>

struct ops_packing {
    uint16_t words;        /* 32-bit words of the body */
    uint16_t words_offset; /* in the file's block, where they are consecutive */
    uint16_t halves;       /* f16 numbers */
    uint16_t halves_offset;
};

static inline struct ops_packing ops_packing(enum ops_type type)
{
    switch (type) {
    case OPS_Q4_0:
    case OPS_IQ4_NL:
        return (struct ops_packing){4, 2, 1, 0}; /* d | 16 bytes of nibbles */
    case OPS_Q4_1:
        return (struct ops_packing){4, 4, 2, 0}; /* d, m | nibbles */
    case OPS_Q5_0:
        return (struct ops_packing){5, 2, 1, 0}; /* d | fifth bits, nibbles */
    case OPS_Q5_1:
        return (struct ops_packing){5, 4, 2, 0}; /* d, m | fifth bits, nibbles */
    case OPS_Q8_0:
        return (struct ops_packing){8, 2, 1, 0}; /* d | 32 signed bytes */
    case OPS_Q2_K:
        return (struct ops_packing){20, 0, 2, 80}; /* scales and minimums 16, 2-bit 64 | d, dmin */
    case OPS_Q3_K:
        return (struct ops_packing){27, 0, 1, 108}; /* third bits 32, 2-bit 64, scales 12 | d */
    case OPS_Q4_K:
        return (struct ops_packing){35, 4, 2, 0}; /* d, dmin | scales 12, nibbles 128 */
    case OPS_Q5_K:
        return (struct ops_packing){43, 4, 2, 0}; /* d, dmin | scales 12, fifth 32, nibbles 128 */
    case OPS_Q6_K:
        return (struct ops_packing){52, 0, 1, 208}; /* nibbles 128, upper 64, scales 16 | d */
    case OPS_IQ4_XS:
        return (struct ops_packing){33, 4, 2,
                                    0}; /* d, upper scales | lower scales 4, nibbles 128 */
    case OPS_F32:
        return (struct ops_packing){1, 0, 0, 0};
    case OPS_F16:
    case OPS_BF16:
        return (struct ops_packing){0, 0, 1, 0};
    }
    return (struct ops_packing){0, 0, 0, 0};
}

#define OPS_WORD_BYTES ((size_t)64) /* a word of 16 rows */
#define OPS_HALF_BYTES ((size_t)32) /* an f16 of 16 rows */

/* The values of IQ4_NL and IQ4_XS, plus 128. */
static const uint8_t ops_iq4_values[16] __attribute__((unused)) = {
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

#endif
