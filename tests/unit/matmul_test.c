/* Matrix products of every weight type: the same bits on every instruction set, with any number of
 * threads, alone or among other tokens; each against its definition; tails, padding, extremes,
 * denormals and bad rows. */
#include "ops/isa.h"
#include "ops/matmul.h"
#include "tests/support/dequantize.h"
#include "tests/support/random_weights.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const enum ops_type all_types[] = {
    OPS_F32,  OPS_F16,  OPS_BF16, OPS_Q8_0, OPS_Q4_0, OPS_Q4_1,   OPS_Q5_0,   OPS_Q5_1,
    OPS_Q2_K, OPS_Q3_K, OPS_Q4_K, OPS_Q5_K, OPS_Q6_K, OPS_IQ4_NL, OPS_IQ4_XS,
};

#define N_TYPES (sizeof(all_types) / sizeof(all_types[0]))
#ifdef QUERN_TOY         /* for an emulated processor: tests/emulator */
#define N_ROWS        21 /* a group of 16 and a tail of 5 */
#define MAX_TOKENS    21
#define N_BLOCKS_32   2
#define N_BLOCKS_256  1
#define CHUNKS        1, 2, 7, 16, 17
#define EXTREME_FILLS 0x00, 0xff, 0x80
#else
#define N_ROWS        85 /* five groups of 16 and a tail of 5 */
#define MAX_TOKENS    37
#define N_BLOCKS_32   7
#define N_BLOCKS_256  3
#define CHUNKS        1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33, MAX_TOKENS
#define EXTREME_FILLS 0x00, 0xff, 0x7f, 0x80, 0x88, 0x0f, 0xf0
#endif

static struct ops_pool *pools[4]; /* by number of threads */

/* A random matrix in both forms, and inputs. */
struct problem {
    enum ops_type type;
    uint32_t n_rows, n_cols;
    uint8_t *rows; /* as in a file */
    uint8_t *packed;
    struct ops_matrix matrix;
    float *x; /* (MAX_TOKENS, n_cols) */
    struct ops_input *input;
};

static uint64_t seed = 0x9e3779b97f4a7c15;

static float random_float(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (float)((double)(seed >> 11) / 0x1p52 - 1.0);
}

static uint32_t cols_of(enum ops_type type)
{
    const uint32_t block_len = ops_type_info(type)->block_len;

    return block_len == 1 ? 53 : block_len * (block_len == 32 ? N_BLOCKS_32 : N_BLOCKS_256);
}

static void problem_pack(struct problem *problem)
{
    const size_t row_bytes = random_weights_row_bytes(problem->type, problem->n_cols);
    const size_t group_bytes = ops_matrix_group_bytes(problem->type, problem->n_cols);

    for (uint32_t row = 0; row < problem->n_rows; row += OPS_GROUP_ROWS) {
        const uint32_t left = problem->n_rows - row;
        ops_matrix_pack_group(problem->type, problem->n_cols,
                              left < OPS_GROUP_ROWS ? left : OPS_GROUP_ROWS,
                              problem->rows + row * row_bytes, row_bytes,
                              problem->packed + row / OPS_GROUP_ROWS * group_bytes);
    }
}

static void problem_init(struct problem *problem, enum ops_type type, uint32_t n_rows)
{
    const uint32_t n_cols = cols_of(type);

    *problem = (struct problem){.type = type, .n_rows = n_rows, .n_cols = n_cols};
    problem->rows = malloc(n_rows * random_weights_row_bytes(type, n_cols));
    problem->packed = aligned_alloc(64, ops_matrix_bytes(type, n_rows, n_cols));
    problem->x = malloc(MAX_TOKENS * n_cols * sizeof(float));
    assert_non_null(problem->rows);
    assert_non_null(problem->packed);
    assert_non_null(problem->x);
    assert_int_equal(ops_input_new(&problem->input, MAX_TOKENS, n_cols), 0);
    random_weights_fill(type, n_rows, n_cols, &seed, problem->rows);
    problem_pack(problem);
    problem->matrix = (struct ops_matrix){type, n_rows, n_cols, problem->packed};
    for (size_t i = 0; i < MAX_TOKENS * (size_t)n_cols; i++)
        problem->x[i] = random_float() * (i % 31 == 0 ? 30.0f : 1.0f);
}

