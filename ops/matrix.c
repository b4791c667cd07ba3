/* Packing of weight matrices and reading rows back. The packed form is in ops/arch/packed.h; the
 * meaning of a block is that of the GGUF format, with every value computed in float32. */
#include "ops/matrix.h"

#include "ops/arch/half.h"
#include "ops/arch/packed.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF words are read as they lie");

static size_t body_bytes(enum ops_type type)
{
    return ops_packing(type).words * OPS_WORD_BYTES;
}

size_t ops_matrix_group_bytes(enum ops_type type, uint32_t n_cols)
{
    const struct ops_type_info *info = ops_type_info(type);

    if (!info || !n_cols || n_cols % info->block_len)
        return 0;
    const size_t n_blocks = n_cols / info->block_len; /* of 4 KiB at most: no overflow of 64 bits */
    const size_t halves = n_blocks * ops_packing(type).halves * OPS_HALF_BYTES;
    return n_blocks * body_bytes(type) + ((halves + 63) & ~(size_t)63);
}

size_t ops_matrix_bytes(enum ops_type type, uint32_t n_rows, uint32_t n_cols)
{
    const size_t n_groups = ((size_t)n_rows + OPS_GROUP_ROWS - 1) / OPS_GROUP_ROWS;
    size_t bytes;

    if (__builtin_mul_overflow(n_groups, ops_matrix_group_bytes(type, n_cols), &bytes))
        return 0;
    return bytes;
}

/* Bit i of a word of fifth bits to byte i % 4, bit i / 4; and back. */
static uint32_t turn_fifth_bits(uint32_t bits)
{
    uint32_t turned = 0;

    for (int i = 0; i < 32; i++)
        turned |= (bits >> i & 1) << (i % 4 * 8 + i / 4);
    return turned;
}

static uint32_t turn_back_fifth_bits(uint32_t turned)
{
    uint32_t bits = 0;

    for (int i = 0; i < 32; i++)
        bits |= (turned >> (i % 4 * 8 + i / 4) & 1) << i;
    return bits;
}

static bool has_fifth_bits(enum ops_type type)
{
    return type == OPS_Q5_0 || type == OPS_Q5_1;
}

void ops_matrix_pack_group(enum ops_type type, uint32_t n_cols, uint32_t n_rows, const void *src,
                           size_t src_stride, void *dst)
{
    const struct ops_packing packing = ops_packing(type);
    const struct ops_type_info *info = ops_type_info(type);
    const size_t n_blocks = n_cols / info->block_len;

    assert(n_rows <= OPS_GROUP_ROWS);
    if (n_rows < OPS_GROUP_ROWS)
        memset(dst, 0, ops_matrix_group_bytes(type, n_cols));
    else if (packing.halves == 1 && n_blocks % 2) /* the last has no neighbour in its line */
        memset((uint8_t *)dst + ops_packed_halves_at(type, n_blocks), 0, OPS_HALF_BYTES);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *const words = (uint8_t *)dst + ops_packed_body_at(type, b);
        uint8_t *const halves = (uint8_t *)dst + ops_packed_halves_at(type, b);
        /* The rows of a group are streams too short for the processor to see: so a group ahead, in
         * the order of its bytes. */
        const size_t block_rows = OPS_GROUP_ROWS * info->block_bytes;
        const uint8_t *ahead = (const uint8_t *)src + OPS_GROUP_ROWS * src_stride + b * block_rows;
        for (size_t i = 0; i < block_rows; i += 64)
            __builtin_prefetch(ahead + i);
        for (uint32_t r = 0; r < n_rows; r++) {
            const uint8_t *block = (const uint8_t *)src + r * src_stride + b * info->block_bytes;
            for (size_t w = 0; w < packing.words; w++) {
                uint32_t word;
                memcpy(&word, block + packing.words_offset + 4 * w, 4);
                if (w == 0 && has_fifth_bits(type))
                    word = turn_fifth_bits(word);
                memcpy(words + ops_packed_word(type, w) * OPS_WORD_BYTES + 4 * r, &word, 4);
            }
            for (size_t h = 0; h < packing.halves; h++)
                memcpy(halves + h * OPS_HALF_BYTES + 2 * r, block + packing.halves_offset + 2 * h,
                       2);
        }
    }
}

/* One row's block gathered from its group. */
struct row_block {
    union {
        uint32_t words[52];
        uint8_t bytes[208]; /* the same, as the file has them */
    } body;
    float half[2]; /* d, then m or dmin */
    uint16_t half_bits[2];
};

static void gather_block(const struct ops_matrix *matrix, uint32_t row, size_t b,
                         struct row_block *block)
{
    const struct ops_packing packing = ops_packing(matrix->type);
    const uint8_t *group =
        matrix->data + row / OPS_GROUP_ROWS * ops_matrix_group_bytes(matrix->type, matrix->n_cols);
    const size_t lane = row % OPS_GROUP_ROWS;
    const uint8_t *words = group + ops_packed_body_at(matrix->type, b);
    const uint8_t *halves = group + ops_packed_halves_at(matrix->type, b);

