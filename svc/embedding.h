/* Embeddings: one vector for a text, out of the hidden states after the final norm.
 *
 * That of the last position, or the mean over all positions (in double precision, in their order, so
 * that no way of cutting the text into steps changes a bit); scaled to length 1 on request. */
#ifndef QUERN_SVC_EMBEDDING_H
#define QUERN_SVC_EMBEDDING_H

#include "svc/model/forward.h"
#include "svc/sequence.h"

/* Makes a sequence one that embeds. n_prompt ≥ 1 rows of d_model. 0 or -ENOMEM. */
int embedding_prepare(struct sequence *sequence, uint32_t d_model);

/* Names in `span` the rows whose hidden state is wanted; n_tokens is set, `last`: the prompt ends. */
void embedding_want(const struct sequence *sequence, struct forward_span *span, bool last);

/* Takes in the rows of a step that ended without an error. */
void embedding_add(struct sequence *sequence, const struct forward_span *span, uint32_t d_model);

/* Writes the vector (d_model) when the whole prompt was taken in. */
void embedding_finish(const struct sequence *sequence, uint32_t d_model, float *ret);

#endif
