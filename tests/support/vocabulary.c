/* Owns: the vocabulary keys of generated models. */
#include "tests/support/vocabulary.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MADE_BYTES   16 /* of a token that is made here, its end included */
#define TYPE_NORMAL  1
#define TYPE_CONTROL 3
#define TYPE_UNUSED  5

static const char *const controls[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
#define N_CONTROLS   3
#define N_BYTES      256
#define N_OWN_TOKENS (N_BYTES + N_CONTROLS)

/* GPT-2's order and coding of bytes: those that print stand for themselves and come first; the
 * others become U+0100 and following. */
static bool byte_prints(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

static void put_code_point(char *dst, unsigned c)
{
    if (c < 0x80) {
        dst[0] = (char)c;
        dst[1] = 0;
    } else {
        dst[0] = (char)(0xc0 | c >> 6);
        dst[1] = (char)(0x80 | (c & 0x3f));
        dst[2] = 0;
    }
}

static void make_bytes(char *made)
{
    unsigned id = 0, other = 0;
    for (int byte = 0; byte < N_BYTES; byte++)
        if (byte_prints(byte))
            put_code_point(made + MADE_BYTES * id++, (unsigned)byte);
    for (int byte = 0; byte < N_BYTES; byte++)
        if (!byte_prints(byte))
            put_code_point(made + MADE_BYTES * id++, 256 + other++);
    for (int i = 0; i < N_CONTROLS; i++)
        snprintf(made + MADE_BYTES * id++, MADE_BYTES, "%s", controls[i]);
}

static int open_source(struct vocabulary *v, const char *path, const struct gguf_value **ret_tokens,
                       const struct gguf_value **ret_types, char *why, size_t why_size)
{
    int r = gguf_open(&v->source, path, why, why_size);
    if (r == 0)
        r = gguf_get_array(v->source, "tokenizer.ggml.tokens", GGUF_STRING, ret_tokens, why,
                           why_size);
    if (r == 0)
        r = gguf_get_array(v->source, "tokenizer.ggml.token_type", GGUF_I32, ret_types, why,
                           why_size);
    if (r == -ENOENT)
        snprintf(why, why_size, "%s has no vocabulary", path);
    if (r == 0 && ((*ret_tokens)->n_items != (*ret_types)->n_items ||
                   (*ret_tokens)->n_items > UINT32_MAX / 2)) {
        snprintf(why, why_size, "%s has tokens and token types of different number", path);
        r = -EBADMSG;
    }
    return r;
}

int vocabulary_read(struct vocabulary *ret, const char *path, uint32_t *n_vocab, char *why,
                    size_t why_size)
{
    struct vocabulary v = {0};
    const struct gguf_value *tokens = NULL, *types = NULL;
    int r = path ? open_source(&v, path, &tokens, &types, why, why_size) : 0;
    if (r < 0)
        goto free_all;
    uint32_t n_known = path ? (uint32_t)tokens->n_items : N_OWN_TOKENS;
    v.n_tokens = *n_vocab ? *n_vocab : (n_known + 63) / 64 * 64;
    if (v.n_tokens < n_known) {
        snprintf(why, why_size, "the vocabulary has %" PRIu32 " tokens, more than %" PRIu32,
                 n_known, v.n_tokens);
        r = -EINVAL;
        goto free_all;
    }
    r = -ENOMEM;
    v.tokens = calloc(v.n_tokens, sizeof *v.tokens);
    v.types = calloc(v.n_tokens, sizeof *v.types);
    v.made = calloc(v.n_tokens, MADE_BYTES);
    if (!v.tokens || !v.types || !v.made)
        goto free_all;
    if (!path)
        make_bytes(v.made);
    const uint8_t *at = path ? tokens->data : NULL;
    for (uint32_t i = 0; i < v.n_tokens; i++) {
        char *own = v.made + MADE_BYTES * (size_t)i;
        if (i >= n_known)
            snprintf(own, MADE_BYTES, "[PAD%" PRIu32 "]", i);
        if (path && i < n_known) {
            v.tokens[i] = gguf_next_string(&at);
            v.types[i] = (int32_t)gguf_item_u32(types, i);
        } else {
            v.tokens[i] = (struct gguf_string){own, strlen(own)};
            v.types[i] = i >= n_known ? TYPE_UNUSED : i >= N_BYTES ? TYPE_CONTROL : TYPE_NORMAL;
        }
    }
    *n_vocab = v.n_tokens;
    *ret = v;
    return 0;
free_all:
    vocabulary_done(&v);
    return r;
}

void vocabulary_done(struct vocabulary *vocabulary)
{
    gguf_free(vocabulary->source);
    free(vocabulary->tokens);
    free(vocabulary->types);
    free(vocabulary->made);
    *vocabulary = (struct vocabulary){0};
}

static bool is_replaced(struct gguf_string key)
{
    static const char prefix[] = "tokenizer.";
    return key.length < sizeof prefix - 1 || memcmp(key.data, prefix, sizeof prefix - 1) != 0 ||
           (key.length == 21 && memcmp(key.data, "tokenizer.ggml.tokens", 21) == 0) ||
           (key.length == 25 && memcmp(key.data, "tokenizer.ggml.token_type", 25) == 0);
}

void vocabulary_write(const struct vocabulary *vocabulary, struct gguf_writer *writer)
{
    gguf_writer_strings(writer, "tokenizer.ggml.tokens", vocabulary->tokens, vocabulary->n_tokens);
    gguf_writer_i32s(writer, "tokenizer.ggml.token_type", vocabulary->types, vocabulary->n_tokens);
    if (vocabulary->source) {
        for (size_t i = 0; i < gguf_n_pairs(vocabulary->source); i++) {
            const struct gguf_pair *pair = gguf_pair(vocabulary->source, i);
            if (!is_replaced(pair->key))
                gguf_writer_raw(writer, pair->key, &pair->value);
        }
        return;
    }
    gguf_writer_string(writer, "tokenizer.ggml.model", "gpt2", 4);
    gguf_writer_string(writer, "tokenizer.ggml.pre", "qwen2", 5);
    gguf_writer_strings(writer, "tokenizer.ggml.merges", NULL, 0);
    gguf_writer_u32(writer, "tokenizer.ggml.bos_token_id", N_BYTES);
    gguf_writer_u32(writer, "tokenizer.ggml.eos_token_id", N_BYTES + 2);
    gguf_writer_u32(writer, "tokenizer.ggml.padding_token_id", N_BYTES);
    gguf_writer_bool(writer, "tokenizer.ggml.add_bos_token", false);
}
