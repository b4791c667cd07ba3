/* The matrix kernels: groups of packed rows times a tile of tokens. A lane is an output row and
 * sums run over the inputs in increasing order, so that the bits are the same in every unit that
 * includes this. The includer defines OPS_SET. */
#include "ops/arch/dot.h"
#include "ops/arch/matmul_kernels.h"
#include "ops/arch/packed.h"
#include "ops/matrix.h"

/* Where weights go by once, for no more than one tile of tokens, each line that is used asks for one
 * far ahead, into the second-level cache, and for one that comes soon, into the first. The first level
 * alone has too few fill buffers to cover the memory's latency while the processor computes, and four
 * KiB ahead, where its own prefetcher begins a new page, is worst of all (docs/benchmarks.md, "Decode
 * and the memory"). */
#define OPS_FAR_BYTES  16384
#define OPS_NEAR_BYTES 512

/* Where one token alone asks for each line once (matmul_one_kernel.h): well within a first level, and
 * more than what a core gets of the memory in its latency (docs/benchmarks.md). */
#define OPS_ONCE_BYTES 6144

OPS_INLINE void fetch_ahead(const uint8_t *line)
{
    __builtin_prefetch(line + OPS_FAR_BYTES, 0, 2);
    __builtin_prefetch(line + OPS_NEAR_BYTES);
}

/* Where n_side groups go by together: how far from a line at `at` of one of them that is which comes so
 * much later. After the end of these groups come those behind all of them. */
OPS_INLINE size_t far_bytes(const struct ops_matmul_work *work, size_t at, const int n_side)
{
    return at + OPS_FAR_BYTES < work->group_bytes
               ? OPS_FAR_BYTES
               : OPS_FAR_BYTES + (size_t)(n_side - 1) * work->group_bytes;
}

/* Where tokens take several passes over some weights, each fetches its share, so that memory is asked all
 * the time. */
OPS_INLINE size_t fetch_turns(unsigned n_tokens)
{
    return (n_tokens + OPS_TOKENS_MAX - 1) / OPS_TOKENS_MAX;
}

/* Lines at `at` of n_side groups from `group` on. */
OPS_INLINE void fetch_groups_ahead(const struct ops_matmul_work *work, uint32_t group,
                                   const int n_side, size_t at, size_t n_bytes)
{
    const uint8_t *p = work->groups + group * work->group_bytes + at;
    const size_t far = far_bytes(work, at, n_side);

    OPS_UNROLL
    for (int s = 0; s < n_side; s++, p += work->group_bytes)
        for (size_t line = 0; line < n_bytes; line += 64)
            __builtin_prefetch(p + line + far, 0, 2);
}

/* Block b of n_side groups, with the line of f16 numbers that begins before it. */
OPS_INLINE void fetch_block_ahead(const enum ops_type type, const struct ops_matmul_work *work,
                                  uint32_t group, const int n_side, size_t b)
{
    const size_t body = ops_packed_body_at(type, b);
    const size_t from = ops_packed_begins_line(type, b) ? ops_packed_halves_at(type, b) : body;
    const size_t end = body + ops_packing(type).words * OPS_WORD_BYTES;

    fetch_groups_ahead(work, group, n_side, from, end - from);
}

/* Writes one part of a group's rows for one token: y = acc, + bias, then y + that if adding. */
OPS_INLINE void store_part(const struct ops_matmul_work *work, uint32_t group, int part,
                           unsigned token, part_f acc)
{
    const uint32_t row = group * OPS_GROUP_ROWS + (uint32_t)part * OPS_PART_ROWS;
    float *y = work->y + token * work->y_stride + row;

    if (row + OPS_PART_ROWS <= work->n_rows) {
        if (work->bias)
            acc = pf_add(acc, pf_load(work->bias + row));
        if (work->add)
            acc = pf_add(pf_load(y), acc);
        pf_store(y, acc);
    } else if (row < work->n_rows) {
        const int n = (int)(work->n_rows - row);
        if (work->bias)
            acc = pf_add(acc, pf_load_n(work->bias + row, n));
        if (work->add)
            acc = pf_add(pf_load_n(y, n), acc);
        pf_store_n(y, acc, n);
    }
}

/* Blocks of weights that stay in the first-level cache while all tokens pass. */
#define OPS_RUN_BLOCKS 16

/* fn(type, arg, n_side, first, n) for all tokens, in parts that are nearly equal and of OPS_TOKENS_MAX
 * at most; n is a constant in each. */
#define OPS_EACH_TOKENS(fn, type, arg, n_side, n_tokens)                                           \
    for (unsigned first = 0, n; first < (n_tokens); first += n) {                                  \
        const unsigned left = (n_tokens)-first;                                                    \
        const unsigned n_parts = (left + OPS_TOKENS_MAX - 1) / OPS_TOKENS_MAX;                     \
        n = (left + n_parts - 1) / n_parts;                                                        \
        if (n == OPS_TOKENS_MAX)                                                                   \
            fn(type, arg, n_side, first, OPS_TOKENS_MAX);                                          \
        else if (OPS_TOKENS_MAX > 3 && n == 3)                                                     \
            fn(type, arg, n_side, first, 3);                                                       \
        else if (OPS_TOKENS_MAX > 3)                                                               \
            fn(type, arg, n_side, first, 2);                                                       \
        else                                                                                       \
            fn(type, arg, n_side, first, 1);                                                       \
    }