/* Keeps the first n_cols inputs: rows and tokens become shorter, and lie closer. */
static void problem_take_cols(struct problem *problem, uint32_t n_cols)
{
    problem->n_cols = n_cols;
    problem->matrix.n_cols = n_cols;
}

static void problem_done(struct problem *problem)
{
    ops_input_free(problem->input);
    free(problem->x);
    free(problem->packed);
    free(problem->rows);
}

/* y (n_tokens, n_rows) with guards of NaN around it that must survive. */
static void multiply(struct problem *problem, struct ops_pool *pool, size_t first, size_t n_tokens,
                     float *y)
{
    const size_t stride = problem->n_rows + 3;
    float *out = malloc((n_tokens * stride + 1) * sizeof(float));
    const struct ops_matmul_job job = {.w = &problem->matrix, .y = out, .y_stride = stride};

    assert_non_null(out);
    memset(out, 0xff, (n_tokens * stride + 1) * sizeof(float));
    ops_input_set(pool, problem->input, problem->x + first * problem->n_cols, problem->n_cols,
                  n_tokens, problem->n_cols, &problem->type, 1);
    ops_matmul(pool, problem->input, &job, 1);
    for (size_t t = 0; t < n_tokens; t++) {
        memcpy(y + t * problem->n_rows, out + t * stride, problem->n_rows * sizeof(float));
        for (size_t i = problem->n_rows; i < stride; i++) {
            uint32_t bits;
            memcpy(&bits, &out[t * stride + i], 4);
            assert_int_equal(bits, 0xffffffff);
        }
    }
    free(out);
}

/* What every other way must equal: plain C, one thread, all tokens at once. */
static float *reference(struct problem *problem)
{
    float *y = malloc(MAX_TOKENS * problem->n_rows * sizeof(float));

    assert_non_null(y);
    assert_int_equal(ops_isa_select("scalar"), 0);
    multiply(problem, pools[1], 0, MAX_TOKENS, y);
    return y;
}

static void assert_same(const struct problem *problem, const float *a, const float *b, size_t n,
                        const char *how)
{
    if (memcmp(a, b, n * sizeof(float)) == 0)
        return;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof(float)) != 0)
            fail_msg("%s on %s, %s: value %zu is %.9g, not %.9g", ops_type_name(problem->type),
                     ops_isa_name(ops_isa()), how, i, (double)a[i], (double)b[i]);
    }
}

/* Instruction sets × threads × numbers of tokens. */
static void assert_same_everywhere(struct problem *problem)
{
    static const size_t chunks[] = {CHUNKS};
    const size_t n_rows = problem->n_rows;
    float *expected = reference(problem), *y = malloc(MAX_TOKENS * n_rows * sizeof(float));
    char how[64];

    assert_non_null(y);
    for (int isa = 0; isa < OPS_N_ISA; isa++) {
        if (ops_isa_select(ops_isa_name((enum ops_isa)isa)))
            continue;
        for (unsigned threads = 1; threads <= 3; threads++) {
            multiply(problem, pools[threads], 0, MAX_TOKENS, y);
            snprintf(how, sizeof(how), "%u threads", threads);
            assert_same(problem, y, expected, MAX_TOKENS * n_rows, how);
        }
        for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
            for (size_t t = 0; t < MAX_TOKENS; t += chunks[c]) {
                const size_t n = MAX_TOKENS - t < chunks[c] ? MAX_TOKENS - t : chunks[c];
                multiply(problem, pools[2], t, n, y);
                snprintf(how, sizeof(how), "chunk of %zu from %zu", n, t);
                assert_same(problem, y, expected + t * n_rows, n * n_rows, how);
            }
        }
    }
    free(expected);
    free(y);
}

static void same_bits_everywhere(void **state)
{
    struct problem problem;
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        problem_init(&problem, all_types[i], N_ROWS);
        assert_same_everywhere(&problem);
        problem_done(&problem);
    }
}

