/* The sampler against a slow double-precision reference written from the definition, a chi-square
 * test of what it draws, and the generator against the published known answers. */
#include "ops/isa.h"
#include "ops/vector.h"
#include "svc/sampler.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_MAX = 3000 };

static uint64_t random_state = 12345;

static uint32_t random_u32(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33);
}

static double random_unit(void)
{
    return random_u32() / 2147483648.0;
}

struct reference {
    uint32_t id;
    double value;
    double p;
};

static int by_value(const void *a, const void *b)
{
    const struct reference *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool banned(const struct sampler_params *p, uint32_t id, uint64_t index)
{
    for (uint32_t i = 0; i < p->n_ends; i++)
        if (p->ends[i] == id && index < p->min_tokens)
            return true;
    for (uint32_t i = 0; i < p->n_biases; i++)
        if (p->biases[i].id == id && isinf(p->biases[i].bias))
            return true;
    return false;
}

static double bias_of(const struct sampler_params *p, uint32_t id)
{
    for (uint32_t i = 0; i < p->n_biases; i++)
        if (p->biases[i].id == id)
            return p->biases[i].bias;
    return 0;
}

/* Fills ref (n entries, best first) with the distribution after every processor; p is 0 for what
 * was cut. *ret_margin is how near a cut came to its limit. */
static void reference_run(const struct sampler_params *p, const float *logits, uint32_t n,
                          const uint32_t *n_prompt, const uint32_t *n_output, uint64_t index,
                          struct reference *ref, double *ret_margin)
{
    *ret_margin = 1;
    for (uint32_t i = 0; i < n; i++) {
        double x = logits[i] + bias_of(p, i);
        if (n_prompt[i] || n_output[i])
            x = x > 0 ? x / p->repetition_penalty : x * p->repetition_penalty;
        if (n_output[i])
            x -= (double)p->presence_penalty + (double)p->frequency_penalty * n_output[i];
        ref[i] = (struct reference){.id = i, .value = banned(p, i, index) ? -INFINITY : x};
    }
    qsort(ref, n, sizeof *ref, by_value);
    if (p->temperature == 0) {
        ref[0].p = 1;
        return;
    }
    double total = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool in = !p->top_k || p->top_k >= n || ref[i].value >= ref[p->top_k - 1].value;
        ref[i].p = in ? exp((ref[i].value - ref[0].value) / p->temperature) : 0;
        total += ref[i].p;
    }
    double before = 0, limit = p->top_p < 1 ? p->top_p * total : INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        double weight = ref[i].p;
        if (i > 0 && (before >= limit || weight < p->min_p))
            ref[i].p = 0;
        if (i > 0 && fabs(before - limit) / total < *ret_margin)
            *ret_margin = fabs(before - limit) / total;
        before += weight;
    }
    total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += ref[i].p;
    for (uint32_t i = 0; i < n; i++)
        ref[i].p /= total;
}

static struct sampler_params random_params(void)
{
    struct sampler_params p = {.temperature = (float)(0.1 + 1.9 * random_unit()),
                               .top_p = 1,
                               .repetition_penalty = 1,
                               .seed = random_u32()};
    if (random_u32() % 10 == 0)
        p.temperature = 0;
    if (random_u32() % 3)
        p.top_k = 1 + random_u32() % 60;
    if (random_u32() % 3)
        p.top_p = (float)(0.05 + 0.95 * random_unit());
    if (random_u32() % 4 == 0)
        p.min_p = (float)(0.3 * random_unit());
    if (random_u32() % 2)
        p.repetition_penalty = (float)(0.8 + 0.6 * random_unit());
    if (random_u32() % 3 == 0)
        p.presence_penalty = (float)(2 * random_unit() - 1);
    if (random_u32() % 3 == 0)
        p.frequency_penalty = (float)(random_unit() - 0.5);
    return p;
}

enum { BIASES_MAX = 40, ENDS = 3 };

