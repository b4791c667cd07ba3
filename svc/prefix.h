/* The prefix cache: full KV pages by the exact tokens that they were computed from.
 *
 * A block is one page of tokens after a given block before it (none: the start). Blocks of the same
 * owner (a uid, or one for all where the policy shares) with the same tokens after the same block
 * are the same page. The tokens themselves are compared, not only their hash. A page in the cache
 * holds one reference; pages that nobody else holds are given up least recently used first. */
#ifndef QUERN_SVC_PREFIX_H
#define QUERN_SVC_PREFIX_H

#include "mm/kv.h"

#include <stdint.h>

#define PREFIX_NONE UINT32_MAX

struct prefix;

/* For the pages of `kv`, page_len tokens each. -ENOMEM. */
int prefix_new(struct prefix **ret, struct mm_kv *kv, uint32_t page_len);
void prefix_free(struct prefix *prefix); /* drops its references */

/* The page of the block `tokens` (page_len) after block `parent` (a page in the cache, or
 * PREFIX_NONE for the start), with a reference for the caller; PREFIX_NONE where it is not there. */
uint32_t prefix_find(struct prefix *prefix, uint32_t owner, uint32_t parent,
                     const uint32_t *tokens);

/* A block was used, and with it those before it: to be called once, with the last one found. */
void prefix_touch(struct prefix *prefix, uint32_t page);

/* Puts a page that was just computed into the cache. The result is the page that now stands for the
 * block: this one, or the one that was there already; PREFIX_NONE where the parent is gone. */
uint32_t prefix_add(struct prefix *prefix, uint32_t owner, uint32_t parent, const uint32_t *tokens,
                    uint32_t page);

/* A page for new tokens, with one reference for the caller: a free one, or the least recently used
 * of the cache that nobody holds. MM_KV_NONE where all are held. */
uint32_t prefix_take_page(struct prefix *prefix);

uint32_t prefix_n_cached(const struct prefix *prefix); /* pages in the cache, held or not */
uint32_t prefix_n_idle(const struct prefix *prefix);   /* of these, held by nobody: counted anew */

#endif