/* A block of activations as docs/design.md defines it, in double precision. */
static void quantize(const float *x, uint32_t n, double *ret)
{
    float amax = 0.0f;

    for (uint32_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    memset(ret, 0, n * sizeof(*ret));
    if (amax < 0x1p-100f)
        return;
    const float inverse = 127.0f / amax, d = amax / 127.0f;
    for (uint32_t i = 0; i < n; i++)
        ret[i] = (double)d * (double)fminf(127.0f, fmaxf(-127.0f, rintf(x[i] * inverse)));
}

/* A row of weights in double precision, and what of it is not the minimum: types with a minimum
 * have two terms for each input, which may cancel. */
struct weights {
    double w[1024], scaled[1024];
};

static void read_weights(const struct problem *problem, uint32_t row, struct weights *ret)
{
    const struct ops_type_info *info = ops_type_info(problem->type);
    const size_t row_bytes = random_weights_row_bytes(problem->type, problem->n_cols);
    const bool has_min = problem->type == OPS_Q4_1 || problem->type == OPS_Q5_1 ||
                         problem->type == OPS_Q4_K || problem->type == OPS_Q5_K ||
                         problem->type == OPS_Q2_K;
    uint8_t *copy = malloc(row_bytes);

    assert_non_null(copy);
    memcpy(copy, problem->rows + row * row_bytes, row_bytes);
    dequantize_row(problem->type, copy, problem->n_cols, ret->w);
    for (size_t b = 0; has_min && b < row_bytes; b += info->block_bytes)
        memset(copy + b + (problem->type == OPS_Q2_K ? 82 : 2), 0, 2);
    dequantize_row(problem->type, copy, problem->n_cols, ret->scaled);
    free(copy);
}

/* One value by the definition in double precision, and Σ|terms| for the tolerance. */
static double define(const struct problem *problem, const struct weights *weights, const float *x,
                     double *magnitude)
{
    const uint32_t len = ops_type_info(problem->type)->block_len;
    double sum = 0.0, a[256];

    *magnitude = 0.0;
    for (uint32_t i = 0; i < problem->n_cols; i++) {
        const double w = weights->w[i], scaled = weights->scaled[i];
        if (len == 1)
            a[0] = (double)x[i];
        else if (i % len == 0)
            quantize(x + i, len, a);
        sum += w * a[i % len];
        *magnitude += (fabs(scaled) + fabs(w - scaled)) * fabs(a[i % len]);
    }
    return sum;
}

static void assert_defined(struct problem *problem)
{
    static struct weights weights;
    const size_t n_rows = problem->n_rows;
    float *y = malloc(MAX_TOKENS * n_rows * sizeof(float));

    assert_non_null(y);
    assert_int_equal(ops_isa_select(NULL), 0);
    multiply(problem, pools[2], 0, MAX_TOKENS, y);
    for (uint32_t row = 0; row < n_rows; row++) {
        read_weights(problem, row, &weights);
        for (size_t t = 0; t < MAX_TOKENS; t++) {
            double magnitude;
            const double expected =
                define(problem, &weights, problem->x + t * problem->n_cols, &magnitude);
            const double error = fabs((double)y[t * n_rows + row] - expected);
            /* 4 ulp of Σ|terms|; a denormal result may miss by the least float per term. */
            if (!(error <= 4 * (double)FLT_EPSILON * magnitude + problem->n_cols * 0x1p-149))
                fail_msg("%s: token %zu row %u is %.9g, not %.9g (terms %.3g)",
                         ops_type_name(problem->type), t, row, (double)y[t * n_rows + row],
                         expected, magnitude);
        }
    }
    free(y);
}

static void as_defined(void **state)
{
    struct problem problem;
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        problem_init(&problem, all_types[i], N_ROWS);
        assert_defined(&problem);
        problem_done(&problem);
    }
}

static int is_float(enum ops_type type)
{
    return ops_type_info(type)->block_len == 1;
}

/* Quantized parts all ones or all zeros, activations at ±amax with one sign, alternating, or in
 * pairs: where the integer bounds of docs/design.md are met. */
