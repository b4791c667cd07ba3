/* ops/vector: each operation against its definition in double precision, the same bits on every
 * instruction set that this machine runs, tails, extremes and NaN. */
#include "ops/isa.h"
#include "ops/vector.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_MAX 1100
#ifdef QUERN_TOY /* for an emulated processor: tests/emulator */
#define N_EXP 20000
#else
#define N_EXP 2000000
#endif
#define PAD 32 /* floats behind a row that nobody may touch */

static const size_t lengths[] = {1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 128, 255, 257, 896, 1099};

static uint64_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float random_float(float scale)
{
    return ((float)(int32_t)random_bits() * 0x1p-31f) * scale;
}

/* Kinds of input: ordinary; every magnitude that float32 has, denormals among them; zeros. */
enum kind { ORDINARY, EXTREME, ZERO, N_KINDS };

static void fill(float *x, size_t n, enum kind kind)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = kind == ZERO ? (i % 2 ? 0.0f : -0.0f) : random_float(8.0f);
        if (kind == EXTREME)
            x[i] = ldexpf(random_float(1.0f), (int)(random_bits() % 250) - 140);
    }
}

static bool next_isa(int *isa)
{
    while (++*isa < OPS_N_ISA) {
        if (ops_isa_supported((enum ops_isa) * isa)) {
            assert_int_equal(ops_isa_select(ops_isa_name((enum ops_isa) * isa)), 0);
            return true;
        }
    }
    assert_int_equal(ops_isa_select(NULL), 0);
    return false;
}

/* Runs every operation on one input and lays the results in a row, for memcmp. */
struct results {
    float rmsnorm[N_MAX + PAD], swiglu[N_MAX + PAD], softmax[N_MAX + PAD], axpy[N_MAX + PAD];
    float log_sum_exp;
    uint32_t argmax;
};

static void run_all(const float *x, const float *w, size_t n, struct results *r)
{
    memset(r, 0x5a, sizeof(*r));
    ops_rmsnorm(x, w, 1e-6f, n, r->rmsnorm);
    ops_swiglu(x, w, n, r->swiglu);
    memcpy(r->softmax, x, n * sizeof(float));
    ops_softmax(r->softmax, n);
    memcpy(r->axpy, w, n * sizeof(float));
    ops_axpy(x[0], x, n, r->axpy);
    r->log_sum_exp = ops_log_sum_exp(x, n);
    r->argmax = ops_argmax(x, n);
}

static void check_padding(const float *row, size_t n)
{
    for (size_t i = n * sizeof(float); i < (n + PAD) * sizeof(float); i++)
        assert_int_equal(((const uint8_t *)row)[i], 0x5a);
}

static void same_bits_on_every_set(void **state)
{
    static float x[N_MAX], w[N_MAX];
    static struct results first, again;

    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        for (int kind = 0; kind < N_KINDS; kind++) {
            const size_t n = lengths[l];
            fill(x, n, (enum kind)kind);
            fill(w, n, ORDINARY);
            bool seen = false;
            for (int isa = -1; next_isa(&isa);) {
                run_all(x, w, n, seen ? &again : &first);
                if (seen)
                    assert_memory_equal(&first, &again, sizeof(first));
                seen = true;
            }
            check_padding(first.rmsnorm, n);
            check_padding(first.swiglu, n);
            check_padding(first.softmax, n);
            check_padding(first.axpy, n);
        }
    }
}

