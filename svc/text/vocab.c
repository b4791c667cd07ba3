/* GPT-2's byte coding writes every byte of a token as a printable character: 188 bytes stand for
 * themselves, and the other 68, in order, for U+0100 and up. */
#include "svc/text/vocab.h"

#include "svc/text/unicode.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All token bytes together; a trie node is made for each at most. */
#define TOKEN_BYTES_SUM_MAX (1u << 26)

static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
           (byte >= 0xAE && byte <= 0xFF);
}

/* The byte that a character stands for, or -1. */
static int byte_of(uint32_t cp)
{
    if (cp < 0x100)
        return stands_for_itself(cp) ? (int)cp : -1;
    if (cp < 0x100 + 0x21)
        return (int)(cp - 0x100);
    if (cp < 0x100 + 0x21 + 0x22)
        return (int)(cp - 0x100 - 0x21 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}

long vocab_decode_gpt2(struct text_span in, char *out)
{
    size_t i = 0;
    long n = 0;

    while (i < in.len) {
        uint32_t cp;
        unsigned len = unicode_decode(in.s + i, in.len - i, &cp);
        int byte = len > 0 ? byte_of(cp) : -1;
        if (byte < 0)
            return -1;
        out[n++] = (char)byte;
        i += len;
    }
    return n;
}

static bool span_is(struct text_span span, const char *s)
{
    return span.len == strlen(s) && memcmp(span.s, s, span.len) == 0;
}

/* Whether a token is one of the converters' fillers, "[PAD151646]" with its own number. */
static bool is_filler(struct text_span token, size_t i)
{
    char name[32];

    if (token.len == 0 || token.s[0] != '[')
        return false;
    snprintf(name, sizeof name, "[PAD%zu]", i);
    return span_is(token, name);
}

static bool is_chat_token(struct text_span token)
{
    return span_is(token, "<|im_start|>") || span_is(token, "<|im_end|>") ||
           span_is(token, "<|endoftext|>");
}

/* The kind of token i, or -EINVAL. Old files have the chat tokens as normal ones. */
static int kind_of(const struct text_vocab_source *source, size_t i)
{
    int32_t type = source->types ? source->types[i] : TEXT_TOKEN_NORMAL;

    if (is_chat_token(source->tokens[i]))
        return VOCAB_CONTROL;
    switch (type) {
    case TEXT_TOKEN_NORMAL:
        return is_filler(source->tokens[i], i) ? VOCAB_PADDING : VOCAB_PLAIN;
    case TEXT_TOKEN_UNKNOWN:
    case TEXT_TOKEN_CONTROL:
        return VOCAB_CONTROL;
    case TEXT_TOKEN_USER_DEFINED:
        return is_filler(source->tokens[i], i) ? VOCAB_PADDING : VOCAB_ADDED;
    case TEXT_TOKEN_UNUSED:
        return VOCAB_PADDING;
    default:
        return -EINVAL;
    }
}

static int counts_check(const struct text_vocab_source *source, char *why, size_t why_size)
{
    if (source->n_tokens == 0 || source->n_tokens > TEXT_TOKENS_MAX) {
        snprintf(why, why_size, "the vocabulary has %zu tokens; between 1 and %u are possible",
                 source->n_tokens, TEXT_TOKENS_MAX);
        return -EINVAL;
    }
    if (source->n_merges > TEXT_TOKENS_MAX) {
        snprintf(why, why_size, "the vocabulary has %zu merges; at most %u are possible",
                 source->n_merges, TEXT_TOKENS_MAX);
        return -EINVAL;
    }
    size_t sum = 0;
    for (size_t i = 0; i < source->n_tokens; i++) {
        size_t len = source->tokens[i].len;
        /* a byte is coded by two at most */
        if (len == 0 || len > 2 * TEXT_TOKEN_BYTES_MAX) {
            snprintf(why, why_size,
                     "token %zu of the vocabulary has %zu bytes; between 1 and %u "
                     "are possible",
                     i, len, 2 * TEXT_TOKEN_BYTES_MAX);
            return -EINVAL;
        }
        sum += len;
    }
    if (sum > TOKEN_BYTES_SUM_MAX) {
        snprintf(why, why_size,
                 "the tokens of the vocabulary have %zu bytes; at most %u are "
                 "possible",
                 sum, TOKEN_BYTES_SUM_MAX);
        return -EINVAL;
    }
    return 0;
}

/* An id of the file's own metadata: none, or a token. */
static int id_check(const char *name, uint32_t id, size_t n, char *why, size_t why_size)
{
    if (id == TEXT_NO_ID || id < n)
        return 0;
    snprintf(why, why_size, "the %s token of the vocabulary is %u, but there are %zu tokens", name,
             id, n);
    return -EINVAL;
}

static int tokens_copy(struct vocab *vocab, const struct text_vocab_source *source, char *why,
                       size_t why_size)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < source->n_tokens; i++) {
        struct text_span token = source->tokens[i];
        int kind = kind_of(source, i);
        long len = 0;
        if (kind < 0) {
            snprintf(why, why_size,
                     "token %u of the vocabulary has type %d, which byte-level "
                     "vocabularies do not have",
                     i, source->types[i]);
            return -EINVAL;
        }
        if (kind == VOCAB_PLAIN) {
            len = vocab_decode_gpt2(token, vocab->bytes + used);
            if (len < 0 || len > (long)TEXT_TOKEN_BYTES_MAX) {
                snprintf(why, why_size, "token %u of the vocabulary is %s", i,
                         len < 0 ? "not in GPT-2's byte coding" : "too long");
                return -EINVAL;
            }
        } else if (kind != VOCAB_PADDING) {
            if (!text_utf8_valid(token.s, token.len, NULL)) {
                snprintf(why, why_size, "token %u of the vocabulary is no valid UTF-8", i);
                return -EINVAL;
            }
            memcpy(vocab->bytes + used, token.s, token.len);
            len = (long)token.len;
        }
        vocab->kinds[i] = (uint8_t)kind;
        vocab->offsets[i] = used;
        used += (uint32_t)len;
        vocab->offsets[i + 1] = used;
        if (kind != VOCAB_PADDING)
            vocab->n_tokens = i + 1;
        if (kind == VOCAB_CONTROL && span_is(token, "<|im_start|>"))
            vocab->ids.im_start = i;
        if (kind == VOCAB_CONTROL && span_is(token, "<|im_end|>"))
            vocab->ids.im_end = i;
        if (kind == VOCAB_CONTROL && span_is(token, "<|endoftext|>"))
            vocab->ids.endoftext = i;
    }
    char *fit = realloc(vocab->bytes, used > 0 ? used : 1);
    if (fit)
        vocab->bytes = fit;
    return 0;
}

