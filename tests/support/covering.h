/* Covering arrays of strength two: few rows in which every pair of levels of any two factors occurs
 * (greedy, after Cohen, Dalal, Fredman and Patton, "The AETG system", 1997). */
#ifndef QUERN_TESTS_SUPPORT_COVERING_H
#define QUERN_TESTS_SUPPORT_COVERING_H

#include <stddef.h>

#define COVERING_FACTORS_MAX 12
#define COVERING_LEVELS_MAX  64

struct covering {
    size_t n_factors;
    unsigned n_levels[COVERING_FACTORS_MAX];
    /* What a row costs; of rows that cover as much the cheaper is taken. Levels of factors that are
     * not chosen yet are 0. */
    double (*cost)(const unsigned *row);
};

/* Writes up to max_rows rows of n_factors levels to rows, the same ones each time; returns how many
 * there are, and in *n_pairs how many pairs they cover: all. 0: max_rows are not enough. */
size_t covering_rows(const struct covering *covering, unsigned *rows, size_t max_rows,
                     size_t *n_pairs);

#endif
