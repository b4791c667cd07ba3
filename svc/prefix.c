/* The prefix cache (see prefix.h).
 *
 * A page stands for one block at most, so everything is an array over the pages of the pool and the
 * hash chains run through it: nothing is allocated after _new. A block whose parent was given up
 * cannot be found any more (the parent's serial changed) and ages out. */
#include "svc/prefix.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct block {
    bool is_cached;
    uint32_t owner;
    uint32_t parent;        /* page, or PREFIX_NONE */
    uint64_t parent_serial; /* of the parent when this was added */
    uint64_t serial;        /* of this block; never used twice */
    uint32_t hash;
    uint32_t chain;        /* next page of the same bucket */
    uint32_t newer, older; /* in order of use */
};

struct prefix {
    struct mm_kv *kv;
    uint32_t page_len;
    uint32_t n_pages, n_cached;
    uint32_t mask;        /* buckets - 1 */
    uint32_t *buckets;    /* first page of each, PREFIX_NONE */
    struct block *blocks; /* (n_pages) */
    uint32_t *tokens;     /* (n_pages, page_len) */
    uint32_t newest, oldest;
    uint64_t last_serial;
};

int prefix_new(struct prefix **ret, struct mm_kv *kv, uint32_t page_len)
{
    struct prefix *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->kv = kv;
    p->page_len = page_len;
    p->n_pages = mm_kv_n_pages(kv);
    uint32_t n_buckets = 16;
    while (n_buckets < p->n_pages && n_buckets < UINT32_C(1) << 30)
        n_buckets *= 2;
    p->mask = n_buckets - 1;
    p->buckets = malloc(n_buckets * sizeof *p->buckets);
    p->blocks = calloc(p->n_pages, sizeof *p->blocks);
    p->tokens = calloc((size_t)p->n_pages * page_len, sizeof *p->tokens);
    if (!p->buckets || !p->blocks || !p->tokens) {
        p->n_pages = 0;
        prefix_free(p);
        return -ENOMEM;
    }
    memset(p->buckets, 0xff, n_buckets * sizeof *p->buckets);
    p->newest = p->oldest = PREFIX_NONE;
    *ret = p;
    return 0;
}

void prefix_free(struct prefix *prefix)
{
    if (!prefix)
        return;
    for (uint32_t i = 0; i < prefix->n_pages; i++)
        if (prefix->blocks[i].is_cached)
            mm_kv_drop(prefix->kv, i);
    free(prefix->buckets);
    free(prefix->blocks);
    free(prefix->tokens);
    free(prefix);
}

/* ---- order of use -------------------------------------------------------------------------- */

static void unlink_use(struct prefix *p, uint32_t page)
{
    struct block *b = &p->blocks[page];
    *(b->newer == PREFIX_NONE ? &p->newest : &p->blocks[b->newer].older) = b->older;
    *(b->older == PREFIX_NONE ? &p->oldest : &p->blocks[b->older].newer) = b->newer;
}

static void link_newest(struct prefix *p, uint32_t page)
{
    struct block *b = &p->blocks[page];
    b->newer = PREFIX_NONE;
    b->older = p->newest;
    *(p->newest == PREFIX_NONE ? &p->oldest : &p->blocks[p->newest].newer) = page;
    p->newest = page;
}

/* A block and those before it, these last: a parent is always newer than what hangs on it, so that
 * chains are given up from their ends. */
void prefix_touch(struct prefix *prefix, uint32_t page)
{
    struct prefix *p = prefix;
    while (page != PREFIX_NONE) {
        struct block *b = &p->blocks[page];
        unlink_use(p, page);
        link_newest(p, page);
        uint32_t parent = b->parent;
        if (parent != PREFIX_NONE && p->blocks[parent].serial != b->parent_serial)
            return;
        page = parent;
    }
}

/* ---- blocks -------------------------------------------------------------------------------- */

