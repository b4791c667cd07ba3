/* Owns: the choice of rows (see covering.h). */
#include "tests/support/covering.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* done[f][a][g][b], f < g: level a of factor f has met level b of factor g. */
struct state {
    const struct covering *covering;
    bool done[COVERING_FACTORS_MAX][COVERING_LEVELS_MAX][COVERING_FACTORS_MAX][COVERING_LEVELS_MAX];
    size_t n_left;
};

static bool *pair(struct state *s, size_t f, unsigned a, size_t g, unsigned b)
{
    return f < g ? &s->done[f][a][g][b] : &s->done[g][b][f][a];
}

/* The first pair that has not met, in the order of factors. */
static void first_pair(struct state *s, size_t *f, unsigned *a, size_t *g, unsigned *b)
{
    const struct covering *c = s->covering;
    for (*f = 0; *f < c->n_factors; ++*f)
        for (*g = *f + 1; *g < c->n_factors; ++*g)
            for (*a = 0; *a < c->n_levels[*f]; ++*a)
                for (*b = 0; *b < c->n_levels[*g]; ++*b)
                    if (!*pair(s, *f, *a, *g, *b))
                        return;
    assert(!"pairs left");
}

/* The level of factor f that meets most new levels of those chosen; then the cheapest. */
static unsigned best_level(struct state *s, size_t f, unsigned *row, const bool *chosen)
{
    const struct covering *c = s->covering;
    unsigned best = 0;
    double best_value = 0;
    for (unsigned a = 0; a < c->n_levels[f]; a++) {
        unsigned n_new = 0;
        for (size_t g = 0; g < c->n_factors; g++)
            n_new += chosen[g] && !*pair(s, f, a, g, row[g]);
        row[f] = a;
        const double value = n_new - c->cost(row);
        if (a == 0 || value > best_value) {
            best = a;
            best_value = value;
        }
    }
    return best;
}

static void choose_row(struct state *s, unsigned *row)
{
    const struct covering *c = s->covering;
    bool chosen[COVERING_FACTORS_MAX] = {false};
    size_t f, g;
    unsigned a, b;
    memset(row, 0, c->n_factors * sizeof *row);
    first_pair(s, &f, &a, &g, &b);
    row[f] = a;
    row[g] = b;
    chosen[f] = chosen[g] = true;
    for (size_t h = 0; h < c->n_factors; h++) {
        if (chosen[h])
            continue;
        row[h] = best_level(s, h, row, chosen);
        chosen[h] = true;
    }
    for (f = 0; f < c->n_factors; f++)
        for (g = f + 1; g < c->n_factors; g++) {
            bool *done = pair(s, f, row[f], g, row[g]);
            s->n_left -= !*done;
            *done = true;
        }
}

size_t covering_rows(const struct covering *covering, unsigned *rows, size_t max_rows,
                     size_t *n_pairs)
{
    struct state *s = calloc(1, sizeof *s);
    size_t n = 0;
    assert(s && covering->n_factors <= COVERING_FACTORS_MAX);
    s->covering = covering;
    for (size_t f = 0; f < covering->n_factors; f++) {
        assert(covering->n_levels[f] <= COVERING_LEVELS_MAX);
        for (size_t g = f + 1; g < covering->n_factors; g++)
            s->n_left += (size_t)covering->n_levels[f] * covering->n_levels[g];
    }
    *n_pairs = s->n_left;
    while (s->n_left && n < max_rows)
        choose_row(s, rows + n++ * covering->n_factors);
    if (s->n_left)
        n = 0;
    free(s);
    return n;
}