/* Biases of up to half the ids (at least one stays without), a fifth of them bans, and ends. */
static void random_rules(struct sampler_params *p, uint32_t n, uint64_t index,
                         struct sampler_bias *biases, uint32_t *ends)
{
    if (random_u32() % 2 && n > ENDS + 1) {
        uint32_t step = n / BIASES_MAX + 2;
        for (uint32_t id = ENDS + random_u32() % step; id < n && p->n_biases < BIASES_MAX;
             id += 1 + random_u32() % step)
            if (id + 1 < n)
                biases[p->n_biases++] = (struct sampler_bias){
                    .id = id,
                    .bias = random_u32() % 5 ? (float)(20 * random_unit() - 10) : -INFINITY};
        p->biases = biases;
    }
    if (random_u32() % 2 && n > ENDS + 1) {
        for (uint32_t i = 0; i < ENDS; i++)
            ends[i] = random_u32() % ENDS; /* with repeats, as a file may have them */
        p->ends = ends;
        p->n_ends = ENDS;
        p->min_tokens = (uint32_t)index + random_u32() % 2;
    }
}

static void agrees_with_the_reference(void **state)
{
    (void)state;
    static float logits[N_MAX], work[N_MAX];
    static uint32_t n_prompt[N_MAX], n_output[N_MAX];
    static struct reference ref[N_MAX];
    int n_close = 0;
    double worst = 0;
    for (int round = 0; round < 10000; round++) {
        uint32_t n = round % 20 ? 1 + random_u32() % 300 : 1 + random_u32() % N_MAX;
        double spread = 1 + 10 * random_unit();
        bool coarse = random_u32() % 4 == 0; /* many equal logits */
        for (uint32_t i = 0; i < n; i++) {
            double x = spread * (random_unit() + random_unit() + random_unit() - 1.5);
            logits[i] = coarse ? (float)floor(x) : (float)x;
        }
        memset(n_prompt, 0, sizeof n_prompt);
        memset(n_output, 0, sizeof n_output);
        struct sampler *sampler;
        struct sampler_history *history;
        assert_int_equal(sampler_new(&sampler, n), 0);
        assert_int_equal(sampler_history_new(&history, 200), 0);
        for (int i = 0; i < 200; i++) {
            uint32_t id = random_u32() % n;
            bool output = random_u32() % 2;
            (output ? n_output : n_prompt)[id]++;
            sampler_history_add(history, id, output);
        }
        struct sampler_params p = random_params();
        struct sampler_bias biases[BIASES_MAX];
        uint32_t ends[ENDS];
        double margin;
        random_rules(&p, n, (uint64_t)round, biases, ends);
        reference_run(&p, logits, n, n_prompt, n_output, (uint64_t)round, ref, &margin);
        memcpy(work, logits, n * sizeof *work);
        uint32_t id = UINT32_MAX, again = UINT32_MAX;
        assert_int_equal(sampler_draw(sampler, &p, history, work, 0, (uint64_t)round, &id), 0);
        size_t n_kept;
        const struct sampler_candidate *kept = sampler_kept(sampler, &n_kept);
        if (margin < 1e-9) {
            n_close++; /* the cut is decided by the last bits of a sum */
        } else {
            static double p_by_id[N_MAX];
            memset(p_by_id, 0, sizeof p_by_id);
            bool drawn = false;
            for (size_t i = 0; i < n_kept; i++) {
                p_by_id[kept[i].id] = kept[i].p;
                drawn = drawn || kept[i].id == id;
            }
            assert_true(drawn);
            for (uint32_t i = 0; i < n; i++) {
                double mine = p_by_id[ref[i].id];
                assert_true(fabs(mine - ref[i].p) <= 1e-6);
                worst = fmax(worst, fabs(mine - ref[i].p));
                if (ref[i].p > 1e-15)
                    assert_true(mine > 0);
                if (ref[i].p == 0)
                    assert_true(mine == 0);
            }
        }
        assert_memory_equal(work, logits, n * sizeof *work);
        assert_int_equal(sampler_draw(sampler, &p, history, work, 0, (uint64_t)round, &again), 0);
        assert_int_equal(id, again);
        sampler_history_free(history);
        sampler_free(sampler);
    }
    assert_true(n_close < 1000);
    printf("note: 10,000 cases, %d decided by the last bits of a sum; greatest error of a "
           "probability %.1e\n",
           n_close, worst);
}

enum { N_WHOLE = 151646 };