/* Sums of weights and searches: the same on every set, and what the definition gives. */
static void blocks_of_weights(void **state)
{
    static float x[N_MAX], max[N_MAX / 64 + 1], sums[2][N_MAX / 64 + 1];
    static uint32_t ids[N_MAX], want[N_MAX];

    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        const size_t n = lengths[l], n_blocks = (n + 63) / 64;
        size_t n_want = 0;
        bool seen = false;
        fill(x, n, ORDINARY);
        x[n / 2] = l % 2 ? NAN : -INFINITY;
        for (uint32_t i = 0; i < n; i++) {
            if (x[i] >= 1.5f)
                want[n_want++] = i;
        }
        for (int isa = -1; next_isa(&isa);) {
            ops_block_max(x, n, 64, max);
            ops_block_exp_sum(x, n, 64, 8.0f, 0.7f, sums[seen]);
            if (seen)
                assert_memory_equal(sums[0], sums[1], n_blocks * sizeof(float));
            seen = true;
            assert_int_equal(ops_at_least(x, n, 64, max, 1.5f, ids), n_want);
            assert_memory_equal(ids, want, n_want * sizeof(*ids));
        }
        for (size_t b = 0; b < n_blocks; b++) {
            double sum = 0;
            for (size_t i = b * 64; i < n && i < b * 64 + 64; i++)
                sum += isnan(x[i]) ? 0 : exp((x[i] - 8.0) * (double)0.7f);
            if (!(fabs(sums[0][b] - sum) <= 4e-6 * sum))
                fail_msg("%.9g in place of %.9g", (double)sums[0][b], sum);
        }
    }
}

/* |a - b| within `relative` of b, or within the least normal number. */
static void assert_close(double a, double b, double relative)
{
    if (!(fabs(a - b) <= relative * fabs(b) + 0x1p-126))
        fail_msg("%.9g in place of %.9g", a, b);
}

static double reference_silu(double x)
{
    return x / (1.0 + exp(-x));
}

static void near_the_definition(void **state)
{
    static float x[N_MAX], w[N_MAX];
    static struct results r;

    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        const size_t n = lengths[l];
        double squares = 0, sum = 0, max = -INFINITY;
        fill(x, n, ORDINARY);
        fill(w, n, ORDINARY);
        run_all(x, w, n, &r);
        for (size_t i = 0; i < n; i++) {
            squares += (double)x[i] * x[i];
            max = fmax(max, x[i]);
        }
        for (size_t i = 0; i < n; i++)
            sum += exp(x[i] - max);
        for (size_t i = 0; i < n; i++) {
            assert_close(r.rmsnorm[i], x[i] / sqrt(squares / n + 1e-6) * w[i], 1e-6);
            assert_close(r.swiglu[i], reference_silu(x[i]) * w[i], 1e-6);
            assert_close(r.softmax[i], exp(x[i] - max) / sum, 2e-6);
            assert_true(r.axpy[i] == fmaf(x[0], x[i], w[i]));
        }
        assert_close(r.log_sum_exp, max + log(sum), 1e-6);
        assert_true(x[r.argmax] == (float)max);
    }
}

/* The rule of the sum itself: partial i mod 16, then the tree. */
static void sums_follow_the_rule(void **state)
{
    static float x[N_MAX], ones[N_MAX], out[N_MAX];

    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        const size_t n = lengths[l];
        float partial[16] = {0};
        fill(x, n, ORDINARY);
        for (size_t i = 0; i < n; i++) {
            ones[i] = 1.0f;
            partial[i % 16] = fmaf(x[i], x[i], partial[i % 16]);
        }
        for (int half = 8; half; half /= 2) {
            for (int i = 0; i < half; i++)
                partial[i] += partial[i + half];
        }
        const float scale = 1.0f / sqrtf(partial[0] / (float)n + 1e-6f);
        for (int isa = -1; next_isa(&isa);) {
            ops_rmsnorm(x, ones, 1e-6f, n, out);
            for (size_t i = 0; i < n; i++)
                assert_true(out[i] == x[i] * scale);
        }
    }
}

static double ulps(float got, double want)
{
    int exponent;

    frexp(want, &exponent);
    if (exponent < -125)
        exponent = -125;
    return fabs(got - want) / ldexp(1.0, exponent - 24);
}

/* One exp through the vector kernels: softmax of (x, 0) has e^x / (1 + e^x), which hides bits, but
 * swiglu with up = 1 shows x / (1 + e^-x): so the twin is compared there, bit for bit. */
