/* Packed weight matrices: rows in groups of 16, so that a SIMD lane is an output row.
 *
 * A group of 16 rows is contiguous and 64-byte aligned: for each block of inputs the 16 rows' f16 scales
 * and its 32-bit words, each of all 16 rows side by side (4 consecutive inputs of a row in a
 * lane; ops/arch/packed.h). Packing permutes and never re-quantizes: every type keeps its own width. Rows that pad the last group are zero. */
#ifndef QUERN_OPS_MATRIX_H
#define QUERN_OPS_MATRIX_H

#include "ops/type.h"

#include <stddef.h>

#define OPS_GROUP_ROWS 16

struct ops_matrix {
    enum ops_type type;
    uint32_t n_rows;     /* outputs */
    uint32_t n_cols;     /* inputs; a whole number of the type's blocks */
    const uint8_t *data; /* packed, 64-byte aligned, ops_matrix_bytes() long; not owned */
};

/* Bytes of one packed group of 16 rows (a multiple of 64); 0 if n_cols is no whole number of
 * blocks or the product overflows. */
size_t ops_matrix_group_bytes(enum ops_type type, uint32_t n_cols);

/* Bytes of a packed matrix: ceil(n_rows / 16) groups; 0 on overflow or a bad n_cols. */
size_t ops_matrix_bytes(enum ops_type type, uint32_t n_rows, uint32_t n_cols);

/* Packs n_rows ≤ 16 rows of file data (row-major, src_stride bytes apart, no alignment asked) into
 * one group at dst. Reads n_rows whole rows and writes exactly ops_matrix_group_bytes(). */
void ops_matrix_pack_group(enum ops_type type, uint32_t n_cols, uint32_t n_rows, const void *src,
                           size_t src_stride, void *dst);

/* Row `row` as float32 into dst[n_cols]: the embedding lookup of a tied matrix reads this. The
 * bits are those of the type's definition, computed in float32 (d * q, then + m). */
void ops_matrix_row(const struct ops_matrix *matrix, uint32_t row, float *dst);

#endif
