/* jemalloc's statistics through mallctl, which is a weak symbol here: the library is linked to
 * quernd and to nothing else, so that sanitizer builds and tests go without it. */
#include "mm/stats.h"

#include <errno.h>
#include <stdbool.h>

extern int mallctl(const char *name, void *old, size_t *old_size, void *new, size_t new_size)
    __attribute__((weak));

static bool read_size(const char *name, uint64_t *ret)
{
    size_t value = 0, size = sizeof value;
    if (mallctl(name, &value, &size, NULL, 0) != 0)
        return false;
    *ret = value;
    return true;
}

int mm_stats_query(struct mm_stats *ret)
{
    if (mallctl == NULL)
        return -ENOSYS;
    /* The numbers are those of the last epoch: begin a new one. */
    uint64_t epoch = 1;
    if (mallctl("epoch", NULL, NULL, &epoch, sizeof epoch) != 0)
        return -ENOSYS;
    struct mm_stats stats;
    if (!read_size("stats.allocated", &stats.allocated) ||
        !read_size("stats.active", &stats.active) ||
        !read_size("stats.resident", &stats.resident) || !read_size("stats.mapped", &stats.mapped))
        return -ENOSYS;
    *ret = stats;
    return 0;
}

int mm_stats_thread_allocated(uint64_t *ret)
{
    static _Thread_local uint64_t *counter; /* jemalloc's own, of this thread */
    if (mallctl == NULL)
        return -ENOSYS;
    if (counter == NULL) {
        uint64_t *found = NULL;
        size_t size = sizeof found;
        if (mallctl("thread.allocatedp", &found, &size, NULL, 0) != 0 || found == NULL)
            return -ENOSYS;
        counter = found;
    }
    *ret = *counter;
    return 0;
}