int vocab_init(struct vocab *ret, const struct text_vocab_source *source, char *why,
               size_t why_size)
{
    struct vocab vocab = {.ids = {TEXT_NO_ID, TEXT_NO_ID, TEXT_NO_ID, source->bos_id,
                                  source->eos_id, source->pad_id}};
    size_t sum = 0;
    int r;

    if (!span_is(source->model, "gpt2")) {
        snprintf(why, why_size,
                 "the tokenizer model is \"%.*s\", and only \"gpt2\" (byte-level "
                 "BPE) is known",
                 (int)(source->model.len < 64 ? source->model.len : 64), source->model.s);
        return -ENOTSUP;
    }
    r = counts_check(source, why, why_size);
    if (r < 0)
        return r;
    if ((r = id_check("bos", source->bos_id, source->n_tokens, why, why_size)) < 0 ||
        (r = id_check("eos", source->eos_id, source->n_tokens, why, why_size)) < 0 ||
        (r = id_check("padding", source->pad_id, source->n_tokens, why, why_size)) < 0)
        return r;
    for (size_t i = 0; i < source->n_tokens; i++)
        sum += source->tokens[i].len;
    vocab.bytes = malloc(sum);
    vocab.offsets = malloc(sizeof *vocab.offsets * (source->n_tokens + 1));
    vocab.kinds = malloc(source->n_tokens);
    if (vocab.bytes && vocab.offsets && vocab.kinds) {
        r = tokens_copy(&vocab, source, why, why_size);
    } else {
        snprintf(why, why_size, "not enough memory for %zu tokens", source->n_tokens);
        r = -ENOMEM;
    }
    if (r < 0) {
        vocab_done(&vocab);
        return r;
    }
    *ret = vocab;
    return 0;
}

void vocab_done(struct vocab *vocab)
{
    free(vocab->bytes);
    free(vocab->offsets);
    free(vocab->kinds);
    *vocab = (struct vocab){0};
}

size_t vocab_size(const struct vocab *vocab)
{
    return vocab->offsets[vocab->n_tokens] + (sizeof *vocab->offsets + 1) * vocab->n_tokens;
}

int vocab_check(const struct vocab *vocab, size_t n_bytes)
{
    const uint32_t chat[] = {vocab->ids.im_start, vocab->ids.im_end, vocab->ids.endoftext};

    if (vocab->offsets[0] != 0 || vocab->offsets[vocab->n_tokens] != n_bytes)
        return -EBADMSG;
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        uint32_t from = vocab->offsets[i], to = vocab->offsets[i + 1];
        if (to < from || to > n_bytes || to - from > 2 * TEXT_TOKEN_BYTES_MAX ||
            vocab->kinds[i] > VOCAB_PADDING || (to == from) != (vocab->kinds[i] == VOCAB_PADDING) ||
            (vocab->kinds[i] != VOCAB_PLAIN &&
             !text_utf8_valid(vocab->bytes + from, to - from, NULL)))
            return -EBADMSG;
    }
    for (size_t i = 0; i < sizeof chat / sizeof *chat; i++)
        if (chat[i] != TEXT_NO_ID &&
            (chat[i] >= vocab->n_tokens || vocab->kinds[chat[i]] != VOCAB_CONTROL))
            return -EBADMSG;
    return 0;
}