/* Normal noise below a few dozen likely tokens, as a model's logits are; `spread` up: flatter. */
static void fill_whole(float *logits, double spread)
{
    for (int i = 0; i < N_WHOLE; i++) {
        double sum = 0;
        for (int j = 0; j < 6; j++)
            sum += random_unit() - 0.5;
        logits[i] = (float)(spread * sum);
    }
    for (int i = 0; i < 48; i++)
        logits[random_u32() % N_WHOLE] = (float)(18 - 8 * random_unit());
}

/* The sum of what the n best of ref weigh, over the sum of all: a top_p at which a cut is decided
 * by more bits than a mass in float32 has. */
static float share_of_best(const struct reference *ref, uint32_t n, double temperature)
{
    double best = 0, all = 0;
    for (uint32_t i = 0; i < N_WHOLE; i++) {
        all += exp((ref[i].value - ref[0].value) / temperature);
        best = i + 1 == n ? all : best;
    }
    return (float)(best / all);
}

/* Top-p over Qwen2's whole vocabulary, on every instruction set: the same bits, and the kept set
 * of the reference, also where the rough mass cannot decide. */
static void nucleus_of_the_whole_vocabulary(void **state)
{
    (void)state;
    static float logits[N_WHOLE];
    static uint32_t n_prompt[N_WHOLE], n_output[N_WHOLE];
    static struct reference ref[N_WHOLE];
    static struct sampler_candidate first[N_WHOLE];
    struct sampler *sampler;
    struct sampler_history *history;
    int n_decided = 0, n_border = 0;
    assert_int_equal(sampler_new(&sampler, N_WHOLE), 0);
    assert_int_equal(sampler_history_new(&history, 1024), 0);
    for (int i = 0; i < 1024; i++) {
        uint32_t id = random_u32() % N_WHOLE;
        n_output[id]++;
        sampler_history_add(history, id, 1);
    }
    for (int round = 0; round < 24; round++) {
        struct sampler_params p = random_params();
        double margin;
        size_t n_first = 0;
        p.top_k = 0;
        p.temperature = (float)(0.3 + random_unit());
        p.top_p = (float)(round % 4 ? 0.5 + 0.499 * random_unit() : 0.999);
        p.min_p = round % 3 ? 0 : 1e-5f;
        fill_whole(logits, round % 8 == 7 ? 8 : 3.5);
        reference_run(&p, logits, N_WHOLE, n_prompt, n_output, 0, ref, &margin);
        if (round % 2) {
            p.top_p = share_of_best(ref, 1 + random_u32() % 40, (double)p.temperature);
            reference_run(&p, logits, N_WHOLE, n_prompt, n_output, 0, ref, &margin);
            n_border += margin < 1e-6; /* a tenth of what the rough mass may be off by */
        }
        for (int isa = 0; isa < OPS_N_ISA; isa++) {
            uint32_t id;
            size_t n;
            if (!ops_isa_supported((enum ops_isa)isa))
                continue;
            assert_int_equal(ops_isa_select(ops_isa_name((enum ops_isa)isa)), 0);
            assert_int_equal(sampler_draw(sampler, &p, history, logits, 0, 0, &id), 0);
            const struct sampler_candidate *kept = sampler_kept(sampler, &n);
            if (n_first == 0) {
                n_first = n;
                memcpy(first, kept, n * sizeof *kept);
            }
            assert_int_equal(n, n_first);
            assert_memory_equal(first, kept, n * sizeof *kept);
        }
        if (margin < 1e-9)
            continue;
        n_decided++;
        for (uint32_t i = 0; i < n_first; i++) {
            assert_int_equal(first[i].id, ref[i].id);
            assert_true(fabs(first[i].p - ref[i].p) <= 1e-6 && ref[i].p > 0);
        }
        assert_true(n_first == N_WHOLE || ref[n_first].p == 0);
    }
    assert_true(n_decided >= 16);
    assert_int_equal(n_border, 12);
    assert_int_equal(ops_isa_select(NULL), 0);
    sampler_history_free(history);
    sampler_free(sampler);
}

/* The 0.9999 quantile of chi-square (Wilson and Hilferty). */
static double chi_square_limit(double freedom)
{
    double part = 2 / (9 * freedom), root = 1 - part + 3.719 * sqrt(part);
    return freedom * root * root * root;
}

/* Draws under p, counted beside the reference's probabilities; ids that are expected less than 8
 * times are counted together. */
