/* The weights of a model: where each lies in the file, where it goes in the arena, and the load
 * that packs them on the way. */
#ifndef QUERN_SVC_MODEL_WEIGHTS_H
#define QUERN_SVC_MODEL_WEIGHTS_H

#include "svc/model/gguf.h"
#include "svc/model/model.h"

struct model_placement; /* one packed matrix or vector, private to weights.c */

struct model_weights {
    struct model_layer *layers; /* (n_layers) */
    uint32_t n_layers;
    struct ops_matrix
        *experts; /* (n_layers, 3, n_experts), what the layers point to; NULL if dense */
    struct ops_matrix embedding, head;
    const float *output_norm; /* (d_model) */
    struct mm_arena arena;    /* mapped by model_weights_load */

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

/* Maps the arena and reads and packs all weights. `notes` gets the kind of pages and how the reads
 * went. */
int model_weights_load(struct model_weights *weights, const struct gguf *gguf,
                       const struct model_options *options, struct ops_pool *pool, char *notes,
                       size_t notes_size, char *why, size_t why_size);

/* Frees all that it owns, at any stage. */
void model_weights_done(struct model_weights *weights);

#endif
