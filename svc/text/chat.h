/* Prompts: the segments that a template makes, to ids.
 *
 * Control tokens come from segments of their kind alone. The text between them is encoded with
 * special tokens off, so that no message can end its own turn or begin another's, whatever it
 * holds. */
#ifndef QUERN_SVC_TEXT_CHAT_H
#define QUERN_SVC_TEXT_CHAT_H

#include "chat/jinja.h"
#include "chat/render.h"
#include "svc/text/tokenizer.h"

/* The family of the template that the file carries. */
enum chat_family text_chat_family(const struct text_tokenizer *tokenizer,
                                  enum chat_known *ret_known);

/* How a model's prompts are made. Begin with zeros. */
struct text_chat {
    enum chat_family family;
    enum chat_known known;
    struct jinja *program;         /* known is CHAT_EXECUTED; else NULL */
    char bos[64], eos[64];         /* control tokens' names; empty: there is none */
    struct text_span program_text; /* the tokenizer's */
};

/* Looks at the file's template: one that is known is rendered natively, another is executed where
 * it can be, which one conversation is rendered to see. `why` is empty, or says why the template
 * of the file is not executed. 0 or -ENOMEM. */
int text_chat_init(struct text_chat *ret, const struct text_tokenizer *tokenizer, char *why,
                   size_t why_size);
void text_chat_done(struct text_chat *chat);

/* A conversation in the model's own way, to ids: text_chat_encode or the program. As there;
 * -ENOTSUP: the options ask for what a program does not offer; -E2BIG: it takes too long. */
int text_chat_prompt(const struct text_tokenizer *tokenizer, const struct text_chat *chat,
                     const struct chat_conversation *conversation,
                     const struct chat_options *options, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size);

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
