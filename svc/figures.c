/* Counts and times (see figures.h). */
#include "svc/figures.h"

#include <stddef.h>

const uint64_t figures_bounds_us[FIGURES_BOUNDS] = {
    100,    200,    500,     1000,    2000,    5000,     10000,    20000,    50000,     100000,
    200000, 500000, 1000000, 2000000, 5000000, 10000000, 20000000, 50000000, 100000000, 200000000,
};

void figures_note(struct figures_histogram *histogram, uint64_t us)
{
    uint32_t i = 0;
    while (i < FIGURES_BOUNDS && us > figures_bounds_us[i])
        i++;
    histogram->counts[i]++;
    histogram->n++;
    histogram->sum_us += us;
}

_Static_assert(sizeof(struct figures_counters) % sizeof(uint64_t) == 0, "counters are uint64_t");

void figures_add(struct figures_counters *total, const struct figures_counters *more)
{
    uint64_t *to = (uint64_t *)total;
    const uint64_t *from = (const uint64_t *)more;
    for (size_t i = 0; i < sizeof *total / sizeof *to; i++)
        to[i] += from[i];
}

uint64_t figures_quantile(const struct figures_histogram *histogram, double part)
{
    uint64_t below = 0, wanted = (uint64_t)(part * (double)histogram->n);
    if (histogram->n == 0)
        return 0;
    for (uint32_t i = 0; i < FIGURES_BOUNDS; i++) {
        below += histogram->counts[i];
        if (below >= wanted && below > 0)
            return figures_bounds_us[i];
    }
    return UINT64_MAX;
}
