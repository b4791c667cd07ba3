/* The KV pool: a fixed number of pages taken at start, shared by reference count.
 *
 * A page holds a run of positions (OPS_KV_PAGE) of every layer: its slices, one a layer, lie
 * slice_bytes apart. mm knows nothing of what is in them. The pool belongs to the engine thread: no
 * function here is thread-safe, and none but _new allocates.
 *
 * Zeroing a pool takes longer than all else of a warm start (1 to 3 GB/s), so it goes on on a thread
 * of the arena's own after _new: pages are taken in the order in which they are populated, and
 * _take waits for its page. */
#ifndef QUERN_MM_KV_H
#define QUERN_MM_KV_H

#include "mm/arena.h"

struct mm_kv;

#define MM_KV_NONE UINT32_MAX

int mm_kv_new(struct mm_kv **ret, uint32_t n_pages, uint32_t n_layers, size_t slice_bytes,
              enum mm_huge_policy policy, char *why, size_t why_size);
void mm_kv_free(struct mm_kv *kv);

/* A page with one reference, or MM_KV_NONE when the pool is empty (or the machine could not give what
 * it had promised: see mm_kv_settle). Its bytes are what was there. */
uint32_t mm_kv_take(struct mm_kv *kv);
void mm_kv_ref(struct mm_kv *kv, uint32_t page);
void mm_kv_drop(struct mm_kv *kv, uint32_t page);
uint32_t mm_kv_refs(const struct mm_kv *kv, uint32_t page);

/* Copies all layers of page `from` to page `to`, both taken. */
void mm_kv_copy(struct mm_kv *kv, uint32_t to, uint32_t from);

uint8_t *mm_kv_slice(const struct mm_kv *kv, uint32_t page, uint32_t layer);
uint32_t mm_kv_n_pages(const struct mm_kv *kv);
uint32_t mm_kv_n_free(const struct mm_kv *kv);
const struct mm_arena *mm_kv_arena(const struct mm_kv *kv);

/* Takes note of the end of populating, where it has come: from then on the arena's kind and lock are
 * final. May allocate. 1: it still goes on; 0; -ENOMEM with a sentence: it failed, and the pool is
 * smaller than promised. */
int mm_kv_settle(struct mm_kv *kv, char *why, size_t why_size);

#endif