static void assert_draws_follow(const char *name, const struct sampler_params *p, uint32_t n,
                                double spread)
{
    enum { DRAWS = 60000, HISTORY = 30 };
    static float logits[N_MAX], work[N_MAX];
    static uint32_t n_prompt[N_MAX], n_output[N_MAX], counts[N_MAX];
    static struct reference ref[N_MAX];
    struct sampler *sampler;
    struct sampler_history *history;
    double margin, chi_square = 0, rest = 0;
    uint32_t n_rest = 0, freedom = 0;
    memset(n_output, 0, sizeof n_output);
    memset(counts, 0, sizeof counts);
    assert_int_equal(sampler_new(&sampler, n), 0);
    assert_int_equal(sampler_history_new(&history, HISTORY), 0);
    for (uint32_t i = 0; i < n; i++)
        logits[i] = (float)(spread * random_unit());
    for (int i = 0; i < HISTORY; i++) {
        uint32_t id = random_u32() % n;
        n_output[id]++;
        sampler_history_add(history, id, 1);
    }
    reference_run(p, logits, n, n_prompt, n_output, 0, ref, &margin);
    for (int i = 0; i < DRAWS; i++) {
        uint32_t id;
        memcpy(work, logits, n * sizeof *work);
        assert_int_equal(sampler_draw(sampler, p, history, work, 0, (uint64_t)i, &id), 0);
        counts[id]++;
    }
    for (uint32_t i = 0; i < n; i++) {
        double expected = ref[i].p * DRAWS, off = counts[ref[i].id] - expected;
        if (ref[i].p == 0)
            assert_int_equal(counts[ref[i].id], 0);
        if (expected < 8) {
            rest += expected;
            n_rest += counts[ref[i].id];
        } else {
            chi_square += off * off / expected;
            freedom++;
        }
    }
    if (rest >= 8) {
        chi_square += (n_rest - rest) * (n_rest - rest) / rest;
        freedom++;
    }
    assert_true(freedom > 2);
    printf("note: chi-square %.1f of %s, %u degrees of freedom, limit %.1f\n", chi_square, name,
           freedom - 1, chi_square_limit(freedom - 1));
    assert_true(chi_square < chi_square_limit(freedom - 1));
    sampler_history_free(history);
    sampler_free(sampler);
}

static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    const struct sampler_bias biases[] = {{1, 2}, {2, -INFINITY}, {7, -1}, {31, 4}};
    struct sampler_params p = {
        .temperature = 0.9f, .top_k = 20, .top_p = 1, .repetition_penalty = 1, .seed = 99};
    assert_draws_follow("top-k 20", &p, 40, 3);
    p.top_k = 0;
    assert_draws_follow("nothing cut, one block", &p, 40, 3);
    assert_draws_follow("nothing cut, 47 blocks", &p, 3000, 6);
    p.repetition_penalty = 1.3f;
    p.frequency_penalty = 0.2f;
    p.biases = biases;
    p.n_biases = 4;
    assert_draws_follow("nothing cut, penalties and biases", &p, 300, 6);
    p.top_p = 0.8f;
    assert_draws_follow("top-p 0.8, penalties and biases", &p, 300, 4);
    p.min_p = 0.05f;
    assert_draws_follow("top-p 0.8 and min-p 0.05, penalties and biases", &p, 300, 4);
    p = (struct sampler_params){
        .temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repetition_penalty = 1.1f, .seed = 5};
    assert_draws_follow("Qwen2's defaults", &p, 3000, 8);
    p = (struct sampler_params){
        .temperature = 4, .top_p = 1, .min_p = 0.3f, .repetition_penalty = 1, .seed = 6};
    assert_draws_follow("min-p 0.3 at temperature 4", &p, 500, 9);
}

/* Where nothing is cut: the same token on every instruction set, what is kept is the reference's,
 * and the sums by which a block is chosen are the masses of its tokens within 1e-6. */