static uint32_t hash_block(const struct prefix *p, uint32_t owner, uint64_t parent_serial,
                           const uint32_t *tokens)
{
    uint64_t h = (parent_serial + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ owner;
    for (uint32_t i = 0; i < p->page_len; i++)
        h = (h ^ tokens[i]) * UINT64_C(0xFF51AFD7ED558CCD) + (h >> 29);
    return (uint32_t)(h >> 32);
}

static uint64_t serial_of(const struct prefix *p, uint32_t parent)
{
    return parent == PREFIX_NONE ? 0 : p->blocks[parent].serial;
}

static uint32_t look_up(const struct prefix *p, uint32_t owner, uint32_t parent,
                        const uint32_t *tokens, uint32_t hash)
{
    uint64_t parent_serial = serial_of(p, parent);
    for (uint32_t i = p->buckets[hash & p->mask]; i != PREFIX_NONE; i = p->blocks[i].chain) {
        const struct block *b = &p->blocks[i];
        if (b->hash == hash && b->owner == owner && b->parent == parent &&
            b->parent_serial == parent_serial &&
            !memcmp(p->tokens + (size_t)i * p->page_len, tokens, p->page_len * sizeof *tokens))
            return i;
    }
    return PREFIX_NONE;
}

static void give_up(struct prefix *p, uint32_t page)
{
    struct block *b = &p->blocks[page];
    uint32_t *link = &p->buckets[b->hash & p->mask];
    while (*link != page)
        link = &p->blocks[*link].chain;
    *link = b->chain;
    unlink_use(p, page);
    b->is_cached = false;
    b->serial = 0;
    p->n_cached--;
    mm_kv_drop(p->kv, page);
}

uint32_t prefix_find(struct prefix *prefix, uint32_t owner, uint32_t parent, const uint32_t *tokens)
{
    if (parent != PREFIX_NONE && !prefix->blocks[parent].is_cached)
        return PREFIX_NONE;
    uint32_t hash = hash_block(prefix, owner, serial_of(prefix, parent), tokens);
    uint32_t page = look_up(prefix, owner, parent, tokens, hash);
    if (page != PREFIX_NONE)
        mm_kv_ref(prefix->kv, page);
    return page;
}

uint32_t prefix_add(struct prefix *prefix, uint32_t owner, uint32_t parent, const uint32_t *tokens,
                    uint32_t page)
{
    struct prefix *p = prefix;
    if (parent != PREFIX_NONE && !p->blocks[parent].is_cached)
        return PREFIX_NONE;
    uint32_t hash = hash_block(p, owner, serial_of(p, parent), tokens);
    uint32_t there = look_up(p, owner, parent, tokens, hash);
    if (there != PREFIX_NONE)
        return there;
    struct block *b = &p->blocks[page];
    if (b->is_cached)
        return PREFIX_NONE;
    *b = (struct block){.is_cached = true,
                        .owner = owner,
                        .parent = parent,
                        .parent_serial = serial_of(p, parent),
                        .serial = ++p->last_serial,
                        .hash = hash,
                        .chain = p->buckets[hash & p->mask]};
    p->buckets[hash & p->mask] = page;
    memcpy(p->tokens + (size_t)page * p->page_len, tokens, p->page_len * sizeof *tokens);
    mm_kv_ref(p->kv, page);
    p->n_cached++;
    link_newest(p, page);
    prefix_touch(p, page);
    return page;
}

uint32_t prefix_take_page(struct prefix *prefix)
{
    uint32_t page = mm_kv_take(prefix->kv);
    if (page != MM_KV_NONE)
        return page;
    for (uint32_t i = prefix->oldest; i != PREFIX_NONE; i = prefix->blocks[i].newer) {
        if (mm_kv_refs(prefix->kv, i) != 1)
            continue;
        give_up(prefix, i);
        return mm_kv_take(prefix->kv);
    }
    return MM_KV_NONE;
}

uint32_t prefix_n_cached(const struct prefix *prefix)
{
    return prefix->n_cached;
}

uint32_t prefix_n_idle(const struct prefix *prefix)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < prefix->n_pages; i++)
        n += prefix->blocks[i].is_cached && mm_kv_refs(prefix->kv, i) == 1;
    return n;
}
