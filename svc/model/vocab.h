/* What a file says about text: its vocabulary, and how its authors sample. */
#ifndef QUERN_SVC_MODEL_VOCAB_H
#define QUERN_SVC_MODEL_VOCAB_H

#include "svc/model/gguf.h"
#include "svc/model/model.h"

/* Makes the tokenizer from the keys of the file; *ret is NULL where it has none. 0 or -errno with a
 * sentence. */
int model_vocab_read(struct text_tokenizer **ret, const struct gguf *gguf, char *why,
                     size_t why_size);

/* Whether every token has its row of the embedding: 0 or -EBADMSG with a sentence. NULL has. */
int model_vocab_check(const struct text_tokenizer *tokenizer, uint32_t n_rows, char *why,
                      size_t why_size);

/* The same two on a thread of their own, while the weights are read: building the tokenizer of
 * 152,000 tokens takes 0.2 s. `gguf` stays as it is until the end. *ret is NULL where the file has no
 * vocabulary; *ret_tables_bytes is text_tables_bytes_max. 0 or -errno with a sentence. */
struct model_vocab_job;
int model_vocab_begin(struct model_vocab_job **ret, const struct gguf *gguf, uint32_t n_rows,
                      size_t *ret_tables_bytes, char *why, size_t why_size);

/* Whether its thread still has work: another processor less for everything else. NULL has none. */
bool model_vocab_is_building(const struct model_vocab_job *job);

/* Whether _end will fail. May be told before the thread has ended, so that reading stops early. */
bool model_vocab_has_failed(const struct model_vocab_job *job);

/* Waits, and frees the job (NULL: there was no vocabulary). 0 or -errno with a sentence. */
int model_vocab_end(struct model_vocab_job *job, struct text_tokenizer **ret, char *why,
                    size_t why_size);

/* Sampling defaults: the file's keys general.sampling.*, else those that Qwen2 publishes in
 * generation_config.json for an instruct model of this size (a model whose end token is
 * <|im_end|>), else greedy (base models). */
int model_sampling_read(struct model_sampling *ret, const struct gguf *gguf,
                        const struct model_shape *shape, const struct text_tokenizer *tokenizer,
                        char *why, size_t why_size);

#endif
