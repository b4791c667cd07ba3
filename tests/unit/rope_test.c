/* ops/rope: tables against long double to position 131,071, YaRN as published, and the rotation
 * with the same bits on every instruction set. */
#include "ops/isa.h"
#include "ops/rope.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const uint32_t positions[] = {0,    1,     2,     7,     100,   1023,   4096,
                                     8191, 24575, 32767, 32768, 65535, 100003, 131071};

/* The share of plain frequency of pair i, long double, by the paper's ramp. */
static long double keep(const struct ops_rope_options *o, uint32_t i, int *ret_low, int *ret_high)
{
    const long double dim = o->head_dim,
                      turns = o->original_context / (2.0L * 3.14159265358979323846L);
    const long double low = floorl(dim * logl(turns / 32) / (2 * logl(o->theta)));
    const long double high = ceill(dim * logl(turns / 1) / (2 * logl(o->theta)));
    const long double at = (i - low) / (high - low);

    *ret_low = (int)low;
    *ret_high = (int)high;
    return 1 - (at < 0 ? 0 : at > 1 ? 1 : at);
}

static long double frequency(const struct ops_rope_options *o, uint32_t i)
{
    const long double plain = powl(o->theta, -2.0L * i / o->head_dim);
    int low, high;

    if (o->scaling == OPS_ROPE_NONE)
        return plain;
    if (o->scaling == OPS_ROPE_LINEAR)
        return plain / o->factor;
    const long double share = keep(o, i, &low, &high);
    return plain * share + plain / o->factor * (1 - share);
}

static void check_tables(const struct ops_rope_options *o, long double scale)
{
    struct ops_rope *rope;

    assert_int_equal(ops_rope_new(&rope, o), 0);
    for (size_t p = 0; p < sizeof(positions) / sizeof(positions[0]); p++) {
        if (positions[p] >= o->n_positions)
            continue;
        const float *row = ops_rope_row(rope, positions[p]);
        for (uint32_t i = 0; i < o->head_dim / 2; i++) {
            const long double angle = positions[p] * frequency(o, i);
            /* Half a place of a float32 below 1 or below 2, and what double angles lose. */
            const long double bound = (scale > 1 ? 0x1p-24L : 0x1p-25L) + 1e-10L;
            assert_true(fabsl(row[i] - cosl(angle) * scale) <= bound);
            assert_true(fabsl(row[o->head_dim / 2 + i] - sinl(angle) * scale) <= bound);
        }
    }
    ops_rope_free(rope);
}

static void plain_tables(void **state)
{
    (void)state;
    check_tables(&(struct ops_rope_options){.head_dim = 64, .n_positions = 131072, .theta = 1e6},
                 1);
    check_tables(&(struct ops_rope_options){.head_dim = 128, .n_positions = 131072, .theta = 1e6},
                 1);
    check_tables(&(struct ops_rope_options){.head_dim = 80, .n_positions = 5000, .theta = 1e4}, 1);
    check_tables(&(struct ops_rope_options){.head_dim = 64,
                                            .n_positions = 9000,
                                            .theta = 1e6,
                                            .scaling = OPS_ROPE_LINEAR,
                                            .factor = 2.5},
                 1);
}

static void yarn_tables(void **state)
{
    struct ops_rope_options o = {.head_dim = 128,
                                 .n_positions = 131072,
                                 .theta = 1e6,
                                 .scaling = OPS_ROPE_YARN,
                                 .factor = 4.0,
                                 .original_context = 32768};
    int low, high;

    (void)state;
    keep(&o, 0, &low, &high);
    assert_int_equal(low, 23);
    assert_int_equal(high, 40);
    check_tables(&o, 0.1L * logl(4.0L) + 1);
    o.beta_fast = 32;
    o.beta_slow = 1;
    o.attention_factor = 1.25;
    check_tables(&o, 1.25L);
    o.attention_factor = 0;
    o.factor = 2.0;
    o.n_positions = 65536;
    check_tables(&o, 0.1L * logl(2.0L) + 1);
    assert_true(fabsl(0.1L * logl(4.0L) + 1 - 1.138629L) < 1e-6L);
    assert_true(fabsl(0.1L * logl(2.0L) + 1 - 1.069315L) < 1e-6L);
}

/* The published range, seen in the tables: pairs up to 23 turn as without YaRN, pairs from 40 on
 * four times slower, and pairs between at neither speed. At position 1 the sine is the frequency
 * to a part in a million. */
