/* ops/select: top-k against a full sort, with ties, NaN, infinities and every kind of length. */
#include "ops/isa.h"
#include "ops/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_MAX 152064

static float x[N_MAX];
static uint32_t sorted[N_MAX], got[N_MAX + 1];
static uint64_t random_state = 7;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static int by_value(const void *a, const void *b)
{
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;

    if (x[i] != x[j])
        return x[i] > x[j] ? -1 : 1;
    return i < j ? -1 : i > j;
}

/* Compares for several k; the sort is the definition. */
static void check(size_t n)
{
    static const size_t ks[] = {1, 2, 3, 20, 40, 64, 500, 1024, 5000};
    size_t n_numbers = 0;

    for (size_t i = 0; i < n; i++) {
        if (!isnan(x[i]))
            sorted[n_numbers++] = (uint32_t)i;
    }
    qsort(sorted, n_numbers, sizeof(*sorted), by_value);
    for (size_t c = 0; c <= sizeof(ks) / sizeof(ks[0]); c++) {
        const size_t k = c == sizeof(ks) / sizeof(ks[0]) ? n : ks[c];
        if (k > n)
            continue;
        const size_t want = k < n_numbers ? k : n_numbers;
        for (int isa = 0; isa < OPS_N_ISA; isa++) {
            if (!ops_isa_supported((enum ops_isa)isa))
                continue;
            assert_int_equal(ops_isa_select(ops_isa_name((enum ops_isa)isa)), 0);
            got[k] = 0x12345678;
            assert_int_equal(ops_top_k(x, n, k, got), want);
            assert_memory_equal(got, sorted, want * sizeof(*got));
            assert_int_equal(got[k], 0x12345678);
        }
    }
    assert_int_equal(ops_isa_select(NULL), 0);
}

static void random_values(void **state)
{
    static const size_t lengths[] = {1, 2, 15, 16, 63, 64, 65, 127, 1000, 4097, 31000, N_MAX};

    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        for (size_t i = 0; i < lengths[l]; i++)
            x[i] = (float)(int32_t)random_bits() * 0x1p-28f;
        check(lengths[l]);
        for (size_t i = 0; i < lengths[l]; i++)
            x[i] = (float)(random_bits() % 7) - 3; /* many ties, both zeros */
        check(lengths[l]);
    }
}

static void orders_and_extremes(void **state)
{
    const size_t n = 20000;

    (void)state;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)i;
    check(n);
    for (size_t i = 0; i < n; i++)
        x[i] = -(float)i;
    check(n);
    for (size_t i = 0; i < n; i++)
        x[i] = i % 2 ? 0.0f : -0.0f;
    check(n);
    for (size_t i = 0; i < n; i++)
        x[i] = i % 3 ? -INFINITY : i % 2 ? INFINITY : 1e-40f;
    check(n);
    for (size_t i = 0; i < n; i++)
        x[i] = i % 5 ? NAN : (float)(i % 100);
    check(n);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    check(n);
    for (size_t i = 0; i < n; i++)
        x[i] = i == 19999 ? -INFINITY : NAN;
    check(n);
    assert_int_equal(ops_top_k(x, n, 0, got), 0);
    assert_int_equal(ops_top_k(x, 0, 0, got), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_values),
        cmocka_unit_test(orders_and_extremes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
