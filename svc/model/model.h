/* A loaded Qwen2 model: its shape, its packed weights in one arena, its tokenizer. */
#ifndef QUERN_SVC_MODEL_MODEL_H
#define QUERN_SVC_MODEL_MODEL_H

#include "mm/arena.h"
#include "ops/attention.h"
#include "ops/matmul.h"
#include "ops/rope.h"
#include "svc/model/budget.h"
#include "svc/text/tokenizer.h"

#include <stdbool.h>
#include <time.h>

struct model_shape {
    uint32_t n_layers;
    uint32_t d_model; /* hidden size */
    uint32_t d_ff;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_vocab;        /* rows of the head, padding rows included */
    uint32_t n_tokens;       /* ids that the tokenizer knows; the rest is never sampled */
    uint32_t context_length; /* trained (after scaling), from the file */
    float rms_eps;
    bool tied_head;
    struct ops_rope_options rope;
    /* MoE (qwen2moe): 0 experts means dense. */
    uint32_t n_experts, n_experts_used, d_expert, d_shared;
};

struct model_sampling { /* the file's defaults, else the family's */
    float temperature, top_p, repetition_penalty;
    uint32_t top_k;
};

struct model_layer {
    const float *attn_norm; /* (d_model) */
    const float *bq, *bk,
        *bv; /* (n_heads * head_dim), (n_kv_heads * head_dim) twice; NULL if none */
    struct ops_matrix wq, wk, wv, wo;
    const float *ffn_norm; /* (d_model) */
    struct ops_matrix gate, up, down;
    /* MoE */
    struct ops_matrix router;                                 /* (n_experts, d_model) */
    struct ops_matrix *expert_gate, *expert_up, *expert_down; /* n_experts of each */
    struct ops_matrix shared_gate, shared_up, shared_down;
    struct ops_matrix shared_router; /* (1, d_model) */
};

struct model;

struct model_options {
    enum mm_huge_policy huge_pages;
    uint64_t memory_limit_bytes; /* 0: what the machine has; of model_load alone */
    const char *name;            /* NULL: the file's own */
    /* Positions that the caller will serve: RoPE's table has as many, and the refusal counts their KV.
     * 0: the file's, but no more than n_context_max (0: any number). */
    uint32_t n_context, n_context_max;
    enum ops_kv_type kv_type;
    /* --rope-scaling: overrides the file where set */
    bool rope_override;
    struct ops_rope_options rope; /* scaling, factor, original_context, attention_factor only */
    /* Called from time to time while loading; a negative return ends the load with it. */
    int (*progress)(void *arg, uint64_t bytes_done, uint64_t bytes_total);
    void *progress_arg;
    /* Resident weights (residence.h); all NULL: packed from the file at each start. */
    const char *image;        /* "auto": beside the model or in the cache folder; else its path */
    const char *cache_folder; /* for "auto", where beside the model is no place; or NULL */
    const char *store; /* "auto": systemd's; "hugetlbfs": a mount of it; else a folder on one */
    void (*image_done)(int error, const char *sentence); /* or NULL; from a thread of its own */
};

/* Loads a GGUF file (single, or the first of a split set) into an arena, packing as it reads.
 * Returns 0 or -errno with a sentence in why. */
int model_load(struct model **ret, const char *path, const struct model_options *options,
               struct ops_pool *pool, char *why, size_t why_size);
void model_free(struct model *model);

/* The same in parts, for who loads several: opens the file (strings of the options are to stay), and
 * finds out what the model needs and what of it is there already, … */
int model_open(struct model **ret, const char *path, const struct model_options *options, char *why,
               size_t why_size);
/* … drops kept weights that none of these (n, all that are served) has a use for, … */
void model_sweep(struct model *const *models, size_t n);
/* … says what it will take, with the KV pages of one full context, for model_fit, … */
void model_need(const struct model *model, unsigned n_threads, struct model_need *ret);
/* … and reads it. `beside` (or NULL) is called once, on a thread of its own, when the weights have their
 * memory and reads are under way: what else the caller needs takes time that the disk has. No call where
 * reading fails early; ended when this returns, with its error where reading has none (then `why` is as
 * it was). */
int model_read(struct model *model, struct ops_pool *pool, int (*beside)(void *arg), void *arg,
               char *why, size_t why_size);

const struct model_shape *model_shape(const struct model *model);
const struct model_layer *model_layers(const struct model *model); /* n_layers */
const struct ops_matrix *model_embedding(const struct model *model);
const struct ops_matrix *model_head(const struct model *model); /* the embedding where tied */
const float *model_output_norm(const struct model *model);
const struct ops_rope *model_rope(const struct model *model);
const struct text_tokenizer *model_tokenizer(const struct model *model); /* NULL: file has none */
const struct model_sampling *model_sampling(const struct model *model);
const struct mm_arena *model_arena(const struct model *model);
const char *model_name(const struct model *model);         /* general.name, else the file name */
const char *model_type_summary(const struct model *model); /* "Q8_0", "Q4_K + Q6_K", … */
const char *model_load_notes(const struct model *model);   /* where the weights came from */

/* What became of the image that is written beside the service: NULL while there is nothing to say,
 * then a sentence. From any thread. */
const char *model_image_notes(const struct model *model);
/* Waits for the end of the writing. 0: the image is there now; 1: it was there before; -errno: none
 * was written (model_image_notes and model_load_notes say why). */
int model_wait_for_image(struct model *model);

/* Pages for memory that is computed in: small where that was said, else the best there are. */
enum mm_huge_policy model_scratch_pages(const struct model *model);

/* The model will not be served again: its weights need not wait for the next start. */
void model_let_go(struct model *model);

/* Whether the weights were there when the process started (warm restart). */
bool model_is_warm(const struct model *model);

/* Where the weights wait for the next start ("systemd", "hugetlbfs"), and since when they are loaded;
 * NULL where they do not outlive the process. */
const char *model_kept_by(const struct model *model, struct timespec *ret_since);
uint64_t model_weight_bytes(const struct model *model); /* of the file, as one token reads them */

#endif
