/* The kernels of attention, once per instruction set. See ops/attention.h for the layout of a page
 * and the definition of the result, ops/attention.c for who calls them. */
#ifndef QUERN_OPS_ARCH_ATTENTION_KERNELS_H
#define QUERN_OPS_ARCH_ATTENTION_KERNELS_H

#include "ops/attention.h"

#define OPS_ATTENTION_BLOCK       128  /* positions between two looks at the maximum */
#define OPS_ATTENTION_SPLIT       1024 /* positions computed from scratch */
#define OPS_ATTENTION_BLOCK_PAGES (OPS_ATTENTION_BLOCK / OPS_KV_PAGE)

/* One thread's working memory for the rows of a tile; 64-byte aligned arrays. */
struct ops_attention_scratch {
    float *q;      /* (rows, head_dim), times log2(e) / sqrt(head_dim) */
    float *scores; /* (rows, OPS_ATTENTION_BLOCK): scores, then their powers of 2 */
    float *lanes;  /* (rows, 16): partial sums of the powers */
    float *shrink; /* (rows): what a new maximum does to what was summed before */
    float *keys;   /* (OPS_ATTENTION_BLOCK / 16, head_dim, 16) converted to float32 */
    float *values; /* (OPS_ATTENTION_BLOCK, head_dim) converted to float32 */
    float *scales; /* (head_dim / 32, OPS_ATTENTION_BLOCK): Q8_0, of the values */
    /* A split's result. */
    float *max; /* (rows), in units of log2 */
    float *sum; /* (rows) */
    float *out; /* (rows, head_dim), not yet divided by sum */
    /* The fold of the splits so far. */
    float *all_max, *all_sum, *all_out;
};

/* The query rows that share each load: `group` heads of each of n_tokens consecutive tokens. Row
 * token * group + head. */
struct ops_attention_tile {
    enum ops_kv_type type;
    uint32_t head_dim;
    uint32_t group;
    uint32_t first_position;
    uint32_t n_tokens;
    uint8_t *const *pages;
    size_t head_offset; /* bytes from the start of a page to this KV head */
    struct ops_attention_scratch *scratch;
};

struct ops_attention_kernels {
    /* Writes one position's key and value (head_dim floats each) at `slot` of a page's KV head. */
    void (*store)(enum ops_kv_type type, uint32_t head_dim, uint8_t *head, uint32_t slot,
                  const float *k, const float *v);
    /* dst = src · factor, n floats, a multiple of 16. */
    void (*scale)(size_t n, float factor, const float *src, float *dst);
    /* Computes the split that starts at `begin` from scratch, for every row of the tile whose
     * position is at or after it; fills max, sum and out of those rows. `next`: what is probably
     * read afterwards (a KV head of each page of a block), which a tile of one token fetches. */
    void (*split)(const struct ops_attention_tile *tile, uint32_t begin,
                  const uint8_t *const next[OPS_ATTENTION_BLOCK_PAGES]);
    /* Adds a split's (max, sum, out) of one row to (all_max, all_sum, all_out). */
    void (*fold)(uint32_t head_dim, float max, float sum, const float *out, float *all_max,
                 float *all_sum, float *all_out);
    /* dst = out / sum, for head_dim floats. */
    void (*finish)(uint32_t head_dim, float sum, const float *out, float *dst);
};

extern const struct ops_attention_kernels ops_attention_kernels_scalar;
extern const struct ops_attention_kernels ops_attention_kernels_avx2;
extern const struct ops_attention_kernels ops_attention_kernels_avx512;

#endif
