/* Grouped-query attention over paged keys and values.
 *
 * A KV page holds OPS_KV_PAGE positions of one layer, and each KV head of it one run of memory that
 * is read from end to end, 32 lanes (a cache line of float16) at a time: the keys with positions as
 * lanes, (page / 32, head_dim, 32), then the values with dimensions as lanes, (head_dim / 32, page,
 * 32), the last of them 16 wide where head_dim is an odd multiple of 16. Q8_0 has int8 in both,
 * then the float16 scales of the keys and of the values, (head_dim / 32, page) each: one for 32
 * dimensions of one position.
 *
 * What the result is, for each query row (token and head), in float32 by rows, so that it depends
 * on the position alone and not on how the prompt was cut, who sat beside it, or the threads:
 *   - a key or value is the stored number, exact in float32 (Q8_0: scale · q, 11 + 7 bits);
 *   - score = Σ fma(q' , k), dimensions ascending, q' = q · (log2 e / sqrt(head_dim)) rounded once;
 *   - in blocks of 128 absolute positions, the running maximum m, then p = 2^(score - m), sums and
 *     output scaled by 2^(old m - m), sum of p by position mod 16, output = fma(p, v, output) in
 *     ascending positions; masked positions are skipped;
 *   - splits of 1,024 absolute positions start from scratch; their (m, sum, output) are folded in
 *     ascending order, in prefill too, and the output is multiplied by 1 / sum at the end.
 * A NaN or an infinity in q, or in a stored key or value (float16 overflows beyond 65,504), comes
 * out as NaN in the rows that see it. */
#ifndef QUERN_OPS_ATTENTION_H
#define QUERN_OPS_ATTENTION_H

#include "ops/pool.h"

#include <stddef.h>
#include <stdint.h>

#define OPS_KV_PAGE 64 /* positions in a page; divides 128 */

enum ops_kv_type { OPS_KV_F32, OPS_KV_F16, OPS_KV_Q8_0 }; /* Q8_0: head_dim in whole 32s */

struct ops_attention_shape {
    uint32_t n_heads;
    uint32_t n_kv_heads; /* divides n_heads */
    uint32_t head_dim;   /* a multiple of 16, ≤ 256 */
    enum ops_kv_type type;
};

/* Bytes of one page of one layer; a multiple of 64. 0 if the shape or type is not computed. */
size_t ops_kv_page_bytes(const struct ops_attention_shape *shape);

/* A run of consecutive new tokens of one sequence. */
struct ops_attention_span {
    uint8_t *const *pages; /* pages[p / OPS_KV_PAGE] is this layer's page of position p, 64-byte
                              aligned; enough of them for first_position + n_tokens */
    uint32_t first_position;
    uint32_t n_tokens;
    const float *q; /* (n_tokens, n_heads, head_dim), rotated, q_stride floats between tokens */
    const float *k; /* (n_tokens, n_kv_heads, head_dim), rotated, kv_stride between tokens */
    const float *v; /* the same shape */
    float *out;     /* (n_tokens, n_heads, head_dim), out_stride floats between tokens */
};

/* Working memory: a tile of rows for each thread, and the results of splits that different threads
 * compute. Serves batches of up to max_tokens tokens, positions below max_context. One run at a
 * time. Returns 0, -EINVAL for a shape that is not computed, or -ENOMEM. */
struct ops_attention;
int ops_attention_new(struct ops_attention **ret, const struct ops_attention_shape *shape,
                      size_t max_tokens, uint32_t max_context, unsigned n_threads);
void ops_attention_free(struct ops_attention *attention);
/* What ops_attention_new allocates, for the memory budget; 0 where it would refuse. */
size_t ops_attention_bytes(const struct ops_attention_shape *shape, size_t max_tokens,
                           uint32_t max_context, unsigned n_threads);

/* Stores k and v of every span in its pages, then computes softmax(q kᵀ / sqrt(head_dim)) v,
 * causal, for every token of every span. Spans are of different sequences, none empty. */
void ops_attention_run(struct ops_pool *pool, struct ops_attention *attention,
                       const struct ops_attention_span *spans, size_t n_spans, size_t q_stride,
                       size_t kv_stride, size_t out_stride);

#endif
