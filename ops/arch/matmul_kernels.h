/* What the matrix kernels of one instruction set offer to ops/input.c and ops/matmul.c. */
#ifndef QUERN_OPS_ARCH_MATMUL_KERNELS_H
#define QUERN_OPS_ARCH_MATMUL_KERNELS_H

#include "ops/type.h"

#include <stdbool.h>
#include <stddef.h>

#define OPS_TILE_TOKENS 16 /* tokens of a tile; the last tile of an input may hold fewer */

/* Below this the largest magnitude of a block counts as zero: 127 / amax stays finite and d = amax / 127
 * stays normal. */
#define OPS_AMAX_MIN 0x1p-100f

/* Offsets that make the weights of a type unsigned: a dot starts from -offset · Σ activations. */
enum ops_start { OPS_START_8, OPS_START_16, OPS_START_128, OPS_N_START };

/* The activations of one tile: `width` tokens interleaved in every plane, of which the first n_tokens
 * are wanted. */
struct ops_tile {
    unsigned width;                      /* 1 … OPS_TILE_TOKENS */
    unsigned n_tokens;                   /* 1 … width */
    const float *x;                      /* (n_cols, width): what float weights multiply */
    const int8_t *q32;                   /* (n_cols / 32, width, 32): blocks of 32 */
    const float *d32;                    /* (n_cols / 32, width): scale */
    const float *ds32;                   /* (n_cols / 32, width): scale · Σ q, for minimums */
    const int32_t *start32[OPS_N_START]; /* (n_cols / 32, width): where a dot starts, in the form of
                                            the set's dot (ops/arch/dot.h) */
    const int8_t *q256;                  /* (n_cols / 32, width, 32): blocks of 256 */
    const float *d256;                   /* (n_cols / 256, width) */
    const int32_t
        *sums256; /* (n_cols / 256, width, 12): int16 pairs of Σ q. First 8: over 16 inputs,
                               pair 2v is (4v, 4v + 2), pair 2v + 1 is (4v + 1, 4v + 3); then 4 over
                               32 inputs in the same order */
};

#define OPS_SUMS256_PAIRS 12

/* Full tiles to one call of multiply_tiles at most. */
#define OPS_TILES_MAX 8

/* Some groups of a matrix times one tile, or several that follow one another. */
struct ops_matmul_work {
    const uint8_t *groups; /* the first packed group */
    size_t group_bytes;
    uint32_t n_groups;
    uint32_t n_rows; /* valid rows from the first group on, ≤ 16 n_groups */
    uint32_t n_cols;
    struct ops_tile tile; /* the first */
    bool is_only_tile;    /* the weights go by once: they come from memory */
    bool fetch_once;      /* one token: how its weights are fetched ahead (matmul_one_kernel.h) */
    uint32_t n_tiles;     /* multiply_tiles only: all full, 1 … OPS_TILES_MAX */
    float *y;             /* first token of the tile, first row of the first group */
    size_t y_stride;
    const float *bias; /* of the first row, or NULL */
    bool add;
};

/* The blocks of one token of a tile, to be made from a row of floats. */
struct ops_quantized {
    unsigned width;
    int8_t *q;
    float *d;
    float *ds;                   /* blocks of 32 only */
    int32_t *start[OPS_N_START]; /* blocks of 32 only */
    int32_t *sums;               /* blocks of 256 only */
};

struct ops_matmul_kernels {
    void (*multiply[OPS_BF16 + 1])(const struct ops_matmul_work *work); /* by enum ops_type */
    /* Where the set has something better for full tiles, else NULL. */
    void (*multiply_tiles[OPS_BF16 + 1])(const struct ops_matmul_work *work);
    /* Whether all n values are finite. */
    bool (*finite)(const float *x, size_t n);
    /* n a multiple of 32 or 256; x NULL stands for zeros. */
    void (*quantize32)(const float *x, size_t n, const struct ops_quantized *to);
    void (*quantize256)(const float *x, size_t n, const struct ops_quantized *to);
};

extern const struct ops_matmul_kernels ops_matmul_kernels_scalar, ops_matmul_kernels_avx2,
    ops_matmul_kernels_avx512, ops_matmul_kernels_avx512vnni, ops_matmul_kernels_amx;

/* The table of the set in use. */
const struct ops_matmul_kernels *ops_matmul_kernels(void);

#endif