static void exp_is_near_and_has_a_twin(void **state)
{
    double worst = 0;

    (void)state;
    for (uint32_t i = 0; i < N_EXP; i++) {
        const float x = -87.336f + (float)i * (88.72f + 87.336f) / N_EXP;
        const double error = ulps(ops_expf(x), exp(x));
        worst = error > worst ? error : worst;
    }
    if (worst > 1.25)
        fail_msg("exp is off by %.3f ulp", worst);
    assert_true(ops_expf(0.0f) == 1.0f);
    assert_true(ops_expf(-0.0f) == 1.0f);
    assert_true(ops_expf(-87.34f) == 0.0f);
    assert_true(ops_expf(-INFINITY) == 0.0f);
    assert_true(ops_expf(88.73f) == INFINITY);
    assert_true(isfinite(ops_expf(88.7228f)));
    assert_true(isnan(ops_expf(NAN)));

    for (int isa = -1; next_isa(&isa);) {
        for (uint32_t i = 0; i < N_EXP / 100; i++) {
            const float x = -100.0f + (float)i * (20000.0f / N_EXP), one = 1.0f;
            float got;
            ops_swiglu(&x, &one, 1, &got);
            assert_true(got == x / (1.0f + ops_expf(-x)));
        }
    }
    assert_close(ops_sigmoid(0.3f), 1 / (1 + exp(-(double)0.3f)), 1e-6);
    assert_true(ops_sigmoid(-200.0f) == 0.0f);
    assert_true(ops_sigmoid(200.0f) == 1.0f);
}

static void nan_behaves_as_stated(void **state)
{
    float x[40], w[40], out[40];
    const float nothing[3] = {NAN, NAN, NAN};

    (void)state;
    for (int isa = -1; next_isa(&isa);) {
        fill(x, 40, ORDINARY);
        fill(w, 40, ORDINARY);
        x[37] = NAN;
        ops_rmsnorm(x, w, 1e-6f, 40, out);
        for (int i = 0; i < 40; i++)
            assert_true(isnan(out[i]));
        ops_swiglu(x, w, 40, out);
        for (int i = 0; i < 40; i++)
            assert_int_equal(isnan(out[i]) != 0, i == 37);
        assert_true(isnan(ops_log_sum_exp(x, 40)));
        assert_int_not_equal(ops_argmax(x, 40), 37);
        memcpy(out, x, sizeof(out));
        ops_softmax(out, 40);
        for (int i = 0; i < 40; i++)
            assert_true(isnan(out[i]));
        assert_int_equal(ops_argmax(nothing, 3), 0);
    }
}

static void argmax_takes_the_first(void **state)
{
    const size_t n = 20000;
    float *x = calloc(n, sizeof(float));

    (void)state;
    assert_non_null(x);
    for (int isa = -1; next_isa(&isa);) {
        for (size_t i = 0; i < n; i++)
            x[i] = -1.0f;
        assert_int_equal(ops_argmax(x, n), 0);
        x[n - 1] = 2.0f;
        assert_int_equal(ops_argmax(x, n), n - 1);
        x[4099] = x[4098] = x[12000] = 2.0f;
        x[5] = NAN;
        assert_int_equal(ops_argmax(x, n), 4098);
        x[777] = INFINITY;
        assert_int_equal(ops_argmax(x, n), 777);
        for (size_t i = 0; i < n; i++)
            x[i] = i < 300 ? NAN : -INFINITY;
        assert_int_equal(ops_argmax(x, n), 300);
        for (size_t i = 0; i < n; i++)
            x[i] = i < 300 ? -0.0f : 0.0f;
        assert_int_equal(ops_argmax(x, n), 0);
        for (size_t k = 1; k < 70; k++) {
            for (size_t i = 0; i < k; i++)
                x[i] = (float)i;
            assert_int_equal(ops_argmax(x, k), k - 1);
        }
    }
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_on_every_set), cmocka_unit_test(near_the_definition),
        cmocka_unit_test(sums_follow_the_rule),   cmocka_unit_test(exp_is_near_and_has_a_twin),
        cmocka_unit_test(nan_behaves_as_stated),  cmocka_unit_test(argmax_takes_the_first),
        cmocka_unit_test(blocks_of_weights),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
