/* Byte-level BPE as Qwen2 defines it: text to token ids and back.
 *
 * A tokenizer is built once from the arrays of a model file and is read-only from then on: any
 * number of threads may use one at the same time. Input text is UTF-8, normalized (NFC), split by
 * the pattern of the vocabulary's family (split.h), and each piece is merged by rank (bpe.h).
 *
 * Control tokens (<|im_start|> and the like) come out of text only where the caller says so with
 * `allow_special`; text of a stranger is always encoded without. chat.h builds prompts that way.
 *
 * Everything that a vocabulary says is checked when the tokenizer is made: a stranger wrote it.
 */
#ifndef QUERN_SVC_TEXT_TOKENIZER_H
#define QUERN_SVC_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_NO_ID UINT32_MAX

/* What a vocabulary may hold at most; beyond is refused. Qwen2 has 151,936 tokens, the longest of
 * 256 bytes. */
#define TEXT_TOKENS_MAX      (1u << 20)
#define TEXT_TOKEN_BYTES_MAX 4096u

/* Bytes that belong to somebody else; not terminated. */
struct text_span {
    const char *s;
    size_t len;
};

/* Token types of GGUF (tokenizer.ggml.token_type). */
enum text_token_type {
    TEXT_TOKEN_NORMAL = 1,
    TEXT_TOKEN_UNKNOWN = 2,
    TEXT_TOKEN_CONTROL = 3,
    TEXT_TOKEN_USER_DEFINED = 4,
    TEXT_TOKEN_UNUSED = 5,
    TEXT_TOKEN_BYTE = 6,
};

/* A vocabulary as a model file gives it (in brackets the GGUF key). Nothing here is trusted, and
 * nothing needs to live longer than the call of text_tokenizer_new. */
struct text_vocab_source {
    struct text_span model;         /* "gpt2" [tokenizer.ggml.model] */
    struct text_span pre;           /* "qwen2" [tokenizer.ggml.pre] */
    const struct text_span *tokens; /* (n_tokens) in GPT-2's byte coding [tokenizer.ggml.tokens] */
    const int32_t *types; /* (n_tokens), or NULL: all normal [tokenizer.ggml.token_type] */
    size_t n_tokens;
    const struct text_span
        *merges; /* (n_merges) "left right", best first [tokenizer.ggml.merges] */
    size_t n_merges;
    uint32_t bos_id;                /* or TEXT_NO_ID [tokenizer.ggml.bos_token_id] */
    uint32_t eos_id;                /* or TEXT_NO_ID [tokenizer.ggml.eos_token_id] */
    uint32_t pad_id;                /* or TEXT_NO_ID [tokenizer.ggml.padding_token_id] */
    struct text_span chat_template; /* Jinja text, may be empty [tokenizer.chat_template] */
};

struct text_tokenizer;

/* Checks the source and builds the tables. 0, -ENOMEM, -EINVAL (damaged) or -ENOTSUP (a vocabulary
 * of another kind); on failure `why` holds a sentence that names the thing. */
int text_tokenizer_new(struct text_tokenizer **ret, const struct text_vocab_source *source,
                       char *why, size_t why_size);
void text_tokenizer_free(struct text_tokenizer *tokenizer);

/* Bytes of memory that the tokenizer holds, for the memory budget. */
size_t text_tokenizer_bytes(const struct text_tokenizer *tokenizer);

/* Encodes n bytes of UTF-8. Writes at most `max` ids; *ret_n is the number of all of them.
 * 0; -ENOSPC: more than max ids, *ret_n is the number that the text needs, ids holds the first max;
 * -EILSEQ: no valid UTF-8, *ret_n is the offset of the first bad byte; -ENOMEM. A piece of more
 * than 1 KiB without a break, or text that is not NFC, allocates scratch memory for the call. */
int text_encode(const struct text_tokenizer *tokenizer, const char *utf8, size_t n,
                bool allow_special, uint32_t *ids, size_t max, size_t *ret_n);

/* The bytes of a token (a part of a character, perhaps). 0, or -EINVAL for an id that is none or is
 * a padding row. The memory is the tokenizer's. */
int text_token_bytes(const struct text_tokenizer *tokenizer, uint32_t id, const char **ret,
                     size_t *ret_len);

/* Tokens in the vocabulary without the padding rows at its end: a valid id is below this. Rows from
 * here up to the model's vocabulary size are never to be sampled. */
uint32_t text_n_vocab(const struct text_tokenizer *tokenizer);

/* Whether the id is a token that no plain text makes (control, or an added token such as
 * <tool_call>); false for ids out of range. */
bool text_is_special(const struct text_tokenizer *tokenizer, uint32_t id);

/* Whether the id is a control token: not shown in an answer. False for ids out of range. */
bool text_is_control(const struct text_tokenizer *tokenizer, uint32_t id);

/* Whether generation ends at this id: the file's own end id, and <|im_end|> and <|endoftext|>. */
bool text_is_eos(const struct text_tokenizer *tokenizer, uint32_t id);

/* The id of the special token with this text ("<|im_end|>"), or TEXT_NO_ID. */
uint32_t text_special_id(const struct text_tokenizer *tokenizer, const char *name);

/* Ids of the named tokens, or TEXT_NO_ID where the vocabulary has none. */
struct text_ids {
    uint32_t im_start;  /* <|im_start|> */
    uint32_t im_end;    /* <|im_end|> */
    uint32_t endoftext; /* <|endoftext|> */
    uint32_t bos;       /* as the file says */
    uint32_t eos;
    uint32_t pad;
};
const struct text_ids *text_tokenizer_ids(const struct text_tokenizer *tokenizer);

/* The chat template of the file, as it stands there; length 0 if it has none. */
struct text_span text_tokenizer_template(const struct text_tokenizer *tokenizer);

/* Whether the bytes are UTF-8 (no overlong form, no surrogate, nothing above U+10FFFF). Where not,
 * *ret_offset (may be NULL) is the offset of the first byte that is wrong. */
bool text_utf8_valid(const char *s, size_t n, size_t *ret_offset);

#endif
