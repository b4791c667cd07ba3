/* ops/attention: against a reference in double precision; the same bits on every instruction set,
 * for every number of threads, however a prompt is cut, alone or beside others; and nothing read
 * that is masked (pages start out as NaN). */
#include "ops/arch/half.h"
#include "ops/attention.h"
#include "ops/isa.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GUARD 64 /* bytes behind a page that nobody may touch */

/* One sequence: all its queries, keys and values, and the pages they go to. */
struct sequence {
    struct ops_attention_shape shape;
    uint32_t n; /* positions */
    float *q, *k, *v;
    size_t q_len, kv_len; /* floats of a token */
    uint8_t **pages;
    uint32_t n_pages;
};

static uint64_t random_state;

static float random_float(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(random_state >> 32) * 0x1p-31f;
}

static float *random_row(size_t n, float scale)
{
    float *x = malloc(n * sizeof(float));

    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_float() * scale;
    return x;
}

static struct sequence *sequence_new(struct ops_attention_shape shape, uint32_t n, uint64_t seed)
{
    struct sequence *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    random_state = seed;
    s->shape = shape;
    s->n = n;
    s->q_len = (size_t)shape.n_heads * shape.head_dim;
    s->kv_len = (size_t)shape.n_kv_heads * shape.head_dim;
    s->q = random_row(n * s->q_len, 4);
    s->k = random_row(n * s->kv_len, 4);
    s->v = random_row(n * s->kv_len, 2);
    s->n_pages = (n + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    s->pages = calloc(s->n_pages, sizeof(*s->pages));
    assert_non_null(s->pages);
    for (uint32_t i = 0; i < s->n_pages; i++) {
        s->pages[i] = aligned_alloc(64, ops_kv_page_bytes(&shape) + GUARD);
        assert_non_null(s->pages[i]);
    }
    return s;
}

static void sequence_forget(struct sequence *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++)
        memset(s->pages[i], 0xff, ops_kv_page_bytes(&s->shape) + GUARD);
}

static void sequence_check_guards(const struct sequence *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++) {
        for (int b = 0; b < GUARD; b++)
            assert_int_equal(s->pages[i][ops_kv_page_bytes(&s->shape) + b], 0xff);
    }
}

static void sequence_free(struct sequence *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++)
        free(s->pages[i]);
    free(s->pages);
    free(s->q);
    free(s->k);
    free(s->v);
    free(s);
}

static struct ops_attention_span span_at(const struct sequence *s, uint32_t first, uint32_t n,
                                         float *out)
{
    return (struct ops_attention_span){.pages = s->pages,
                                       .first_position = first,
                                       .n_tokens = n,
                                       .q = s->q + first * s->q_len,
                                       .k = s->k + first * s->kv_len,
                                       .v = s->v + first * s->kv_len,
                                       .out = out + first * s->q_len};
}

/* The whole sequence from nothing, in chunks. */
static void run_sequence(struct sequence *s, struct ops_pool *pool, uint32_t chunk, float *out)
{
    struct ops_attention *a;

    sequence_forget(s);
    assert_int_equal(ops_attention_new(&a, &s->shape, chunk, s->n, ops_pool_n_threads(pool)), 0);
    for (uint32_t at = 0; at < s->n; at += chunk) {
        const struct ops_attention_span span =
            span_at(s, at, s->n - at < chunk ? s->n - at : chunk, out);
        ops_attention_run(pool, a, &span, 1, s->q_len, s->kv_len, s->q_len);
    }
    ops_attention_free(a);
    sequence_check_guards(s);
}

static struct ops_pool *pool_of(unsigned n_threads)
{
    const struct ops_pool_options options = {
        .n_threads = n_threads, .spin_us = 20, .no_pinning = 1};
    struct ops_pool *pool;