static void whole_vocabulary(void **state)
{
    (void)state;
    static float logits[N_WHOLE], sums[N_WHOLE / 64 + 1];
    static uint32_t n_prompt[N_WHOLE], n_output[N_WHOLE];
    static struct reference ref[N_WHOLE];
    struct sampler *sampler;
    struct sampler_history *history;
    double worst = 0;
    assert_int_equal(sampler_new(&sampler, N_WHOLE), 0);
    assert_int_equal(sampler_history_new(&history, 1024), 0);
    for (int i = 0; i < 1024; i++) {
        uint32_t id = random_u32() % N_WHOLE;
        n_output[id]++;
        sampler_history_add(history, id, 1);
    }
    for (int round = 0; round < 6; round++) {
        struct sampler_params p = random_params();
        uint32_t first[50], id;
        double margin, mass = 0, rough = 0;
        float max = -INFINITY;
        p.top_k = 0;
        p.top_p = 1;
        p.min_p = 0;
        p.temperature = (float)(0.3 + random_unit());
        fill_whole(logits, round % 3 == 2 ? 8 : 3.5);
        for (int isa = 0, n_done = 0; isa < OPS_N_ISA; isa++) {
            if (!ops_isa_supported((enum ops_isa)isa))
                continue;
            assert_int_equal(ops_isa_select(ops_isa_name((enum ops_isa)isa)), 0);
            for (uint64_t i = 0; i < 50; i++) {
                assert_int_equal(sampler_draw(sampler, &p, history, logits, 0, i, &id), 0);
                if (n_done == 0)
                    first[i] = id;
                assert_int_equal(id, first[i]);
            }
            n_done++;
        }
        reference_run(&p, logits, N_WHOLE, n_prompt, n_output, 0, ref, &margin);
        size_t n;
        const struct sampler_candidate *kept = sampler_kept(sampler, &n);
        assert_true(n <= N_WHOLE);
        static double p_by_id[N_WHOLE];
        memset(p_by_id, 0, sizeof p_by_id);
        for (size_t i = 0; i < n; i++)
            p_by_id[kept[i].id] = kept[i].p;
        for (uint32_t i = 0; i < N_WHOLE; i++)
            assert_true(fabs(p_by_id[ref[i].id] - ref[i].p) <= 1e-6 &&
                        (p_by_id[ref[i].id] > 0 || ref[i].p < 1e-15));
        for (uint32_t i = 0; i < N_WHOLE; i++)
            max = logits[i] > max ? logits[i] : max;
        ops_block_exp_sum(logits, N_WHOLE, 64, max, 1 / p.temperature, sums);
        for (uint32_t b = 0; b < (N_WHOLE + 63) / 64; b++)
            rough += (double)sums[b];
        for (uint32_t i = 0; i < N_WHOLE; i++)
            mass += exp(((double)logits[i] - (double)max) / (double)p.temperature);
        for (uint32_t b = 0; b < (N_WHOLE + 63) / 64; b++) {
            double exact = 0;
            for (uint32_t i = 64 * b; i < 64 * b + 64 && i < N_WHOLE; i++)
                exact += exp(((double)logits[i] - (double)max) / (double)p.temperature);
            worst = fmax(worst, fabs((double)sums[b] / rough - exact / mass));
        }
    }
    assert_true(worst <= 1e-6);
    printf("note: greatest error of a block's share at %d tokens %.1e\n", (int)N_WHOLE, worst);
    assert_int_equal(ops_isa_select(NULL), 0);
    sampler_history_free(history);
    sampler_free(sampler);
}

/* Random123's kat_vectors for philox4x32 with 10 rounds. */
static void generator_gives_the_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        sampler_philox(known[i].key, known[i].counter, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void seed_sample_and_index_each_matter(void **state)
{
    (void)state;
    enum { N = 1000 };
    static float logits[N], work[N];
    struct sampler *sampler;
    assert_int_equal(sampler_new(&sampler, N), 0);
    struct sampler_params p = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 7};
    uint32_t base, other;
    memcpy(work, logits, sizeof work);
    assert_int_equal(sampler_draw(sampler, &p, NULL, work, 0, 0, &base), 0);
    for (int what = 0; what < 3; what++) {
        struct sampler_params q = p;
        q.seed += what == 0 ? UINT64_C(1) << 40 : 0;
        memcpy(work, logits, sizeof work);
        assert_int_equal(sampler_draw(sampler, &q, NULL, work, what == 1, what == 2, &other), 0);
        assert_int_not_equal(base, other);
    }
    sampler_free(sampler);
}