#include "ops/arch/matmul_float_kernel.h"

#include "ops/arch/matmul_block32_kernel.h"

#include "ops/arch/matmul_block256_kernel.h"

#include "ops/arch/matmul_one_kernel.h"

/* Whether groups go by one after the other: few tokens leave time, and what counts is that memory is one
 * long run. */
OPS_INLINE bool goes_alone(const struct ops_matmul_work *work)
{
    return OPS_SIDE == 1 || (work->is_only_tile && work->tile.n_tokens <= OPS_TOKENS_MAX);
}

#define MULTIPLY(name, block_len, type)                                                            \
    static void name(const struct ops_matmul_work *work)                                           \
    {                                                                                              \
        uint32_t g = 0;                                                                            \
        if (work->tile.n_tokens == 1) {                                                            \
            if (OPS_ONE_WAYS == 2 && work->fetch_once)                                             \
                one_token##block_len(type, true, work);                                            \
            else                                                                                   \
                one_token##block_len(type, false, work);                                           \
            return;                                                                                \
        }                                                                                          \
        for (; !goes_alone(work) && g + OPS_SIDE <= work->n_groups; g += OPS_SIDE)                 \
            block##block_len##_groups(type, work, g, OPS_SIDE);                                    \
        for (; g < work->n_groups; g++)                                                            \
            block##block_len##_groups(type, work, g, 1);                                           \
    }
MULTIPLY(multiply_q4_0, 32, OPS_Q4_0)
MULTIPLY(multiply_q4_1, 32, OPS_Q4_1)
MULTIPLY(multiply_q5_0, 32, OPS_Q5_0)
MULTIPLY(multiply_q5_1, 32, OPS_Q5_1)
MULTIPLY(multiply_q8_0, 32, OPS_Q8_0)
MULTIPLY(multiply_iq4_nl, 32, OPS_IQ4_NL)
MULTIPLY(multiply_q2_k, 256, OPS_Q2_K)
MULTIPLY(multiply_q3_k, 256, OPS_Q3_K)
MULTIPLY(multiply_q4_k, 256, OPS_Q4_K)
MULTIPLY(multiply_q5_k, 256, OPS_Q5_K)
MULTIPLY(multiply_q6_k, 256, OPS_Q6_K)
MULTIPLY(multiply_iq4_xs, 256, OPS_IQ4_XS)

/* What takes fewer tokens than a full tile. */
#ifdef __AMX_INT8__
#include "ops/arch/matmul_amx_kernel.h"
#define PART_TILE(type) amx_part_##type
#else
#define PART_TILE(type) multiply_##type
#endif

#include "ops/arch/quantize_kernel.h"

const struct ops_matmul_kernels OPS_SET_NAME(ops_matmul_kernels) = {
    .multiply =
        {
            [OPS_F32] = multiply_f32,
            [OPS_F16] = multiply_f16,
            [OPS_BF16] = multiply_bf16,
            [OPS_Q4_0] = PART_TILE(q4_0),
            [OPS_Q4_1] = PART_TILE(q4_1),
            [OPS_Q5_0] = PART_TILE(q5_0),
            [OPS_Q5_1] = PART_TILE(q5_1),
            [OPS_Q8_0] = PART_TILE(q8_0),
            [OPS_IQ4_NL] = PART_TILE(iq4_nl),
            [OPS_Q2_K] = PART_TILE(q2_k),
            [OPS_Q3_K] = PART_TILE(q3_k),
            [OPS_Q4_K] = PART_TILE(q4_k),
            [OPS_Q5_K] = PART_TILE(q5_k),
            [OPS_Q6_K] = PART_TILE(q6_k),
            [OPS_IQ4_XS] = PART_TILE(iq4_xs),
        },
#ifdef __AMX_INT8__
    .multiply_tiles =
        {
            [OPS_Q4_0] = amx_multiply_q4_0,
            [OPS_Q4_1] = amx_multiply_q4_1,
            [OPS_Q5_0] = amx_multiply_q5_0,
            [OPS_Q5_1] = amx_multiply_q5_1,
            [OPS_Q8_0] = amx_multiply_q8_0,
            [OPS_IQ4_NL] = amx_multiply_iq4_nl,
            [OPS_Q2_K] = amx_multiply_q2_k,
            [OPS_Q3_K] = amx_multiply_q3_k,
            [OPS_Q4_K] = amx_multiply_q4_k,
            [OPS_Q5_K] = amx_multiply_q5_k,
            [OPS_Q6_K] = amx_multiply_q6_k,
            [OPS_IQ4_XS] = amx_multiply_iq4_xs,
        },
#endif
    .finite = finite_row,
    .quantize32 = quantize32,
    .quantize256 = quantize256,
};