static void extremes(void **state)
{
    static const uint8_t fills[] = {EXTREME_FILLS};
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        if (is_float(all_types[i]))
            continue;
        for (size_t f = 0; f < sizeof(fills); f++) {
            const struct ops_type_info *info = ops_type_info(all_types[i]);
            struct problem problem;
            problem_init(&problem, all_types[i], 17);
            const size_t bytes = 17 * random_weights_row_bytes(problem.type, problem.n_cols);
            for (size_t b = 0; b < bytes; b += info->block_bytes) {
                /* Keep the random f16 numbers: d, and m or dmin. */
                uint8_t kept[256];
                uint8_t *block = problem.rows + b;
                const int k_tail = problem.type == OPS_Q2_K   ? 80
                                   : problem.type == OPS_Q3_K ? 108
                                   : problem.type == OPS_Q6_K ? 208
                                                              : 0;
                const int halves = problem.type == OPS_Q4_1 || problem.type == OPS_Q5_1 ||
                                           problem.type == OPS_Q4_K || problem.type == OPS_Q5_K ||
                                           problem.type == OPS_Q2_K
                                       ? 4
                                       : 2;
                memcpy(kept, block + k_tail, (size_t)halves);
                memset(block, fills[f], info->block_bytes);
                memcpy(block + k_tail, kept, (size_t)halves);
            }
            problem_pack(&problem);
            for (size_t t = 0; t < MAX_TOKENS; t++) {
                for (uint32_t c = 0; c < problem.n_cols; c++) {
                    const int sign = t % 4 == 0   ? 1
                                     : t % 4 == 1 ? -1
                                     : t % 4 == 2 ? (int)c & 1
                                                  : (int)c & 2;
                    problem.x[t * problem.n_cols + c] = sign > 0 ? 3.0f : -3.0f;
                }
            }
            assert_same_everywhere(&problem);
            assert_defined(&problem);
            problem_done(&problem);
        }
    }
}

/* The integer of a block, exactly: scales of 1, no minimum, activations that are whole numbers with
 * 127 among them, so that they are their own quantized form and d_a is 1. The result is the sum as
 * an int64 computes it, rounded to float32 once. */
static void integers_are_exact(void **state)
{
    static const uint8_t fills[] = {0x00, 0xff, 0x55};
    static struct weights weights;
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        const enum ops_type type = all_types[i];
        const struct ops_type_info *info = ops_type_info(type);
        if (is_float(type))
            continue;
        const size_t at = type == OPS_Q2_K   ? 80
                          : type == OPS_Q3_K ? 108
                          : type == OPS_Q6_K ? 208
                                             : 0;
        const bool has_min = type == OPS_Q4_1 || type == OPS_Q5_1 || type == OPS_Q4_K ||
                             type == OPS_Q5_K || type == OPS_Q2_K;
        for (size_t f = 0; f <= sizeof(fills); f++) { /* the last: random bits */
            struct problem problem;
            problem_init(&problem, type, 17);
            problem_take_cols(&problem, info->block_len);
            for (uint32_t row = 0; row < 17; row++) {
                uint8_t *block = problem.rows + row * (size_t)info->block_bytes;
                if (f < sizeof(fills))
                    memset(block, fills[f], info->block_bytes);
                block[at] = 0x00; /* 1.0 */
                block[at + 1] = 0x3c;
                if (has_min)
                    block[at + 2] = block[at + 3] = 0;
            }
            problem_pack(&problem);
            for (size_t t = 0; t < MAX_TOKENS; t++) {
                for (uint32_t c = 0; c < info->block_len; c++)
                    problem.x[t * info->block_len + c] =
                        t < 2 ? (t ? -127.0f : 127.0f) : rintf(random_float() * 127.0f);
                problem.x[t * info->block_len + t % info->block_len] = 127.0f;
            }
            assert_same_everywhere(&problem);
            float y[MAX_TOKENS * 17];
            multiply(&problem, pools[2], 0, MAX_TOKENS, y);
            for (uint32_t row = 0; row < 17; row++) {
                read_weights(&problem, row, &weights);
                for (size_t t = 0; t < MAX_TOKENS; t++) {
                    int64_t sum = 0;
                    for (uint32_t c = 0; c < info->block_len; c++)
                        sum += (int64_t)weights.w[c] * (int64_t)problem.x[t * info->block_len + c];
                    if (y[t * 17 + row] != (float)sum)
                        fail_msg("%s: %.9g, not %lld", info->name, (double)y[t * 17 + row],
                                 (long long)sum);
                }
            }
            problem_done(&problem);
        }
    }
}

