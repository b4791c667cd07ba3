/* Compares counts (see guard.h). */
#include "mm/guard.h"

#include "mm/stats.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static bool is_on;
static _Thread_local uint64_t before, paused;

int mm_guard_turn_on(void)
{
    uint64_t unused;
    int r = mm_stats_thread_allocated(&unused);
    is_on = r == 0;
    return r;
}

void mm_guard_begin(void)
{
    if (is_on)
        mm_stats_thread_allocated(&before);
}

void mm_guard_end(const char *what)
{
    uint64_t after = before;
    if (!is_on || (mm_stats_thread_allocated(&after), after == before))
        return;
    fprintf(stderr, "%s allocated %" PRIu64 " bytes\n", what, after - before);
    abort();
}

void mm_guard_pause(void)
{
    if (is_on)
        mm_stats_thread_allocated(&paused);
}

void mm_guard_go_on(void)
{
    uint64_t after = paused;
    if (is_on && mm_stats_thread_allocated(&after) == 0)
        before += after - paused;
}