    for (size_t w = 0; w < packing.words; w++)
        memcpy(&block->body.words[w],
               words + ops_packed_word(matrix->type, w) * OPS_WORD_BYTES + 4 * lane, 4);
    if (has_fifth_bits(matrix->type))
        block->body.words[0] = turn_back_fifth_bits(block->body.words[0]);
    for (size_t h = 0; h < packing.halves; h++) {
        memcpy(&block->half_bits[h], halves + h * OPS_HALF_BYTES + 2 * lane, 2);
        block->half[h] = ops_float_of_f16(block->half_bits[h]);
    }
}

static void expand_block32(enum ops_type type, const struct row_block *block, float *dst)
{
    const uint8_t *bytes = block->body.bytes;
    const float d = block->half[0], m = block->half[1];
    const uint32_t fifth = has_fifth_bits(type) ? block->body.words[0] : 0;
    const uint8_t *nibbles = bytes + (has_fifth_bits(type) ? 4 : 0);

    for (int i = 0; i < 32; i++) {
        const int nibble = nibbles[i % 16] >> (i / 16 * 4) & 15;
        const int u = nibble | (int)(fifth >> i & 1) << 4;
        switch (type) {
        case OPS_Q4_0:
            dst[i] = d * (float)(u - 8);
            break;
        case OPS_Q5_0:
            dst[i] = d * (float)(u - 16);
            break;
        case OPS_Q8_0:
            dst[i] = d * (float)(int8_t)bytes[i];
            break;
        case OPS_IQ4_NL:
            dst[i] = d * (float)(ops_iq4_values[u] - 128);
            break;
        default: /* Q4_1, Q5_1 */
            dst[i] = d * (float)u + m;
        }
    }
}

/* Scale and minimum of sub-block s of Q4_K and Q5_K, 6 bits each, from their 12 bytes. */
static void read_k4_scale(const uint8_t *bytes, int s, int *scale, int *minimum)
{
    if (s < 4) {
        *scale = bytes[s] & 63;
        *minimum = bytes[s + 4] & 63;
    } else {
        *scale = (bytes[s + 4] & 15) | bytes[s - 4] >> 6 << 4;
        *minimum = bytes[s + 4] >> 4 | bytes[s] >> 6 << 4;
    }
}

static int read_q3_k_scale(const uint8_t *bytes, int s)
{
    const int low = s < 8 ? bytes[s] & 15 : bytes[s - 8] >> 4;

    return (low | (bytes[8 + s % 4] >> (s / 4 * 2) & 3) << 4) - 32;
}

static float value256(enum ops_type type, const struct row_block *block, int i)
{
    const uint8_t *bytes = block->body.bytes;
    const float d = block->half[0], dmin = block->half[1];
    const int run = i / 32, at = i % 32, half = i / 128;
    int scale, minimum, u;

    switch (type) {
    case OPS_Q2_K:
        scale = bytes[i / 16];
        u = bytes[16 + 32 * half + at] >> (run % 4 * 2) & 3;
        return d * (float)(scale & 15) * (float)u - dmin * (float)(scale >> 4);
    case OPS_Q3_K:
        u = (bytes[32 + 32 * half + at] >> (run % 4 * 2) & 3) | (bytes[at] >> run & 1) << 2;
        return d * (float)read_q3_k_scale(bytes + 96, i / 16) * (float)(u - 4);
    case OPS_Q4_K:
        read_k4_scale(bytes, run, &scale, &minimum);
        u = bytes[12 + 32 * (run / 2) + at] >> (run % 2 * 4) & 15;
        return d * (float)scale * (float)u - dmin * (float)minimum;
    case OPS_Q5_K:
        read_k4_scale(bytes, run, &scale, &minimum);
        u = (bytes[44 + 32 * (run / 2) + at] >> (run % 2 * 4) & 15) | (bytes[12 + at] >> run & 1)
                                                                          << 4;
        return d * (float)scale * (float)u - dmin * (float)minimum;
    case OPS_Q6_K:
        u = (bytes[64 * half + run % 2 * 32 + at] >> (run % 4 / 2 * 4) & 15) |
            (bytes[128 + 32 * half + at] >> (run % 4 * 2) & 3) << 4;
        return d * (float)(int8_t)bytes[192 + i / 16] * (float)(u - 32);
    default: /* IQ4_XS */
        scale = (bytes[run / 2] >> (run % 2 * 4) & 15) | (block->half_bits[1] >> 2 * run & 3) << 4;
        u = bytes[4 + 16 * run + at % 16] >> (at / 16 * 4) & 15;
        return d * (float)(scale - 32) * (float)(ops_iq4_values[u] - 128);
    }
}

void ops_matrix_row(const struct ops_matrix *matrix, uint32_t row, float *dst)
{
    const enum ops_type type = matrix->type;
    const uint32_t block_len = ops_type_info(type)->block_len;
    struct row_block block = {0};

    assert(row < matrix->n_rows);
    for (size_t b = 0; b < matrix->n_cols / block_len; b++, dst += block_len) {
        gather_block(matrix, row, b, &block);
        if (type == OPS_F32)
            dst[0] = ops_float_of_bits(block.body.words[0]);
        else if (type == OPS_F16)
            dst[0] = block.half[0];
        else if (type == OPS_BF16)
            dst[0] = ops_float_of_bf16(block.half_bits[0]);
        else if (block_len == 32)
            expand_block32(type, &block, dst);
        else
            for (int i = 0; i < 256; i++)
                dst[i] = value256(type, &block, i);
    }
}
