/* The budget of memory (see budget.h). */
#include "svc/model/budget.h"

#include "mm/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int query(struct mm_memory *ret, char *why, size_t why_size)
{
    int r = mm_memory_query(ret, "");
    if (r < 0)
        snprintf(why, why_size, "cannot tell how much memory is available: %s", strerror(-r));
    return r;
}

int model_room(uint64_t *ret, char *why, size_t why_size)
{
    struct mm_memory memory;
    int r = query(&memory, why, why_size);
    if (r == 0)
        *ret = memory.ordinary + memory.hugetlb;
    return r;
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1u << 30);
}

static uint64_t sum_of(const struct model_need *n)
{
    return n->weights + n->kv + n->scratch;
}

/* What does not come from the pool of huge pages: an arena does where all of it is there. */
static uint64_t ordinary_of(const struct model_need *needs, size_t n, uint64_t hugetlb)
{
    uint64_t ordinary = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t arenas[] = {needs[i].is_there ? 0 : needs[i].weights, needs[i].kv};
        for (size_t k = 0; k < sizeof arenas / sizeof *arenas; k++) {
            if (arenas[k] <= hugetlb)
                hugetlb -= arenas[k];
            else
                ordinary += arenas[k];
        }
        ordinary += needs[i].scratch;
    }
    return ordinary;
}

static size_t list_needs(const struct model_need *needs, size_t n, char *ret, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < n && used < size; i++) {
        const struct model_need *m = &needs[i];
        if (n > 1)
            used += (size_t)snprintf(ret + used, size - used, "%s\"%.40s\" %.2f: ", i ? "; " : "",
                                     m->name, gib(sum_of(m)));
        if (used < size)
            used += (size_t)snprintf(ret + used, size - used,
                                     "weights %.2f, KV of %" PRIu64 " positions %.2f, scratch %.2f",
                                     gib(m->weights), m->n_positions, gib(m->kv), gib(m->scratch));
    }
    return used;
}

int model_fit(const struct model_need *needs, size_t n, enum mm_huge_policy huge_pages,
              uint64_t limit_bytes, char *why, size_t why_size)
{
    struct mm_memory memory;
    char each[1200] = "";
    uint64_t total = 0;
    int r = query(&memory, why, why_size);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        total += sum_of(&needs[i]);
    const bool limited = limit_bytes && total > limit_bytes;
    const uint64_t hugetlb =
        huge_pages == MM_HUGE_OFF || memory.hugetlb_in_cgroup ? 0 : memory.hugetlb;
    if (!limited && ordinary_of(needs, n, hugetlb) <= memory.ordinary)
        return 0;
    list_needs(needs, n, each, sizeof each);
    snprintf(why, why_size,
             "the model%s not fit in memory: %s %.2f GiB (%s) and %.2f GiB %s: take a smaller "
             "--context, a smaller --kv type, %s",
             n > 1 ? "s do" : " does", n > 1 ? "they need" : "it needs", gib(total), each,
             gib(limited ? limit_bytes : memory.ordinary),
             limited                             ? "are allowed"
             : memory.ordinary == memory.machine ? "are available"
                                                 : "are left by the cgroup's limit",
             n > 1 ? "less --kv-bytes, or fewer models" : "or a model quantized to fewer bits");
    return -ENOMEM;
}
