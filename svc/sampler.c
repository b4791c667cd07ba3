/* From logits to a token (see sampler.h for the order and the generator).
 *
 * Penalised ids are few: they are taken out of the row and kept in double precision beside it. The
 * row is then read once for the maxima of its blocks, and only blocks whose maximum reaches a
 * threshold are looked at: a vocabulary of 152k costs one vectorised pass, the rest is a handful
 * of candidates.
 *
 * Top-p without top-k cuts by the mass of the whole row. One more vectorised pass in float32 gives
 * that mass within MASS_ERROR; from it follows a value below which nothing can be kept, and the
 * cut itself, made in double precision, is decided by either end of the interval. Where the two
 * ends differ, the mass is summed in double precision: what is kept is always what that sum says.
 *
 * Where nothing is cut, u first chooses among the penalised ids and the blocks, by their sums in
 * float32, which have the same bits everywhere, and then within its block by weights in double
 * precision. */
#include "svc/sampler.h"

#include "ops/vector.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCAN_BLOCK = 64 };

/* Below this many temperatures under the maximum, even 152k tokens together weigh less than half
 * a unit of the 53-bit draw: they cannot be drawn and are not looked at. */
static const double WEIGHT_FLOOR = 48.0;

/* Relative error of a mass summed in float32. With a = (x - max) / T, a weight is off by |a| · 3 ·
 * 2^-24 from three roundings, 1.25 · 2^-23 from exp, and 7 · 2^-24 from the sums within a block:
 * 3.5e-6 for |a| ≤ 16, and those below weigh so little that they add 5.4e-6 even among 2^24. */
static const double MASS_ERROR = 1e-5;

struct history_entry {
    uint32_t id;
    uint32_t n_outputs;
};

struct sampler_history {
    uint32_t n, n_max;
    uint32_t mask;                 /* slots - 1 */
    uint32_t *slots;               /* open addressing: entry number + 1, 0 empty */
    struct history_entry *entries; /* (n_max), in order of first appearance */
};

struct saved_logit {
    uint32_t id;
    float value;
};

/* One draw's weights: exp((value - best) / temperature). */
struct draw {
    const struct sampler_params *params;
    float *row;
    double best;
    double floor;                 /* values below weigh nothing */
    double limit_low, limit_high; /* top_p · mass, which lies between; equal where it is known */
};

struct sampler {
    uint32_t n_tokens;
    size_t n_blocks; /* of SCAN_BLOCK tokens */
    size_t n_candidates;
    size_t n_kept;
    struct sampler_candidate *candidates; /* (n_tokens) gathered, then a heap */
    struct sampler_candidate *kept;       /* (n_tokens) */
    float *maxima;                        /* of the row, in blocks of SCAN_BLOCK */
    float *sums;                          /* of its weights, in the same blocks */
    uint32_t *ids;                        /* (n_tokens) found in the row */
    size_t n_saved;
    struct saved_logit *saved; /* (n_tokens) what penalised entries of the row were */
    bool whole;                /* the last draw cut nothing, and kept is not filled yet */
    struct draw draw;          /* that draw */
};

/* ---- parameters ---------------------------------------------------------------------------- */

static int check_range(const char *name, double value, double low, bool low_open, double high,
                       char *why, size_t why_size)
{
    if (value <= high && (low_open ? value > low : value >= low))
        return 0;
    snprintf(why, why_size, "%s is %g, but must be %s %g and at most %g.", name, value,
             low_open ? "above" : "at least", low, high);
    return -EINVAL;
}

int sampler_params_check(const struct sampler_params *params, char *why, size_t why_size)
{
    int r = check_range("temperature", params->temperature, 0, false, 100, why, why_size);
    if (r == 0)
        r = check_range("top_p", params->top_p, 0, true, 1, why, why_size);
    if (r == 0)
        r = check_range("min_p", params->min_p, 0, false, 1, why, why_size);
    if (r == 0)
        r = check_range("repetition_penalty", params->repetition_penalty, 0, true, 100, why,
                        why_size);
    if (r == 0)
        r = check_range("presence_penalty", params->presence_penalty, -100, false, 100, why,
                        why_size);
    if (r == 0)
        r = check_range("frequency_penalty", params->frequency_penalty, -100, false, 100, why,
                        why_size);
    return r;
}

/* ---- history ------------------------------------------------------------------------------- */