static void padding_rows_and_nan_are_never_drawn(void **state)
{
    (void)state;
    float logits[8] = {NAN, 1, 2, NAN, 0, 50, 60, 70}; /* ids from 5 on are padding */
    struct sampler *sampler;
    assert_int_equal(sampler_new(&sampler, 5), 0);
    for (int i = 0; i < 200; i++) {
        struct sampler_params p = {.temperature = i % 2 ? 5.0f : 0.0f,
                                   .top_k = i % 3 ? 0 : 4,
                                   .top_p = 1,
                                   .repetition_penalty = 1};
        uint32_t id;
        assert_int_equal(sampler_draw(sampler, &p, NULL, logits, 0, (uint64_t)i, &id), 0);
        assert_true(id == 1 || id == 2 || id == 4);
    }
    const struct sampler_candidate *top;
    assert_int_equal(sampler_top(sampler, logits, 4, &top), 3);
    assert_int_equal(top[0].id, 2);
    assert_int_equal(top[1].id, 1);
    assert_int_equal(top[2].id, 4);

    float none[5] = {NAN, NAN, NAN, NAN, NAN};
    struct sampler_params p = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    uint32_t id = 77;
    assert_int_equal(sampler_draw(sampler, &p, NULL, none, 0, 0, &id), -EDOM);
    assert_int_equal(id, 77);
    sampler_free(sampler);
}

/* Greedy and drawn: what is banned never comes, also where nothing else is left. */
static void banned_is_never_drawn(void **state)
{
    (void)state;
    float logits[4] = {5, 4, 3, 2};
    const struct sampler_bias biases[] = {{0, -INFINITY}, {1, -100}, {3, 50}};
    const uint32_t ends[] = {3, 3};
    struct sampler *sampler;
    struct sampler_params p = {.temperature = 0,
                               .top_p = 1,
                               .repetition_penalty = 1,
                               .biases = biases,
                               .n_biases = 3,
                               .ends = ends,
                               .n_ends = 2,
                               .min_tokens = 1};
    uint32_t id;
    assert_int_equal(sampler_new(&sampler, 4), 0);
    assert_int_equal(sampler_draw(sampler, &p, NULL, logits, 0, 0, &id), 0);
    assert_int_equal(id, 2); /* 3 would end it before the first token */
    assert_int_equal(sampler_draw(sampler, &p, NULL, logits, 0, 1, &id), 0);
    assert_int_equal(id, 3);
    const struct sampler_bias all[] = {{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}};
    p.biases = all;
    assert_int_equal(sampler_draw(sampler, &p, NULL, logits, 0, 0, &id), -ENODATA);
    assert_true(logits[0] == 5 && logits[3] == 2);
    sampler_free(sampler);
}

static void bad_values_are_named(void **state)
{
    (void)state;
    const struct sampler_params good = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    char why[128] = "";
    assert_int_equal(sampler_params_check(&good, why, sizeof why), 0);
    struct sampler_params bad = good;
    bad.temperature = NAN;
    assert_int_equal(sampler_params_check(&bad, why, sizeof why), -EINVAL);
    assert_non_null(strstr(why, "temperature"));
    bad = good;
    bad.top_p = 0;
    assert_int_equal(sampler_params_check(&bad, why, sizeof why), -EINVAL);
    assert_non_null(strstr(why, "top_p"));
    bad = good;
    bad.min_p = 1.5f;
    assert_int_equal(sampler_params_check(&bad, why, sizeof why), -EINVAL);
    assert_non_null(strstr(why, "min_p is 1.5"));
    bad = good;
    bad.repetition_penalty = -1;
    assert_int_equal(sampler_params_check(&bad, why, sizeof why), -EINVAL);
    bad = good;
    bad.frequency_penalty = INFINITY;
    assert_int_equal(sampler_params_check(&bad, why, sizeof why), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference),
        cmocka_unit_test(nucleus_of_the_whole_vocabulary),
        cmocka_unit_test(whole_vocabulary),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(generator_gives_the_known_answers),
        cmocka_unit_test(seed_sample_and_index_each_matter),
        cmocka_unit_test(padding_rows_and_nan_are_never_drawn),
        cmocka_unit_test(banned_is_never_drawn),
        cmocka_unit_test(bad_values_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
