/* The mixture of experts of Qwen2-MoE: for each row, softmax over all experts in float32, the
 * highest n_experts_used of them (ties: the lower index), their probabilities as they are (no
 * renormalization), and a shared expert behind a sigmoid gate.
 *
 * Rows are grouped by expert, so that each expert's weights are read once in a step. A row's sum
 * runs over the shared expert, then its own by ascending index: the same bits in any batch. */
#ifndef QUERN_SVC_MODEL_MOE_H
#define QUERN_SVC_MODEL_MOE_H

#include "svc/model/model.h"

struct moe;

/* Scratch for steps of up to max_rows rows. Returns 0 or -ENOMEM. */
int moe_new(struct moe **ret, const struct model_shape *shape, struct ops_pool *pool,
            uint32_t max_rows, enum mm_huge_policy pages);
void moe_free(struct moe *moe);
size_t moe_bytes(const struct model_shape *shape, uint32_t max_rows); /* 0 if dense */

/* x (n_rows, d_model) += the layer's experts of normed (n_rows, d_model). */
void moe_run(struct moe *moe, const struct model_layer *layer, const float *normed, uint32_t n_rows,
             float *x);

/* Whether NaN or infinity arose in a row of the last run. */
bool moe_row_bad(const struct moe *moe, uint32_t row);

#endif