/* Denormal and huge scales and activations, zeros, and blocks on both sides of the least amax. */
static void denormals_and_huge(void **state)
{
    static const float sizes[] = {0.0f, 0x1p-149f, 0x1p-120f, 0x1p-101f, 0x1p-99f, 1.0f, 0x1p60f};
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        const struct ops_type_info *info = ops_type_info(all_types[i]);
        struct problem problem;
        problem_init(&problem, all_types[i], 20);
        for (size_t t = 0; t < MAX_TOKENS; t++) {
            for (uint32_t c = 0; c < problem.n_cols; c++)
                problem.x[t * problem.n_cols + c] =
                    random_float() * sizes[(t + c / info->block_len) % 7];
        }
        if (all_types[i] == OPS_Q8_0 || all_types[i] == OPS_Q4_K || all_types[i] == OPS_F16) {
            const size_t bytes = 20 * random_weights_row_bytes(problem.type, problem.n_cols);
            for (size_t b = 0; b < bytes; b += 3 * info->block_bytes) {
                problem.rows[b] = (uint8_t)(1 + b % 7); /* a denormal f16 */
                problem.rows[b + 1] = b % 2 ? 0x80 : 0;
            }
            problem_pack(&problem);
        }
        assert_same_everywhere(&problem);
        if (!is_float(all_types[i]))
            assert_defined(&problem);
        problem_done(&problem);
    }
}

/* The rows that pad the last group and whatever follows the matrix are never part of a result. */
static void padding_is_never_used(void **state)
{
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        struct problem problem;
        problem_init(&problem, all_types[i], 5);
        float *expected = reference(&problem);
        float *y = malloc(MAX_TOKENS * 5 * sizeof(float));
        uint8_t *poisoned = malloc(16 * random_weights_row_bytes(problem.type, problem.n_cols));
        assert_non_null(y);
        assert_non_null(poisoned);
        /* Repack with 11 more rows of NaN scales in the lanes that pad. */
        const size_t row_bytes = random_weights_row_bytes(problem.type, problem.n_cols);
        memset(poisoned, 0xff, 16 * row_bytes);
        memcpy(poisoned, problem.rows, 5 * row_bytes);
        ops_matrix_pack_group(problem.type, problem.n_cols, 16, poisoned, row_bytes,
                              problem.packed);
        for (int isa = 0; isa < OPS_N_ISA; isa++) {
            if (ops_isa_select(ops_isa_name((enum ops_isa)isa)))
                continue;
            multiply(&problem, pools[2], 0, MAX_TOKENS, y);
            assert_same(&problem, y, expected, MAX_TOKENS * 5, "poisoned padding");
        }
        free(expected);
        free(poisoned);
        free(y);
        problem_done(&problem);
    }
}

/* A row with NaN or infinity is marked, computes as zeros, and changes no other row. */
static void bad_rows_are_marked(void **state)
{
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        struct problem problem;
        problem_init(&problem, all_types[i], 20);
        float *expected = reference(&problem);
        float *y = malloc(MAX_TOKENS * 20 * sizeof(float));
        assert_non_null(y);
        problem.x[3 * problem.n_cols + problem.n_cols - 1] = NAN;
        problem.x[20 * problem.n_cols] = -INFINITY;
        for (int isa = 0; isa < OPS_N_ISA; isa++) {
            if (ops_isa_select(ops_isa_name((enum ops_isa)isa)))
                continue;
            multiply(&problem, pools[2], 0, MAX_TOKENS, y);
            for (size_t t = 0; t < MAX_TOKENS; t++) {
                const bool bad = t == 3 || t == 20;
                assert_int_equal(ops_input_bad(problem.input, t), bad);
                for (size_t r = 0; bad && r < 20; r++)
                    assert_true(y[t * 20 + r] == 0.0f);
                if (!bad)
                    assert_same(&problem, y + t * 20, expected + t * 20, 20, "beside a bad row");
            }
        }
        free(expected);
        free(y);
        problem_done(&problem);
    }
}