static void yarn_range(void **state)
{
    struct ops_rope_options o = {.head_dim = 128,
                                 .n_positions = 2,
                                 .theta = 1e6,
                                 .scaling = OPS_ROPE_YARN,
                                 .factor = 4.0,
                                 .original_context = 32768,
                                 .attention_factor = 1.0};
    struct ops_rope *rope;

    (void)state;
    assert_int_equal(ops_rope_new(&rope, &o), 0);
    const float *sine = ops_rope_row(rope, 1) + 64;
    for (uint32_t i = 0; i < 64; i++) {
        const double slower = pow(1e6, -2.0 * i / 128) / asin(sine[i]);
        if (i <= 23)
            assert_true(fabs(slower - 1) < 1e-5);
        else if (i >= 40)
            assert_true(fabs(slower - 4) < 1e-5);
        else
            assert_true(slower > 1.01 && slower < 3.99);
    }
    ops_rope_free(rope);
}

static void rotation(void **state)
{
    enum { DIM = 80, HEADS = 3 };
    const struct ops_rope_options o = {.head_dim = DIM, .n_positions = 200, .theta = 1e6};
    struct ops_rope *rope;
    float x[HEADS * DIM + 1], y[HEADS * DIM + 1], first[HEADS * DIM + 1];

    (void)state;
    assert_int_equal(ops_rope_new(&rope, &o), 0);
    for (int i = 0; i <= HEADS * DIM; i++)
        x[i] = sinf((float)i * 1.7f) * 3;
    const float *cosine = ops_rope_row(rope, 199), *sine = cosine + DIM / 2;
    bool seen = false;
    for (int isa = 0; isa < OPS_N_ISA; isa++) {
        if (!ops_isa_supported((enum ops_isa)isa))
            continue;
        assert_int_equal(ops_isa_select(ops_isa_name((enum ops_isa)isa)), 0);
        memcpy(y, x, sizeof(x));
        ops_rope_apply(rope, y, HEADS, 199);
        for (int h = 0; h < HEADS; h++) {
            for (int i = 0; i < DIM / 2; i++) {
                const float a = x[h * DIM + i], b = x[h * DIM + DIM / 2 + i];
                assert_true(y[h * DIM + i] == fmaf(a, cosine[i], -(b * sine[i])));
                assert_true(y[h * DIM + DIM / 2 + i] == fmaf(b, cosine[i], a * sine[i]));
            }
        }
        assert_true(y[HEADS * DIM] == x[HEADS * DIM]);
        if (seen)
            assert_memory_equal(y, first, sizeof(y));
        memcpy(first, y, sizeof(y));
        seen = true;
    }
    assert_int_equal(ops_isa_select(NULL), 0);
    memcpy(y, x, sizeof(x));
    ops_rope_apply(rope, y, HEADS, 0);
    for (int i = 0; i <= HEADS * DIM; i++)
        assert_true(y[i] == x[i]);
    ops_rope_free(rope);
}

static void bad_options(void **state)
{
    const struct ops_rope_options good = {.head_dim = 64,
                                          .n_positions = 16,
                                          .theta = 1e6,
                                          .scaling = OPS_ROPE_YARN,
                                          .factor = 4,
                                          .original_context = 16};
    struct ops_rope_options bad[12];
    struct ops_rope *rope = NULL;
    const size_t n = sizeof(bad) / sizeof(bad[0]);

    (void)state;
    for (size_t i = 0; i < n; i++)
        bad[i] = good;
    bad[0].head_dim = 63;
    bad[1].head_dim = 0;
    bad[2].n_positions = 0;
    bad[3].theta = 1.0;
    bad[4].theta = NAN;
    bad[5].factor = 0.5;
    bad[6].factor = INFINITY;
    bad[7].original_context = 0;
    bad[8].beta_fast = -1;
    bad[9].attention_factor = NAN;
    bad[10].scaling = (enum ops_rope_scaling)9;
    bad[11].beta_slow = INFINITY;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ops_rope_bytes(&bad[i]), 0);
        assert_int_equal(ops_rope_new(&rope, &bad[i]), -EINVAL);
        assert_null(rope);
    }
    assert_int_equal(ops_rope_bytes(&good), 64 * 16 * sizeof(float));
    ops_rope_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_tables), cmocka_unit_test(yarn_tables), cmocka_unit_test(yarn_range),
        cmocka_unit_test(rotation),     cmocka_unit_test(bad_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
