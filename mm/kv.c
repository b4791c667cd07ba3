/* The KV pool: pages by number, a reference count for each, and a stack of the free ones. The page
 * that was dropped last is taken next, while it is still in a cache. */
#include "mm/kv.h"

#include "mm/why.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct mm_kv {
    struct mm_arena arena; /* (n_pages, n_layers, slice_bytes) */
    uint32_t n_pages, n_layers, n_free;
    size_t slice_bytes;
    uint32_t *refs; /* (n_pages) 0: free */
    uint32_t *free; /* (n_pages) the first n_free are the free pages; the last is taken next */
};

int mm_kv_new(struct mm_kv **ret, uint32_t n_pages, uint32_t n_layers, size_t slice_bytes,
              enum mm_huge_policy policy, char *why, size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    size_t page_bytes, bytes;
    if (n_pages == 0 || n_pages == MM_KV_NONE || n_layers == 0 || slice_bytes == 0 ||
        slice_bytes % 64 != 0)
        return -EINVAL;
    if (__builtin_mul_overflow(slice_bytes, (size_t)n_layers, &page_bytes) ||
        __builtin_mul_overflow(page_bytes, (size_t)n_pages, &bytes)) {
        mm_why_set(why, why_size, "A KV pool of %u pages and %u layers is larger than memory.",
                   n_pages, n_layers);
        return -ENOMEM;
    }
    struct mm_kv *kv = calloc(1, sizeof *kv);
    if (kv == NULL)
        return -ENOMEM;
    *kv = (struct mm_kv){.n_pages = n_pages,
                         .n_layers = n_layers,
                         .n_free = n_pages,
                         .slice_bytes = slice_bytes,
                         .arena = {.fd = -1}};
    kv->refs = calloc(n_pages, sizeof *kv->refs);
    kv->free = calloc(n_pages, sizeof *kv->free);
    int r = -ENOMEM;
    if (kv->refs == NULL || kv->free == NULL)
        goto free_kv;
    for (uint32_t i = 0; i < n_pages; i++)
        kv->free[i] = n_pages - 1 - i;
    r = mm_arena_begin(&kv->arena, bytes, policy, why, why_size);
    if (r < 0)
        goto free_kv;
    *ret = kv;
    return 0;

free_kv:
    mm_kv_free(kv);
    return r;
}

void mm_kv_free(struct mm_kv *kv)
{
    if (kv == NULL)
        return;
    mm_arena_unmap(&kv->arena);
    free(kv->free);
    free(kv->refs);
    free(kv);
}

uint32_t mm_kv_take(struct mm_kv *kv)
{
    if (kv->n_free == 0)
        return MM_KV_NONE;
    uint32_t page = kv->free[kv->n_free - 1];
    size_t page_bytes = kv->n_layers * kv->slice_bytes;
    if (mm_arena_await(&kv->arena, (page + 1) * page_bytes) < 0)
        return MM_KV_NONE;
    kv->n_free--;
    kv->refs[page] = 1;
    return page;
}

int mm_kv_settle(struct mm_kv *kv, char *why, size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    if (!mm_arena_is_populated(&kv->arena))
        return 1;
    if (kv->arena.ahead == NULL)
        return 0;
    return mm_arena_finish(&kv->arena, why, why_size);
}

void mm_kv_ref(struct mm_kv *kv, uint32_t page)
{
    assert(page < kv->n_pages && kv->refs[page] > 0 && kv->refs[page] < UINT32_MAX);
    kv->refs[page]++;
}

void mm_kv_drop(struct mm_kv *kv, uint32_t page)
{
    assert(page < kv->n_pages && kv->refs[page] > 0);
    if (--kv->refs[page] == 0)
        kv->free[kv->n_free++] = page;
}

uint32_t mm_kv_refs(const struct mm_kv *kv, uint32_t page)
{
    assert(page < kv->n_pages);
    return kv->refs[page];
}

void mm_kv_copy(struct mm_kv *kv, uint32_t to, uint32_t from)
{
    assert(to != from && kv->refs[to] > 0 && kv->refs[from] > 0);
    memcpy(mm_kv_slice(kv, to, 0), mm_kv_slice(kv, from, 0), kv->n_layers * kv->slice_bytes);
}

uint8_t *mm_kv_slice(const struct mm_kv *kv, uint32_t page, uint32_t layer)
{
    assert(page < kv->n_pages && layer < kv->n_layers);
    return kv->arena.base + ((size_t)page * kv->n_layers + layer) * kv->slice_bytes;
}

uint32_t mm_kv_n_pages(const struct mm_kv *kv)
{
    return kv->n_pages;
}

uint32_t mm_kv_n_free(const struct mm_kv *kv)
{
    return kv->n_free;
}

const struct mm_arena *mm_kv_arena(const struct mm_kv *kv)
{
    return &kv->arena;
}