    assert_int_equal(ops_pool_new(&pool, &options), 0);
    return pool;
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

/* ---- against double precision -------------------------------------------------------------- */

/* The number that a cache of this type keeps in place of x[i]: the definition, in plain C. */
static double kept(enum ops_kv_type type, const float *x, uint32_t i)
{
    if (type == OPS_KV_F32)
        return x[i];
    if (type == OPS_KV_F16)
        return ops_float_of_f16(ops_f16_of_float(x[i]));
    float amax = 0;
    for (uint32_t j = i / 32 * 32; j < i / 32 * 32 + 32; j++)
        amax = fmaxf(amax, fabsf(x[j]));
    const float d = ops_float_of_f16(ops_f16_of_float(amax / 127.0f));
    if (d == 0)
        return 0;
    const float q = nearbyintf(fminf(fmaxf(x[i] * (1.0f / d), -127.0f), 127.0f));
    return (double)d * q;
}

/* The largest distance of one row from the reference, relative to the row's norm. */
static double row_error(const struct sequence *s, uint32_t position, uint32_t head,
                        const float *out)
{
    const uint32_t dim = s->shape.head_dim;
    const uint32_t kv_head = head / (s->shape.n_heads / s->shape.n_kv_heads);
    const float *q = s->q + position * s->q_len + (size_t)head * dim;
    double *p = malloc((position + 1) * sizeof(double));
    double max = -INFINITY, sum = 0, error = 0, norm = 0;

    assert_non_null(p);
    for (uint32_t i = 0; i <= position; i++) {
        const float *k = s->k + i * s->kv_len + (size_t)kv_head * dim;
        p[i] = 0;
        for (uint32_t d = 0; d < dim; d++)
            p[i] += q[d] * kept(s->shape.type, k, d);
        p[i] /= sqrt(dim);
        max = fmax(max, p[i]);
    }
    for (uint32_t i = 0; i <= position; i++) {
        p[i] = exp(p[i] - max);
        sum += p[i];
    }
    for (uint32_t d = 0; d < dim; d++) {
        double want = 0;
        for (uint32_t i = 0; i <= position; i++)
            want +=
                p[i] / sum * kept(s->shape.type, s->v + i * s->kv_len + (size_t)kv_head * dim, d);
        const double got = out[position * s->q_len + (size_t)head * dim + d];
        error += (got - want) * (got - want);
        norm += want * want;
    }
    free(p);
    return sqrt(error / norm);
}

#ifdef QUERN_TOY     /* for an emulated processor: tests/emulator */
#define N_SHORT 70   /* positions: more than a page */
#define N_CUT   140  /* more than a block of 128 */
#define N_DEEP  1040 /* more than a split of 1,024 */
/* No F16: Bochs 2.7 rounds a float32 half way between two float16 up, processors to even. */
static const struct ops_attention_shape shapes[] = {
    {1, 1, 16, OPS_KV_F32},
    {7, 1, 64, OPS_KV_F32},
    {3, 1, 96, OPS_KV_Q8_0},
    {26, 2, 32, OPS_KV_F32},
};
#else
#define N_SHORT 150
#define N_CUT   200
#define N_DEEP  2200
static const struct ops_attention_shape shapes[] = {
    {1, 1, 16, OPS_KV_F32},   {14, 2, 64, OPS_KV_F32},  {7, 1, 64, OPS_KV_F16},
    {12, 2, 128, OPS_KV_F16}, {8, 1, 80, OPS_KV_F32},   {8, 1, 48, OPS_KV_F16},
    {4, 4, 32, OPS_KV_F32},   {6, 3, 256, OPS_KV_F16},  {14, 2, 64, OPS_KV_Q8_0},
    {6, 1, 128, OPS_KV_Q8_0}, {3, 1, 96, OPS_KV_Q8_0},  {5, 1, 16, OPS_KV_F16},
    {26, 2, 32, OPS_KV_F16},  {2, 2, 160, OPS_KV_Q8_0}, {100, 1, 16, OPS_KV_F32},
};
#endif

#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static void check_reference(struct ops_attention_shape shape, uint32_t n, uint32_t stride)
{
    struct sequence *s = sequence_new(shape, n, 5);
    float *out = calloc(n * s->q_len, sizeof(float));
    struct ops_pool *pool = pool_of(2);

    assert_non_null(out);
    for (uint32_t chunk = 1; chunk <= 100; chunk += 99) {
        run_sequence(s, pool, chunk, out);
        for (uint32_t i = 0; i < n; i += i + stride < n ? stride : 1) {
            for (uint32_t h = 0; h < shape.n_heads; h++) {
                const double error = row_error(s, i, h, out);
                if (!(error < 1e-5))
                    fail_msg("position %u head %u of %u/%u × %u type %d: off by %g", i, h,
                             shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.type, error);
            }
        }
    }
    ops_pool_free(pool);
    free(out);
    sequence_free(s);
}

static void near_the_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++)
        check_reference(shapes[i], N_SHORT, 29);
#ifndef QUERN_TOY
    check_reference((struct ops_attention_shape){4, 2, 32, OPS_KV_F32}, 3100, 517);
#endif
}

/* ---- the same bits ------------------------------------------------------------------------- */

/* Plain C is slow, and its cuts are the same code; a sanitizer makes everything ten times slower. */
static bool left_out(enum ops_isa isa, unsigned threads, uint32_t chunk)
{
#ifdef QUERN_TOY
    return threads != 2 || chunk == 7 || chunk == (isa == OPS_ISA_SCALAR ? 1 : 512);
#elif defined QUERN_SANITIZE
    return isa == OPS_ISA_SCALAR ? threads != 2 || chunk != 64 : threads == 1 || chunk == 512;
#else
    return isa == OPS_ISA_SCALAR && threads > 1 && (chunk == 7 || chunk == 512);
#endif
}

