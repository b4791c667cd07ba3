/* The weights of a model: where each lies in the file, where it goes in the arena, and how it is
 * packed on the way. Where the bytes come from at a start is decided in residence.h. */
#ifndef QUERN_SVC_MODEL_WEIGHTS_H
#define QUERN_SVC_MODEL_WEIGHTS_H

#include "svc/model/gguf.h"
#include "svc/model/model.h"

struct model_placement; /* one packed matrix or vector, private to weights.c */
struct model_vocab_job; /* vocab.h */

struct model_weights {
    struct model_layer *layers; /* (n_layers) */
    uint32_t n_layers;
    struct ops_matrix
        *experts; /* (n_layers, 3, n_experts), what the layers point to; NULL if dense */
    struct ops_matrix embedding, head;
    const float *output_norm; /* (d_model) */
    struct mm_arena arena;    /* mapped by model_residence */

    size_t arena_bytes;    /* what the arena must hold */
    uint64_t file_bytes;   /* of all tensors that are used */
    uint64_t token_bytes;  /* of the matrices that one token reads, as they lie in the file */
    char type_summary[64]; /* matrix types with over 1 % of the bytes, most first: "Q5_0 + Q8_0" */

    struct model_placement *placements;
    size_t n_placements, max_placements;
};

/* Finds and checks every tensor of the shape, and lays the arena out: after it arena_bytes,
 * token_bytes and type_summary are known, and nothing has been read. 0 or -errno with a sentence. */
int model_weights_plan(struct model_weights *ret, const struct gguf *gguf,
                       const struct model_shape *shape, char *why, size_t why_size);

/* A number that changes with everything that decides what lies where in the arena: the tensors, their
 * order, and what packing makes of each type. */
uint64_t model_weights_layout(const struct model_weights *weights);

/* Reads and packs all weights into the arena, which is mapped (and may still be populating: see
 * mm_arena_begin). ret_content (or NULL) gets a hash of the bytes read, `mode` how the reads went.
 * `beside`: what builds the tokenizer meanwhile, or NULL. */
int model_weights_pack(struct model_weights *weights, const struct gguf *gguf,
                       const struct model_options *options, struct ops_pool *pool,
                       const struct model_vocab_job *beside, uint64_t ret_content[2], char *mode,
                       size_t mode_size, char *why, size_t why_size);

/* The hash that _pack gives, of the bytes in the files, without packing them. */
int model_weights_hash(const struct model_weights *weights, const struct gguf *gguf,
                       uint64_t ret_content[2], char *why, size_t why_size);

/* Points layers, embedding, head and norm into the arena, wherever its bytes came from. */
void model_weights_point(struct model_weights *weights);

/* Frees all that it owns, at any stage. */
void model_weights_done(struct model_weights *weights);

#endif
