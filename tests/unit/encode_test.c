/* What is encoded can be read again, by the definition of each block, within the error that its
 * bits allow; zeros, single spikes and tiny values too. Values that a type cannot hold are refused. */
#include "svc/model/encode.h"

#include "tests/support/dequantize.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { N = 1024 };

static const struct {
    enum ops_type type;
    double error; /* RMS, relative, of normally distributed values */
} types[] = {
    {OPS_F32, 0},      {OPS_F16, 3e-4},   {OPS_BF16, 3e-3},  {OPS_Q8_0, 0.008},  {OPS_Q4_0, 0.095},
    {OPS_Q4_1, 0.085}, {OPS_Q5_0, 0.048}, {OPS_Q5_1, 0.042}, {OPS_IQ4_NL, 0.08}, {OPS_Q2_K, 0.29},
    {OPS_Q3_K, 0.18},  {OPS_Q4_K, 0.085}, {OPS_Q5_K, 0.042}, {OPS_Q6_K, 0.021},  {OPS_IQ4_XS, 0.08},
};

static uint32_t next(uint32_t *state)
{
    return *state = *state * 1664525 + 1013904223;
}

static void normal(float *x, uint32_t seed)
{
    for (int i = 0; i < N; i++) {
        float sum = 0;
        for (int k = 0; k < 12; k++)
            sum += (float)(next(&seed) >> 8) / 16777216.0f;
        x[i] = (sum - 6) * 0.05f;
    }
}

/* ‖decode(encode(x)) − x‖ / ‖x‖ */
static double error_of(enum ops_type type, const float *x)
{
    static uint8_t row[N * 4];
    static double back[N];
    double miss = 0, size = 0;
    assert_int_equal(model_encode_row(type, x, N, row), 0);
    dequantize_row(type, row, N, back);
    for (int i = 0; i < N; i++) {
        miss += (back[i] - x[i]) * (back[i] - x[i]);
        size += (double)x[i] * x[i];
    }
    return size > 0 ? sqrt(miss / size) : sqrt(miss);
}

static void rounds_within_its_bits(void **state)
{
    (void)state;
    float x[N];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        normal(x, 7);
        double error = error_of(types[t].type, x);
        print_message("%-7s %.4f\n", ops_type_info(types[t].type)->name, error);
        assert_true(error <= types[t].error);
    }
}

static void keeps_zeros_and_spikes(void **state)
{
    (void)state;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        float x[N] = {0};
        assert_true(error_of(types[t].type, x) == 0);
        x[300] = -3.0f;
        x[700] = 100.0f;
        assert_true(error_of(types[t].type, x) < 0.05); /* IQ4 has no level at 0 */
        for (int i = 0; i < N; i++)
            x[i] = -0.75f;
        assert_true(error_of(types[t].type, x) < 0.01);
        for (int i = 0; i < N; i++)
            x[i] = 1e-30f; /* below what F16 scales reach: becomes 0, no NaN */
        assert_true(error_of(types[t].type, x) <= 1);
    }
}

static void refuses_what_it_cannot_hold(void **state)
{
    (void)state;
    static uint8_t row[N * 4];
    float x[N] = {0};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        enum ops_type type = types[t].type;
        x[5] = NAN;
        assert_int_equal(model_encode_row(type, x, N, row), -EDOM);
        x[5] = INFINITY;
        assert_int_equal(model_encode_row(type, x, N, row), -EDOM);
        x[5] = 1e6f;
        assert_int_equal(model_encode_row(type, x, N, row),
                         type == OPS_F32 || type == OPS_BF16 ? 0 : -ERANGE);
        if (ops_type_info(type)->block_len > 1)
            assert_int_equal(model_encode_row(type, x, 16, row), -EINVAL);
        x[5] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds_within_its_bits),
        cmocka_unit_test(keeps_zeros_and_spikes),
        cmocka_unit_test(refuses_what_it_cannot_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
