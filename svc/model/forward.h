/* The forward pass of Qwen2, dense and MoE, for a batch of spans of several sequences.
 *
 * A step takes a few spans (each: consecutive new tokens of one sequence) and gives the logits of
 * the rows that were asked for. The bits of a row depend on its sequence's tokens alone: not on the
 * batch, on how the prompt was cut, on threads or instruction set. */
#ifndef QUERN_SVC_MODEL_FORWARD_H
#define QUERN_SVC_MODEL_FORWARD_H

#include "mm/kv.h"
#include "svc/model/model.h"

struct forward; /* scratch for steps of up to max_tokens rows */

/* Rows that a step usually takes: what quernd's scratch is made for. */
#define FORWARD_CHUNK 512

struct forward_span {
    const uint32_t *tokens; /* n_tokens ids, each < n_vocab */
    uint32_t n_tokens;
    uint32_t first_position;
    const uint32_t *pages; /* KV pages of positions 0 …; enough for first_position + n_tokens */
    uint32_t n_logits;     /* logits of the last n_logits rows: 0, 1, … n_tokens */
    float *logits;         /* out: (n_logits, n_vocab). The head is read once for spans whose logits
                              lie evenly spaced in memory, in the order of the spans */
    float *hidden; /* out, or NULL: the last n_hidden rows after the final norm (embeddings) */
    uint32_t n_hidden;
    int error; /* out: 0, -EDOM where NaN or infinity arose in this span (others go on), or
                  -ECANCELED where it was dropped */
};

/* Something to do between two layers, on the calling thread: it may set `error` of spans to
 * -ECANCELED. These are dropped there and then, and the others go on with the same bits; keys and
 * values of the dropped spans' positions are undefined. Not to call back into forward or pool. */
struct forward_watch {
    void (*look)(void *arg);
    void *arg;
};

/* Takes all memory that steps need; they allocate nothing. Returns 0, -ENOMEM, or -ENOTSUP for a
 * shape that ops does not compute. */
int forward_new(struct forward **ret, const struct model *model, struct ops_pool *pool,
                struct mm_kv *kv, enum ops_kv_type kv_type, uint32_t max_tokens,
                uint32_t max_context);
void forward_free(struct forward *forward);
/* What forward_new takes, for the memory budget. */
size_t forward_bytes(const struct model *model, uint32_t max_tokens, uint32_t max_context,
                     unsigned n_threads);

/* Bytes of a KV slice (one layer of one page) for mm_kv_new. */
size_t forward_kv_slice_bytes(const struct model *model, enum ops_kv_type kv_type);

/* Runs the spans (of different sequences, each with n_tokens ≥ 1; sum of n_tokens ≤ max_tokens).
 * `watch` may be NULL. Returns 0, or -ECANCELED where no span is left of what was dropped. */
int forward_run(struct forward *forward, struct forward_span *spans, size_t n_spans,
                const struct forward_watch *watch);

#endif
