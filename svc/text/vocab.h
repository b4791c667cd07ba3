/* A vocabulary taken out of a model file and checked: the bytes and the kind of each token. */
#ifndef QUERN_SVC_TEXT_VOCAB_H
#define QUERN_SVC_TEXT_VOCAB_H

#include "svc/text/tokenizer.h"

enum vocab_kind {
    VOCAB_PLAIN,   /* bytes that text is merged to */
    VOCAB_CONTROL, /* never text: <|im_end|> */
    VOCAB_ADDED,   /* text, but only as a whole: <tool_call> */
    VOCAB_PADDING, /* a row without a meaning */
};

struct vocab {
    char *bytes;       /* of all tokens, one after the other; padding has none */
    uint32_t *offsets; /* (n_tokens + 1) token i is bytes[offsets[i]] up to offsets[i + 1] */
    uint8_t *kinds;    /* (n_tokens) enum vocab_kind */
    uint32_t n_tokens; /* without the padding at the end */
    struct text_ids ids;
};

/* Checks and copies. 0, -ENOMEM, -EINVAL, -ENOTSUP; on failure `why` holds a sentence. */
int vocab_init(struct vocab *vocab, const struct text_vocab_source *source, char *why,
               size_t why_size);
void vocab_done(struct vocab *vocab);
size_t vocab_size(const struct vocab *vocab); /* bytes of memory held */

/* Whether a vocabulary that a stranger wrote into tables has what vocab_init promises: `n_bytes`
 * bytes are in `bytes`. 0 or -EBADMSG. */
int vocab_check(const struct vocab *vocab, size_t n_bytes);

/* Undoes GPT-2's byte coding: each character of `in` stands for one byte, written to `out` (room
 * for in.len bytes; an alias of in.s is fine). The number of bytes, or -1 if a character stands for
 * none. */
long vocab_decode_gpt2(struct text_span in, char *out);

#endif