static void check_same_bits(struct ops_attention_shape shape, uint32_t n)
{
    static const uint32_t chunks[] = {1, 7, 64, 512};
    struct sequence *s = sequence_new(shape, n, 9);
    const size_t bytes = n * s->q_len * sizeof(float);
    float *first = malloc(bytes), *again = malloc(bytes);
    bool seen = false;

    assert_non_null(first);
    assert_non_null(again);
    for (int isa = -1; next_isa(&isa);) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct ops_pool *pool = pool_of(threads);
            for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
                if (left_out((enum ops_isa)isa, threads, chunks[c]))
                    continue;
                run_sequence(s, pool, chunks[c], seen ? again : first);
                if (seen && memcmp(first, again, bytes))
                    fail_msg("%u/%u × %u type %d: %s, %u threads, chunks of %u differ",
                             shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.type,
                             ops_isa_name((enum ops_isa)isa), threads, chunks[c]);
                seen = true;
            }
            ops_pool_free(pool);
        }
    }
    free(first);
    free(again);
    sequence_free(s);
}

static void same_bits_however_computed(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++)
        check_same_bits(shapes[i], N_CUT);
#ifndef QUERN_SANITIZE
    check_same_bits((struct ops_attention_shape){2, 1, 16, OPS_KV_F32}, N_DEEP);
#endif
#ifndef QUERN_TOY
    check_same_bits((struct ops_attention_shape){3, 1, 32, OPS_KV_Q8_0}, 1100);
#endif
}

#ifndef QUERN_TOY
/* Decoding, prefilling and deep sequences in one batch, against each of them alone. */
static void same_bits_beside_others(void **state)
{
    enum { N = 24 };
    const struct ops_attention_shape shape = {4, 2, 32, OPS_KV_F16};
    struct sequence *s[N];
    struct ops_attention_span spans[N];
    float *alone[N], *beside[N];
    struct ops_attention *a;

    (void)state;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct ops_pool *pool = pool_of(threads);
        assert_int_equal(ops_attention_new(&a, &shape, 2048, 2500, threads), 0);
        for (uint32_t i = 0; i < N; i++) {
            /* Deep decoders (more than the table of splits has room for), short ones, prompts. */
            const uint32_t n = i < 18 ? 1025 + 60 * i : i < 21 ? 30 + i : 100 * i % 700 + 1;
            const uint32_t n_new = i < 21 ? 1 : n;
            const size_t len = n * (size_t)shape.n_heads * shape.head_dim;
            s[i] = sequence_new(shape, n, i);
            alone[i] = calloc(len, sizeof(float));
            beside[i] = calloc(len, sizeof(float));
            assert_non_null(alone[i]);
            assert_non_null(beside[i]);
            run_sequence(s[i], pool, 512, alone[i]);
            if (n_new == n)
                sequence_forget(s[i]);
            spans[i] = span_at(s[i], n - n_new, n_new, beside[i]);
        }
        ops_attention_run(pool, a, spans, N, s[0]->q_len, s[0]->kv_len, s[0]->q_len);
        for (uint32_t i = 0; i < N; i++) {
            const size_t at = spans[i].first_position * s[i]->q_len;
            assert_memory_equal(alone[i] + at, beside[i] + at,
                                (s[i]->n * s[i]->q_len - at) * sizeof(float));
            sequence_free(s[i]);
            free(alone[i]);
            free(beside[i]);
        }
        ops_attention_free(a);
        ops_pool_free(pool);
    }
}
#endif

/* ---- extremes ------------------------------------------------------------------------------ */

static bool row_is_nan(const struct sequence *s, const float *out, uint32_t position)
{
    for (size_t i = 0; i < s->q_len; i++) {
        if (!isnan(out[position * s->q_len + i]))
            return false;
    }
    return true;
}

