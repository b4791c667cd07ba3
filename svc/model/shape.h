/* The shape of a model, derived from the tensors of its file; metadata gives what tensors cannot
 * (number of heads, RoPE, epsilon). */
#ifndef QUERN_SVC_MODEL_SHAPE_H
#define QUERN_SVC_MODEL_SHAPE_H

#include "svc/model/gguf.h"
#include "svc/model/model.h"

/* Largest values that are taken from a file; beyond is refused. */
#define MODEL_LAYERS_MAX  1024
#define MODEL_HEADS_MAX   1024
#define MODEL_WIDTH_MAX   (1u << 20)
#define MODEL_EXPERTS_MAX 1024
#define MODEL_CONTEXT_MAX (1u << 24)

/* Fills *ret. `n_tokens` becomes n_vocab: the tokenizer knows better. 0; -EBADMSG (damaged) or
 * -ENOTSUP (another architecture or feature), with a sentence that names the key or tensor. */
int model_shape_read(struct model_shape *ret, const struct gguf *gguf, char *why, size_t why_size);

/* The tensor "blk.<layer>.<name>", or <name> where layer < 0; NULL if it is not there. */
const struct gguf_tensor *model_find_tensor(const struct gguf *gguf, int64_t layer,
                                            const char *name);

/* The same, which must be there, with these dimensions (0 at the end: fewer) and a type that ops
 * computes. 0 or -EBADMSG / -ENOTSUP with a sentence. */
int model_need_tensor(const struct gguf_tensor **ret, const struct gguf *gguf, int64_t layer,
                      const char *name, uint64_t dim0, uint64_t dim1, uint64_t dim2, char *why,
                      size_t why_size);

#endif