int sampler_history_new(struct sampler_history **ret, uint32_t n_ids_max)
{
    struct sampler_history *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    uint32_t n_slots = 16;
    while (n_slots < n_ids_max && n_slots < UINT32_C(1) << 30)
        n_slots *= 2;
    n_slots *= 2; /* at most half full */
    h->n_max = n_ids_max;
    h->mask = n_slots - 1;
    h->slots = calloc(n_slots, sizeof *h->slots);
    h->entries = calloc(n_ids_max ? n_ids_max : 1, sizeof *h->entries);
    if (!h->slots || !h->entries) {
        sampler_history_free(h);
        return -ENOMEM;
    }
    *ret = h;
    return 0;
}

void sampler_history_free(struct sampler_history *history)
{
    if (!history)
        return;
    free(history->slots);
    free(history->entries);
    free(history);
}

void sampler_history_add(struct sampler_history *history, uint32_t id, int is_output)
{
    uint32_t slot = (id * UINT32_C(2654435761)) & history->mask;
    while (history->slots[slot] && history->entries[history->slots[slot] - 1].id != id)
        slot = (slot + 1) & history->mask;
    if (!history->slots[slot]) {
        if (history->n == history->n_max)
            return;
        history->entries[history->n] = (struct history_entry){.id = id};
        history->slots[slot] = ++history->n;
    }
    history->entries[history->slots[slot] - 1].n_outputs += is_output != 0;
}

/* ---- generator ----------------------------------------------------------------------------- */

void sampler_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t ret[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)UINT32_C(0xD2511F53) * c0;
        uint64_t p1 = (uint64_t)UINT32_C(0xCD9E8D57) * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    ret[0] = c0;
    ret[1] = c1;
    ret[2] = c2;
    ret[3] = c3;
}

static double uniform(uint64_t seed, uint32_t sample, uint64_t index)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), sample, 0};
    uint32_t out[4];
    sampler_philox(key, counter, out);
    uint64_t bits = (uint64_t)out[0] << 32 | out[1];
    return (double)(bits >> 11) * 0x1p-53;
}

/* exp for x in [-708, 0] by plain double operations: x = k ln 2 + r, a Taylor polynomial of degree
 * 13 on |r| ≤ 0.35 (relative error below 1e-15). libm's may differ between processors. */