static void bad_numbers_stay_where_they_are(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const uint32_t n = 140, at = 77;

    (void)state;
    for (int type = OPS_KV_F32; type <= OPS_KV_Q8_0; type++) {
        const struct ops_attention_shape shape = {2, 1, 32, (enum ops_kv_type)type};
        struct sequence *s = sequence_new(shape, n, 3);
        float *good = calloc(n * s->q_len, sizeof(float));
        float *out = calloc(n * s->q_len, sizeof(float));
        struct ops_pool *pool = pool_of(1);
        assert_non_null(good);
        assert_non_null(out);
        run_sequence(s, pool, 20, good);
        for (int b = 0; b < 3; b++) {
            /* A value that is no number is seen by every later position, and by none before. */
            const float v = s->v[at * s->kv_len + 5];
            for (uint32_t d = 0; d < s->kv_len; d++)
                s->v[at * s->kv_len + d] = bad[b];
            run_sequence(s, pool, 20, out);
            assert_memory_equal(out, good, at * s->q_len * sizeof(float));
            for (size_t i = at * s->q_len; i < n * s->q_len; i++)
                assert_false(isfinite(out[i]));
            for (uint32_t d = 0; d < s->kv_len; d++)
                s->v[at * s->kv_len + d] = v;
            run_sequence(s, pool, 20, good);
            /* A query that is no number spoils its own row only. */
            const float q = s->q[at * s->q_len + 1];
            s->q[at * s->q_len + 1] = bad[b];
            s->q[at * s->q_len + 33] = bad[b];
            run_sequence(s, pool, 20, out);
            assert_memory_equal(out, good, at * s->q_len * sizeof(float));
            assert_true(row_is_nan(s, out, at));
            assert_memory_equal(out + (at + 1) * s->q_len, good + (at + 1) * s->q_len,
                                (n - at - 1) * s->q_len * sizeof(float));
            s->q[at * s->q_len + 1] = s->q[at * s->q_len + 33] = q;
            run_sequence(s, pool, 20, good);
        }
        /* Float16 overflow, and a key that is no number. */
        s->k[at * s->kv_len + 3] = NAN;
        run_sequence(s, pool, 20, out);
        assert_memory_equal(out, good, at * s->q_len * sizeof(float));
        assert_true(row_is_nan(s, out, at));
        assert_true(row_is_nan(s, out, n - 1));
        ops_pool_free(pool);
        free(good);
        free(out);
        sequence_free(s);
    }
}

/* Scores far apart, denormal and zero keys: one position wins, or all weigh the same. */
static void extreme_scores(void **state)
{
    const uint32_t n = 300;

    (void)state;
    for (int type = OPS_KV_F32; type <= OPS_KV_Q8_0; type++) {
        const struct ops_attention_shape shape = {3, 1, 32, (enum ops_kv_type)type};
        struct sequence *s = sequence_new(shape, n, 4);
        float *out = calloc(n * s->q_len, sizeof(float));
        struct ops_pool *pool = pool_of(2);
        assert_non_null(out);
        for (size_t i = 0; i < n * s->q_len; i++)
            s->q[i] *= 1e4f;
        for (uint32_t chunk = 1; chunk <= 64; chunk += 63) {
            run_sequence(s, pool, chunk, out);
            for (uint32_t p = 0; p < n; p += 23)
                assert_true(row_error(s, p, 1, out) < 1e-5);
        }
        for (size_t i = 0; i < n * s->kv_len; i++)
            s->k[i] = i % 3 ? 1e-41f : 0.0f;
        run_sequence(s, pool, 64, out);
        for (uint32_t p = 0; p < n; p += 23)
            assert_true(row_error(s, p, 1, out) < 1e-5);
        ops_pool_free(pool);
        free(out);
        sequence_free(s);
    }
}

static void bad_shapes(void **state)
{
    static const struct ops_attention_shape bad[] = {
        {0, 1, 64, OPS_KV_F32},  {4, 0, 64, OPS_KV_F32}, {5, 2, 64, OPS_KV_F32},
        {4, 2, 8, OPS_KV_F32},   {4, 2, 72, OPS_KV_F32}, {4, 2, 272, OPS_KV_F32},
        {4, 2, 48, OPS_KV_Q8_0}, {4, 2, 0, OPS_KV_F16},  {4, 2, 64, (enum ops_kv_type)3},
        {1, 2, 64, OPS_KV_F16},
    };
    const struct ops_attention_shape good = {4, 2, 64, OPS_KV_F16};
    struct ops_attention *a = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(ops_kv_page_bytes(&bad[i]), 0);
        assert_int_equal(ops_attention_bytes(&bad[i], 1, 1, 1), 0);
        assert_int_equal(ops_attention_new(&a, &bad[i], 1, 1, 1), -EINVAL);
    }
    assert_int_equal(ops_attention_new(&a, &good, 0, 1, 1), -EINVAL);
    assert_int_equal(ops_attention_new(&a, &good, 1, 0, 1), -EINVAL);
    assert_int_equal(ops_attention_new(&a, &good, 1, 1, 0), -EINVAL);
    assert_int_equal(ops_attention_new(&a, &good, SIZE_MAX / 8, 1, 1), -EINVAL);
    assert_null(a);
    for (size_t i = 0; i < N_SHAPES; i++)
        assert_int_equal(ops_kv_page_bytes(&shapes[i]) % 64, 0);
    assert_int_equal(ops_kv_page_bytes(&good), 64 * 2 * 2 * 64 * 2);
    ops_attention_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_the_definition),
        cmocka_unit_test(same_bits_however_computed),
#ifndef QUERN_TOY
        cmocka_unit_test(same_bits_beside_others),
#endif
        cmocka_unit_test(bad_numbers_stay_where_they_are),
        cmocka_unit_test(extreme_scores),
        cmocka_unit_test(bad_shapes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
