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

OPS_INLINE void fetch_ahead(const uint8_t *line)
{
    __builtin_prefetch(line + OPS_FAR_BYTES, 0, 2);
    __builtin_prefetch(line + OPS_NEAR_BYTES);
}

OPS_INLINE void fetch_lines_ahead(const uint8_t *p, size_t n_bytes)
{
    for (size_t line = 0; line < n_bytes; line += 64)
        fetch_ahead(p + line);
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

#include "ops/arch/matmul_float_kernel.h"

#include "ops/arch/matmul_block32_kernel.h"

#include "ops/arch/matmul_block256_kernel.h"

#include "ops/arch/matmul_one_kernel.h"

#define MULTIPLY(name, block_len, type)                                                            \
    static void name(const struct ops_matmul_work *work)                                           \
    {                                                                                              \
        if (work->tile.n_tokens == 1) {                                                            \
            for (uint32_t g = 0; g < work->n_groups; g++)                                          \
                one_group##block_len(type, work, g);                                               \
            return;                                                                                \
        }                                                                                          \
        for (uint32_t g = 0; g < work->n_groups; g++)                                              \
            block##block_len##_group(type, work, g);                                               \
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
