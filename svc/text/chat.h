/* Prompts: the segments that a template makes, to ids.
 *
 * Control tokens come from segments of their kind alone. The text between them is encoded with special
 * tokens off, so that no message can end its own turn or begin another's, whatever it holds. */
#ifndef QUERN_SVC_TEXT_CHAT_H
#define QUERN_SVC_TEXT_CHAT_H

#include "chat/render.h"
#include "svc/text/tokenizer.h"

/* The family of the template that the file carries. */
enum chat_family text_chat_family(const struct text_tokenizer *tokenizer,
                                  enum chat_known *ret_known);

/* Encodes segments of `text`. 0; -ENOSPC, -ENOMEM as text_encode; -EILSEQ: a text is no valid UTF-8
 * (*ret_n is the index of the segment); -ENOTSUP: the vocabulary lacks a control token. `why` (may
 * be NULL with size 0) holds a sentence on failure. */
int text_segments_encode(const struct text_tokenizer *tokenizer, const char *text,
                         const struct chat_segment *segments, size_t n, uint32_t *ids, size_t max,
                         size_t *ret_n, char *why, size_t why_size);

/* Renders a conversation and encodes it. As above; -EINVAL: it is none that the template can show;
 * *ret_n is then, as with -EILSEQ, the index of the message. */
int text_chat_encode(const struct text_tokenizer *tokenizer, enum chat_family family,
                     const struct chat_conversation *conversation,
                     const struct chat_options *options, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size);

#endif
