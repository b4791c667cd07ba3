/* What a file says about text: its vocabulary, and how its authors sample. */
#ifndef QUERN_SVC_MODEL_VOCAB_H
#define QUERN_SVC_MODEL_VOCAB_H

#include "svc/model/gguf.h"
#include "svc/model/model.h"

/* Makes the tokenizer from the keys of the file; *ret is NULL where it has none. 0 or -errno with a
 * sentence. */
int model_vocab_read(struct text_tokenizer **ret, const struct gguf *gguf, char *why,
                     size_t why_size);

/* Sampling defaults: the file's keys general.sampling.*, else those that Qwen2 publishes in
 * generation_config.json for an instruct model of this size (a model whose end token is
 * <|im_end|>), else greedy (base models). */
int model_sampling_read(struct model_sampling *ret, const struct gguf *gguf,
                        const struct model_shape *shape, const struct text_tokenizer *tokenizer,
                        char *why, size_t why_size);

#endif