static double weight_exp(double x)
{
    static const double inverse_factorial[] = {1.0 / 6227020800.0,
                                               1.0 / 479001600.0,
                                               1.0 / 39916800.0,
                                               1.0 / 3628800.0,
                                               1.0 / 362880.0,
                                               1.0 / 40320.0,
                                               1.0 / 5040.0,
                                               1.0 / 720.0,
                                               1.0 / 120.0,
                                               1.0 / 24.0,
                                               1.0 / 6.0,
                                               0.5,
                                               1.0,
                                               1.0};
    static const double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
    if (!(x > -708.0))
        return 0.0;
    int64_t k = (int64_t)(x * 0x1.71547652b82fep+0 - 0.5); /* towards zero, x ≤ 0: nearest */
    double r = (x - (double)k * ln2_high) - (double)k * ln2_low;
    double p = inverse_factorial[0];
    for (size_t i = 1; i < sizeof inverse_factorial / sizeof *inverse_factorial; i++)
        p = p * r + inverse_factorial[i];
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* ---- candidates ---------------------------------------------------------------------------- */

static bool better(const struct sampler_candidate *a, const struct sampler_candidate *b)
{
    return a->value > b->value || (a->value == b->value && a->id < b->id);
}

/* Moves heap[i] down until no child goes before it. `best_on_top`: a heap of the best, else of the
 * worst. */
static void sift_down(struct sampler_candidate *heap, size_t n, size_t i, bool best_on_top)
{
    struct sampler_candidate moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && better(&heap[child + 1], &heap[child]) == best_on_top)
            child++;
        if (better(&heap[child], &moving) != best_on_top)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heapify(struct sampler_candidate *heap, size_t n, bool best_on_top)
{
    for (size_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i, best_on_top);
}

/* Keeps in heap[0 … *n) (worst on top) the k best of what it held and of the row, whose maxima are
 * known. */
static void select_best(const struct sampler *s, struct sampler_candidate *heap, size_t *n,
                        size_t k, const float *row)
{
    size_t n_row = s->n_tokens;

    for (size_t start = 0; start < n_row; start += SCAN_BLOCK) {
        size_t end = start + SCAN_BLOCK < n_row ? start + SCAN_BLOCK : n_row;
        if (*n == k && s->maxima[start / SCAN_BLOCK] < heap[0].value)
            continue;
        for (size_t i = start; i < end; i++) {
            struct sampler_candidate c = {.id = (uint32_t)i, .value = row[i]};
            if (!(row[i] > -INFINITY))
                continue;
            if (*n < k) {
                heap[(*n)++] = c;
                if (*n == k)
                    heapify(heap, k, false);
            } else if (better(&c, &heap[0])) {
                heap[0] = c;
                sift_down(heap, k, 0, false);
            }
        }
    }
    if (*n < k)
        heapify(heap, *n, false);
}

static void take_out(struct sampler *s, float *row, uint32_t id)
{
    s->saved[s->n_saved++] = (struct saved_logit){.id = id, .value = row[id]};
    row[id] = -INFINITY;
}

/* Takes out of the row what may not be drawn. */
static void ban(struct sampler *s, const struct sampler_params *p, float *row, uint64_t index)
{
    for (uint32_t i = 0; index < p->min_tokens && i < p->n_ends; i++)
        if (p->ends[i] < s->n_tokens && row[p->ends[i]] > -INFINITY)
            take_out(s, row, p->ends[i]);
    for (uint32_t i = 0; i < p->n_biases; i++)
        if (isinf(p->biases[i].bias) && p->biases[i].id < s->n_tokens &&
            row[p->biases[i].id] > -INFINITY)
            take_out(s, row, p->biases[i].id);
}

static double bias_of(const struct sampler_params *p, uint32_t id)
{
    uint32_t low = 0, high = p->n_biases;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (p->biases[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->n_biases && p->biases[low].id == id ? p->biases[low].bias : 0;
}

/* Moves what penalties and biases change from the row to the candidates; banned ids just go. */
static void take_changed(struct sampler *s, const struct sampler_params *p,
                         const struct sampler_history *h, float *row, uint64_t index)
{
    bool repetition = p->repetition_penalty != 1.0f;
    bool output = p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;

    s->n_saved = s->n_candidates = 0;
    ban(s, p, row, index);
    for (uint32_t i = 0; h && (repetition || output) && i < h->n; i++) {
        const struct history_entry *e = &h->entries[i];
        if (e->id >= s->n_tokens || !(row[e->id] > -INFINITY) || (!repetition && !e->n_outputs))
            continue;
        double value = row[e->id] + bias_of(p, e->id);
        value = value > 0 ? value / p->repetition_penalty : value * p->repetition_penalty;
        if (e->n_outputs)
            value -= (double)p->presence_penalty + (double)p->frequency_penalty * e->n_outputs;
        take_out(s, row, e->id);
        s->candidates[s->n_candidates++] = (struct sampler_candidate){.id = e->id, .value = value};
    }
    for (uint32_t i = 0; i < p->n_biases; i++) { /* those that have been taken out are -infinity */
        uint32_t id = p->biases[i].id;
        if (id >= s->n_tokens || !(row[id] > -INFINITY))
            continue;
        double value = row[id] + (double)p->biases[i].bias;
        take_out(s, row, id);
        s->candidates[s->n_candidates++] = (struct sampler_candidate){.id = id, .value = value};
    }
}

static void put_back(const struct sampler *s, float *row)
{
    for (size_t i = 0; i < s->n_saved; i++)
        row[s->saved[i].id] = s->saved[i].value;
}

/* ---- cuts ---------------------------------------------------------------------------------- */

static double weight_of(const struct draw *d, double value)
{
    return weight_exp((value - d->best) / (double)d->params->temperature);
}

/* Ids of the row that are not below the threshold into s->ids; returns how many. */
static size_t find_in_row(struct sampler *s, const float *row, double threshold)
{
    float least = (float)threshold;
    size_t n = 0;
    if ((double)least > threshold)
        least = nextafterf(least, -INFINITY);
    size_t n_found = ops_at_least(row, s->n_tokens, SCAN_BLOCK, s->maxima, least, s->ids);
    for (size_t i = 0; i < n_found; i++)
        if (row[s->ids[i]] >= threshold)
            s->ids[n++] = s->ids[i];
    return n;
}

/* Leaves what is not below the threshold as candidates, with their weights; returns their mass. */
static double gather(struct sampler *s, const struct draw *d, double threshold)
{
    size_t n = 0, n_row = find_in_row(s, d->row, threshold);
    double mass = 0;
    for (size_t i = 0; i < s->n_candidates; i++)
        if (s->candidates[i].value >= threshold)
            s->candidates[n++] = s->candidates[i];
    for (size_t i = 0; i < n_row; i++)
        s->candidates[n++] =
            (struct sampler_candidate){.id = s->ids[i], .value = d->row[s->ids[i]]};
    s->n_candidates = n;
    for (size_t i = 0; i < n; i++) {
        s->candidates[i].p = weight_of(d, s->candidates[i].value);
        mass += s->candidates[i].p;
    }
    return mass;
}

/* The mass of candidates that are beside the row. */
static double mass_beside(const struct sampler *s, const struct draw *d)
{
    double mass = 0;
    for (size_t i = 0; i < s->n_candidates; i++)
        if (s->candidates[i].value >= d->floor)
            mass += weight_of(d, s->candidates[i].value);
    return mass;
}

/* `mass` and the row's weights in double precision, in the order of ids. */
static double exact_mass(struct sampler *s, const struct draw *d, double mass)
{
    size_t n = find_in_row(s, d->row, d->floor);
    for (size_t i = 0; i < n; i++)
        mass += weight_of(d, d->row[s->ids[i]]);
    return mass;
}

/* The row's weights within MASS_ERROR, those of its blocks in s->sums in units of *ret_unit. */
static double rough_mass(struct sampler *s, const struct draw *d, double *ret_unit)
{
    float max = s->maxima[0];
    double sum = 0;
    for (size_t i = 1; i < s->n_blocks; i++)
        max = s->maxima[i] > max ? s->maxima[i] : max;
    ops_block_exp_sum(d->row, s->n_tokens, SCAN_BLOCK, max, 1.0f / d->params->temperature, s->sums);
    for (size_t i = 0; i < s->n_blocks; i++)
        sum += (double)s->sums[i];
    *ret_unit = weight_of(d, max);
    return sum * *ret_unit;
}

/* A weight such that all tokens that weigh less weigh at most `rest` together: a block gives them
 * no more than its sum, and no more than that weight for each of its tokens. Each round takes the
 * sums of more blocks for what they are, which leaves more of `rest` to the tokens of the others.
 */
static double weight_below(const struct sampler *s, double rest, double unit)
{
    double weight = rest / s->n_tokens;
    for (int round = 0; round < 6; round++) {
        double whole = 0, count = (double)s->n_candidates, before = weight;
        for (size_t i = 0; i < s->n_blocks; i++) {
            double sum = (double)s->sums[i] * unit * (1 + MASS_ERROR);
            bool fits = sum <= SCAN_BLOCK * before;
            whole += fits ? sum : 0;
            count += fits ? 0 : SCAN_BLOCK;
        }
        if (count == 0)
            break;
        weight = (rest - whole) / count;
        if (weight < before * 1.1)
            return weight > before ? weight : before;
    }
    return weight;
}

/* The value of a weight; a little lower, for the rounding of the logarithm. */
static double value_of(const struct draw *d, double weight)
{
    double temperature = (double)d->params->temperature;
    double value = d->best + temperature * log(weight) - 1e-6 * temperature - 1e-15 * fabs(d->best);
    return value > d->floor ? value : d->floor;
}

/* Gathers all that top-p over the whole vocabulary may keep. *ret_beside: what exact_mass needs. */
static void gather_nucleus(struct sampler *s, struct draw *d, double *ret_beside)
{
    double top_p = (double)d->params->top_p, unit;
    *ret_beside = mass_beside(s, d);
    if (!isfinite(1.0f / d->params->temperature)) {
        d->limit_low = d->limit_high = top_p * exact_mass(s, d, *ret_beside);
        gather(s, d, d->floor);
        return;
    }
    double mass = *ret_beside + rough_mass(s, d, &unit);
    d->limit_low = top_p * mass * (1 - MASS_ERROR);
    d->limit_high = top_p * mass * (1 + MASS_ERROR);
    double rest = (1 - top_p) * mass * (1 - MASS_ERROR);
    gather(s, d, value_of(d, weight_below(s, rest, unit)));
}

/* Cuts the candidates by top-p and min-p into kept, best first. */
static void cut_tail(struct sampler *s, struct draw *d, double beside)
{
    const struct sampler_params *p = d->params;
    double before = 0;
    size_t n = s->n_candidates;
    heapify(s->candidates, n, true);
    s->n_kept = 0;
    while (n > 0) {
        struct sampler_candidate best = s->candidates[0];
        if (p->top_p < 1.0f && before >= d->limit_low && before < d->limit_high)
            d->limit_low = d->limit_high = (double)p->top_p * exact_mass(s, d, beside);
        if (s->n_kept > 0 &&
            ((p->top_p < 1.0f && before >= d->limit_low) || best.p < (double)p->min_p))
            break;
        s->kept[s->n_kept++] = best;
        before += best.p;
        s->candidates[0] = s->candidates[--n];
        sift_down(s->candidates, n, 0, true);
    }
}

/* The k-th greatest value of candidates and row together, and the greatest. False if none. */
static bool find_bounds(struct sampler *s, const float *row, size_t k, double *ret_kth,
                        double *ret_best)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_candidates; i++) {
        struct sampler_candidate c = s->candidates[i];
        if (n < k) {
            s->kept[n++] = c;
            if (n == k)
                heapify(s->kept, k, false);
        } else if (better(&c, &s->kept[0])) {
            s->kept[0] = c;
            sift_down(s->kept, k, 0, false);
        }
    }
    ops_block_max(row, s->n_tokens, SCAN_BLOCK, s->maxima);
    select_best(s, s->kept, &n, k, row);
    if (n == 0)
        return false;
    *ret_kth = s->kept[0].value;
    *ret_best = s->kept[0].value;
    for (size_t i = 1; i < n; i++)
        if (s->kept[i].value > *ret_best)
            *ret_best = s->kept[i].value;
    return true;
}

/* Fills kept with what may be drawn, its weights in p. `kth`: where top-k cuts; -infinity:
 * nowhere. */
static void choose_among(struct sampler *s, const struct sampler_params *p, float *row, double best,
                         double kth)
{
    struct draw d = {.params = p, .row = row, .best = best};
    double beside = 0;
    d.floor = best - WEIGHT_FLOOR * (double)p->temperature;
    s->whole = !(p->top_p < 1.0f) && !(p->min_p > 0.0f) && kth < d.floor &&
               isfinite(1.0f / p->temperature);
    s->draw = d;
    if (s->whole)
        return;
    if (p->top_p < 1.0f && kth < d.floor)
        gather_nucleus(s, &d, &beside);
    else if (p->top_p < 1.0f)
        d.limit_low = d.limit_high = (double)p->top_p * gather(s, &d, kth);
    else if (p->min_p > 0.0f && kth < d.floor)
        gather(s, &d, value_of(&d, (double)p->min_p));
    else
        gather(s, &d, kth > d.floor ? kth : d.floor);
    if (p->top_p < 1.0f || p->min_p > 0.0f) {
        cut_tail(s, &d, beside);
    } else {
        memcpy(s->kept, s->candidates, s->n_candidates * sizeof *s->kept);
        s->n_kept = s->n_candidates;
    }
}

/* Which token of a block is drawn by u of [0, 1). */
static uint32_t pick_in_block(const struct sampler *s, const struct draw *d, size_t block, double u)
{
    double weights[SCAN_BLOCK], mass = 0, sum = 0;
    size_t start = block * SCAN_BLOCK, n = s->n_tokens - start, chosen = 0;
    if (n > SCAN_BLOCK)
        n = SCAN_BLOCK;
    for (size_t i = 0; i < n; i++) {
        double value = d->row[start + i];
        weights[i] = value >= d->floor ? weight_of(d, value) : 0;
        mass += weights[i];
    }
    for (size_t i = 0; i < n && !(sum > u * mass); i++) {
        sum += weights[i];
        chosen = weights[i] > 0 ? i : chosen;
    }
    return (uint32_t)(start + chosen);
}

/* The token that u of [0, 1) draws where nothing is cut. */
static uint32_t pick_whole(struct sampler *s, const struct draw *d, double u)
{
    double unit, before = 0, beside = mass_beside(s, d);
    double target = u * (beside + rough_mass(s, d, &unit));
    size_t last = s->n_blocks;
    uint32_t chosen = 0;
    for (size_t i = 0; i < s->n_candidates; i++) {
        double weight =
            s->candidates[i].value >= d->floor ? weight_of(d, s->candidates[i].value) : 0;
        before += weight;
        if (weight > 0)
            chosen = s->candidates[i].id;
        if (before > target)
            return chosen;
    }
    for (size_t b = 0; b < s->n_blocks; b++) {
        double weight = (double)s->sums[b] * unit;
        if (!(weight > 0) || (double)s->maxima[b] < d->floor)
            continue;
        last = b;
        if (before + weight > target)
            return pick_in_block(s, d, b, (target - before) / weight);
        before += weight;
    }
    return last < s->n_blocks ? pick_in_block(s, d, last, 1) : chosen;
}

/* Makes probabilities of the kept weights; returns which is drawn by u of [0, 1). */
static size_t pick(struct sampler *s, double u)
{
    double mass = 0, sum = 0;
    size_t chosen = s->n_kept - 1;
    for (size_t i = 0; i < s->n_kept; i++)
        mass += s->kept[i].p;
    for (size_t i = 0; i < s->n_kept; i++) {
        sum += s->kept[i].p;
        if (sum > u * mass && i < chosen)
            chosen = i;
        s->kept[i].p /= mass;
    }
    return chosen;
}

/* ---- public -------------------------------------------------------------------------------- */

int sampler_new(struct sampler **ret, uint32_t n_tokens)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->n_tokens = n_tokens;
    s->candidates = calloc(n_tokens, sizeof *s->candidates);
    s->kept = calloc(n_tokens, sizeof *s->kept);
    s->saved = calloc(n_tokens, sizeof *s->saved);
    s->n_blocks = ((size_t)n_tokens + SCAN_BLOCK - 1) / SCAN_BLOCK;
    s->maxima = calloc(s->n_blocks + 1, sizeof *s->maxima);
    s->sums = calloc(s->n_blocks + 1, sizeof *s->sums);
    s->ids = calloc(n_tokens, sizeof *s->ids);
    if (!s->candidates || !s->kept || !s->saved || !s->maxima || !s->sums || !s->ids) {
        sampler_free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

void sampler_free(struct sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->candidates);
    free(sampler->kept);
    free(sampler->saved);
    free(sampler->maxima);
    free(sampler->sums);
    free(sampler->ids);
    free(sampler);
}

int sampler_draw(struct sampler *sampler, const struct sampler_params *params,
                 const struct sampler_history *history, float *logits, uint32_t sample,
                 uint64_t index, uint32_t *ret_id)
{
    struct sampler *s = sampler;
    double threshold, best;
    bool greedy = params->temperature == 0.0f;
    s->whole = false;
    size_t k = greedy ? 1 : params->top_k;

    take_changed(s, params, history, logits, index);
    if (!find_bounds(s, logits, k && k < s->n_tokens ? k : 1, &threshold, &best)) {
        s->n_kept = 0;
        put_back(s, logits);
        return s->n_saved > 0 ? -ENODATA : -EDOM; /* only what is banned leaves no candidate */
    }
    if (greedy) {
        s->n_kept = 1;
        s->kept[0].p = 1;
        *ret_id = s->kept[0].id;
        put_back(s, logits);
        return 0;
    }
    choose_among(s, params, logits, best, k && k < s->n_tokens ? threshold : -INFINITY);
    double u = uniform(params->seed, sample, index);
    *ret_id = s->whole ? pick_whole(s, &s->draw, u) : s->kept[pick(s, u)].id;
    put_back(s, logits);
    return 0;
}

/* Fills kept with all that a draw without cuts chose among. */
static void fill_whole(struct sampler *s)
{
    for (size_t i = 0; i < s->n_saved; i++)
        s->draw.row[s->saved[i].id] = -INFINITY;
    gather(s, &s->draw, s->draw.floor);
    put_back(s, s->draw.row);
    memcpy(s->kept, s->candidates, s->n_candidates * sizeof *s->kept);
    s->n_kept = s->n_candidates;
    pick(s, 0);
    s->whole = false;
}

const struct sampler_candidate *sampler_kept(struct sampler *sampler, size_t *ret_n)
{
    if (sampler->whole)
        fill_whole(sampler);
    *ret_n = sampler->n_kept;
    return sampler->kept;
}

size_t sampler_top(struct sampler *sampler, const float *logits, size_t n,
                   const struct sampler_candidate **ret_top)
{
    size_t n_top = 0;
    if (n > sampler->n_tokens)
        n = sampler->n_tokens;
    *ret_top = sampler->candidates;
    if (n == 0)
        return 0;
    ops_block_max(logits, sampler->n_tokens, SCAN_BLOCK, sampler->maxima);
    select_best(sampler, sampler->candidates, &n_top, n, logits);
    for (size_t left = n_top; left > 1;) { /* heap sort: the worst goes to the end */
        struct sampler_candidate worst = sampler->candidates[0];
        sampler->candidates[0] = sampler->candidates[--left];
        sift_down(sampler->candidates, left, 0, false);
        sampler->candidates[left] = worst;
    }
    return n_top;
}
