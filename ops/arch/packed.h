/* The packed form of a block, type by type: what ops/matrix.c writes and the kernels read.
 *
 * A group of 16 rows is one run of memory, in the order in which a kernel wants it, so that whoever reads
 * it reads forward alone (docs/benchmarks.md, "One run of memory"): for each block a line of its f16
 * numbers, each of all 16 rows side by side, then its body; where a block has one such number two blocks
 * share a line, which stands before both. A body is the block's 32-bit words in the order of the file
 * (without the f16 numbers; Q3_K's and Q6_K's in that of their use, ops_packed_word), each word of all 16
 * rows side by side: the one at place w is, of row r, at 64 w + 4 r. The word of fifth bits of Q5_0 and
 * Q5_1 is turned so that bit j of byte k belongs to input 4 j + k. Floats are blocks of one element that are
 * all number or all body. */
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

/* The place in a body of word w of the file's block. Q3_K and Q6_K have their scales last, which are wanted
 * first, and Q6_K its upper bits after the nibbles that they belong to. */
static inline size_t ops_packed_word(enum ops_type type, size_t w)
{
    if (type == OPS_Q3_K) /* third bits 8, 2-bit 16, scales 3: the scales first */
        return (w + 3) % 27;
    if (type == OPS_Q6_K) { /* of each half nibbles 16; of each half upper bits 8; scales 4 */
        if (w < 32)
            return 4 + w / 16 * 24 + 8 + w % 16;
        return w < 48 ? 4 + (w - 32) / 8 * 24 + w % 8 : w - 48;
    }
    return w;
}

/* Where the f16 numbers of block b are in a group. */
static inline size_t ops_packed_halves_at(enum ops_type type, size_t b)
{
    const struct ops_packing packing = ops_packing(type);
    const size_t body = packing.words * OPS_WORD_BYTES;

    if (packing.halves == 1)
        return b / 2 * (2 * OPS_HALF_BYTES + 2 * body) + b % 2 * OPS_HALF_BYTES;
    return b * (packing.halves * OPS_HALF_BYTES + body);
}

/* Where the body of block b is in a group. */
static inline size_t ops_packed_body_at(enum ops_type type, size_t b)
{
    const struct ops_packing packing = ops_packing(type);
    const size_t body = packing.words * OPS_WORD_BYTES;

    if (packing.halves == 1)
        return b / 2 * (2 * OPS_HALF_BYTES + 2 * body) + 2 * OPS_HALF_BYTES + b % 2 * body;
    return b * (packing.halves * OPS_HALF_BYTES + body) + packing.halves * OPS_HALF_BYTES;
}

/* Whether the line of f16 numbers before block b is new with it. */
static inline int ops_packed_begins_line(enum ops_type type, size_t b)
{
    return ops_packing(type).halves != 1 || b % 2 == 0;
}

/* The values of IQ4_NL and IQ4_XS, plus 128. */
static const uint8_t ops_iq4_values[16] __attribute__((unused)) = {
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

#endif