/* Several jobs, bias and residual, rows picked one by one. */
static void jobs_bias_and_rows(void **state)
{
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        struct problem problem;
        static float bias[N_ROWS], y[2][MAX_TOKENS * N_ROWS], expected_bias, picked[4];
        static const uint32_t rows[4] = {N_ROWS - 1, 0, 17, 16};
        problem_init(&problem, all_types[i], N_ROWS);
        float *expected = reference(&problem);
        for (size_t r = 0; r < N_ROWS; r++)
            bias[r] = random_float();
        for (int isa = 0; isa < OPS_N_ISA; isa++) {
            if (ops_isa_select(ops_isa_name((enum ops_isa)isa)))
                continue;
            const struct ops_matmul_job jobs[2] = {
                {&problem.matrix, NULL, y[0], N_ROWS, false},
                {&problem.matrix, bias, y[1], N_ROWS, true},
            };
            for (size_t v = 0; v < MAX_TOKENS * N_ROWS; v++)
                y[1][v] = (float)(v % 13);
            ops_input_set(pools[3], problem.input, problem.x, problem.n_cols, MAX_TOKENS,
                          problem.n_cols, &problem.type, 1);
            ops_matmul(pools[3], problem.input, jobs, 2);
            assert_same(&problem, y[0], expected, MAX_TOKENS * N_ROWS, "first of two jobs");
            for (size_t v = 0; v < MAX_TOKENS * N_ROWS; v++) {
                expected_bias = (float)(v % 13) + (expected[v] + bias[v % N_ROWS]);
                assert_same(&problem, &y[1][v], &expected_bias, 1, "bias and residual");
            }
            for (size_t t = 0; t < MAX_TOKENS; t++) {
                ops_matmul_rows(problem.input, t, &problem.matrix, rows, 4, picked);
                for (int r = 0; r < 4; r++)
                    assert_same(&problem, &picked[r], &expected[t * N_ROWS + rows[r]], 1, "rows");
            }
        }
        free(expected);
        problem_done(&problem);
    }
}

/* The embedding lookup against the reference dequantization: the float32 steps lose at most 3 ulp
 * of the terms. */
static void rows_read_back(void **state)
{
    (void)state;

    for (size_t i = 0; i < N_TYPES; i++) {
        struct problem problem;
        static float row[1024];
        static double expected[1024];
        problem_init(&problem, all_types[i], N_ROWS);
        for (uint32_t r = 0; r < N_ROWS; r++) {
            ops_matrix_row(&problem.matrix, r, row);
            dequantize_row(problem.type,
                           problem.rows +
                               r * random_weights_row_bytes(problem.type, problem.n_cols),
                           problem.n_cols, expected);
            for (uint32_t c = 0; c < problem.n_cols; c++) {
                const double bound = is_float(problem.type) ? 0.0 : 4.0 * 64 * 64 * 2 * 0x1p-22;
                assert_true(fabs((double)row[c] - expected[c]) <= bound);
            }
        }
        problem_done(&problem);
    }
}

static void sizes_are_checked(void **state)
{
    (void)state;

    assert_int_equal(ops_matrix_group_bytes(OPS_Q8_0, 33), 0);
    assert_int_equal(ops_matrix_group_bytes(OPS_Q4_K, 896), 0);
    assert_int_equal(ops_matrix_group_bytes(OPS_F32, 0), 0);
    assert_int_equal(ops_matrix_group_bytes((enum ops_type)9, 256), 0);
    for (size_t i = 0; i < N_TYPES; i++) {
        const struct ops_type_info *info = ops_type_info(all_types[i]);
        const uint32_t n_cols = info->block_len * 64;
        /* Packing keeps every type's own width. */
        assert_int_equal(ops_matrix_group_bytes(all_types[i], n_cols),
                         16 * 64 * (size_t)info->block_bytes);
        assert_int_equal(ops_matrix_bytes(all_types[i], 17, n_cols),
                         2 * 16 * 64 * (size_t)info->block_bytes);
    }
    assert_int_equal(ops_input_bytes(SIZE_MAX / 2, 1024), 0);
    assert_null(ops_type_info(4));
    assert_null(ops_type_info(UINT32_MAX));
    assert_string_equal(ops_type_name(16), "IQ2_XXS");
    assert_null(ops_type_name(1000));
}

static int make_pools(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 3; threads++) {
        const struct ops_pool_options options = {.n_threads = threads, .no_pinning = 1};
        if (ops_pool_new(&pools[threads], &options))
            return -1;
    }
    return 0;
}

static int free_pools(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 3; threads++)
        ops_pool_free(pools[threads]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(as_defined),
        cmocka_unit_test(extremes),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(denormals_and_huge),
        cmocka_unit_test(padding_is_never_used),
        cmocka_unit_test(bad_rows_are_marked),
        cmocka_unit_test(jobs_bias_and_rows),
        cmocka_unit_test(rows_read_back),
        cmocka_unit_test(sizes_are_checked),
    };
    return cmocka_run_group_tests(tests, make_pools, free_pools);
}
