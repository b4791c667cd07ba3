/* Weight blocks of any bytes, of every type: packing, products on every instruction set and the
 * embedding lookup read nothing outside (the buffers end where the data ends, for
 * AddressSanitizer), and every set gives the bits of plain C, NaN aside. */
#include "ops/isa.h"
#include "ops/matmul.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS = 3, ROWS_MAX = 20 };

static const enum ops_type types[] = {
    OPS_F32,  OPS_F16,  OPS_BF16, OPS_Q8_0, OPS_Q4_0, OPS_Q4_1,   OPS_Q5_0,   OPS_Q5_1,
    OPS_Q2_K, OPS_Q3_K, OPS_Q4_K, OPS_Q5_K, OPS_Q6_K, OPS_IQ4_NL, OPS_IQ4_XS,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The packed rows in a buffer of exactly their size. */
static uint8_t *pack(enum ops_type type, uint32_t n_rows, uint32_t n_cols, const uint8_t *rows,
                     size_t row_bytes)
{
    uint8_t *packed = aligned_alloc(64, ops_matrix_bytes(type, n_rows, n_cols));
    for (uint32_t row = 0; packed && row < n_rows; row += OPS_GROUP_ROWS) {
        const uint32_t left = n_rows - row;
        ops_matrix_pack_group(type, n_cols, left < OPS_GROUP_ROWS ? left : OPS_GROUP_ROWS,
                              rows + row * row_bytes, row_bytes,
                              packed + row / OPS_GROUP_ROWS * ops_matrix_group_bytes(type, n_cols));
    }
    return packed;
}

static void compare(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i])))
            abort();
}

static void multiply(struct ops_pool *pool, const struct ops_matrix *w)
{
    float first[N_TOKENS * ROWS_MAX], y[N_TOKENS * ROWS_MAX];
    float *x = malloc(N_TOKENS * w->n_cols * sizeof *x), *row = malloc(w->n_cols * sizeof *row);
    struct ops_input *input;
    if (!x || !row || ops_input_new(&input, N_TOKENS, w->n_cols))
        abort();
    for (uint32_t i = 0; i < N_TOKENS * w->n_cols; i++)
        x[i] = (float)(i * 37 % 101) - 50.0f;
    for (int isa = 0; isa < OPS_N_ISA; isa++) {
        if (ops_isa_select(ops_isa_name((enum ops_isa)isa)))
            continue;
        const struct ops_matmul_job job = {
            .w = w, .y = isa == OPS_ISA_SCALAR ? first : y, .y_stride = w->n_rows};
        ops_input_set(pool, input, x, w->n_cols, N_TOKENS, w->n_cols, &w->type, 1);
        ops_matmul(pool, input, &job, 1);
        if (isa != OPS_ISA_SCALAR)
            compare(first, y, N_TOKENS * (size_t)w->n_rows);
    }
    for (uint32_t r = 0; r < w->n_rows; r++)
        ops_matrix_row(w, r, row);
    ops_input_free(input);
    free(row);
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ops_pool *pool;
    if (!pool && ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = 1}))
        abort();
    if (size < 3)
        return 0;
    const enum ops_type type = types[data[0] % (sizeof types / sizeof *types)];
    const struct ops_type_info *info = ops_type_info(type);
    const uint32_t n_rows = 1 + data[1] % ROWS_MAX;
    const uint32_t n_cols = info->block_len * (1 + data[2] % 3);
    const size_t row_bytes = (size_t)(n_cols / info->block_len) * info->block_bytes;
    uint8_t *rows = malloc(n_rows * row_bytes);
    if (!rows)
        return 0;
    for (size_t i = 0; i < n_rows * row_bytes; i++) /* the input again and again, shifted */
        rows[i] = size > 3 ? (uint8_t)(data[3 + i % (size - 3)] + i / (size - 3)) : 0;
    uint8_t *packed = pack(type, n_rows, n_cols, rows, row_bytes);
    if (packed) {
        const struct ops_matrix matrix = {type, n_rows, n_cols, packed};
        multiply(pool, &matrix);
    }
    free(packed);
    free(rows);
    return 0;
}
