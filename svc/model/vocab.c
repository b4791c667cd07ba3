/* Owns: the way from a file's keys to a tokenizer and to sampling defaults. */
#include "svc/model/vocab.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Below this width Qwen2's instruct models (0.5B and 1.5B) publish a stronger penalty. */
#define SMALL_MODEL_WIDTH 2048

static int read_strings(struct text_span **ret, size_t *ret_n, const struct gguf *gguf,
                        const char *key, char *why, size_t why_size)
{
    const struct gguf_value *value;
    int r = gguf_get_array(gguf, key, GGUF_STRING, &value, why, why_size);
    if (r == -ENOENT)
        snprintf(why, why_size, "key %s is missing: the vocabulary is incomplete", key);
    if (r < 0)
        return r == -ENOENT ? -EBADMSG : r;
    struct text_span *spans = calloc(value->n_items ? value->n_items : 1, sizeof *spans);
    if (!spans) {
        snprintf(why, why_size, "no memory for the vocabulary");
        return -ENOMEM;
    }
    const uint8_t *at = value->data;
    for (uint64_t i = 0; i < value->n_items; i++) {
        struct gguf_string string = gguf_next_string(&at);
        spans[i] = (struct text_span){string.data, string.length};
    }
    *ret = spans;
    *ret_n = value->n_items;
    return 0;
}

static int read_types(int32_t **ret, size_t n_tokens, const struct gguf *gguf, char *why,
                      size_t why_size)
{
    const struct gguf_value *value;
    int r = gguf_get_array(gguf, "tokenizer.ggml.token_type", GGUF_I32, &value, why, why_size);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    if (value->n_items != n_tokens) {
        snprintf(why, why_size,
                 "key tokenizer.ggml.token_type has %" PRIu64
                 " items where tokenizer.ggml.tokens has %zu",
                 value->n_items, n_tokens);
        return -EBADMSG;
    }
    *ret = calloc(n_tokens ? n_tokens : 1, sizeof **ret);
    if (!*ret) {
        snprintf(why, why_size, "no memory for the vocabulary");
        return -ENOMEM;
    }
    for (size_t i = 0; i < n_tokens; i++)
        (*ret)[i] = (int32_t)gguf_item_u32(value, i);
    return 0;
}

/* An optional string or id. */
static int read_text(struct text_span *ret, const struct gguf *gguf, const char *key, char *why,
                     size_t why_size)
{
    struct gguf_string string;
    int r = gguf_get_string(gguf, key, &string, why, why_size);
    if (r == 0)
        *ret = (struct text_span){string.data, string.length};
    return r == -ENOENT ? 0 : r;
}

static int read_id(uint32_t *ret, const struct gguf *gguf, const char *key, char *why,
                   size_t why_size)
{
    *ret = TEXT_NO_ID;
    int r = gguf_get_u32(gguf, key, ret, why, why_size);
    return r == -ENOENT ? 0 : r;
}

int model_vocab_read(struct text_tokenizer **ret, const struct gguf *gguf, char *why,
                     size_t why_size)
{
    struct text_vocab_source source = {0};
    struct text_span *tokens = NULL, *merges = NULL;
    int32_t *types = NULL;
    if (!gguf_find(gguf, "tokenizer.ggml.model")) {
        *ret = NULL;
        return 0;
    }
    int r = read_text(&source.model, gguf, "tokenizer.ggml.model", why, why_size);
    if (r == 0)
        r = read_text(&source.pre, gguf, "tokenizer.ggml.pre", why, why_size);
    if (r == 0)
        r = read_strings(&tokens, &source.n_tokens, gguf, "tokenizer.ggml.tokens", why, why_size);
    if (r == 0)
        r = read_types(&types, source.n_tokens, gguf, why, why_size);
    if (r == 0)
        r = read_strings(&merges, &source.n_merges, gguf, "tokenizer.ggml.merges", why, why_size);
    if (r == 0)
        r = read_id(&source.bos_id, gguf, "tokenizer.ggml.bos_token_id", why, why_size);
    if (r == 0)
        r = read_id(&source.eos_id, gguf, "tokenizer.ggml.eos_token_id", why, why_size);
    if (r == 0)
        r = read_id(&source.pad_id, gguf, "tokenizer.ggml.padding_token_id", why, why_size);
    if (r == 0)
        r = read_text(&source.chat_template, gguf, "tokenizer.chat_template", why, why_size);
    source.tokens = tokens;
    source.types = types;
    source.merges = merges;
    if (r == 0)
        r = text_tokenizer_new(ret, &source, why, why_size);
    free(tokens);
    free(types);
    free(merges);
    return r;
}

/* A key of general.sampling within [min, max]; absent: *ret untouched. */
static int read_float(float *ret, const struct gguf *gguf, const char *key, float min, float max,
                      char *why, size_t why_size)
{
    float value;
    int r = gguf_get_f32(gguf, key, &value, why, why_size);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    if (!(value >= min && value <= max)) {
        snprintf(why, why_size, "key %s is %g; %g to %g are possible", key, (double)value,
                 (double)min, (double)max);
        return -EBADMSG;
    }
    *ret = value;
    return 0;
}

int model_sampling_read(struct model_sampling *ret, const struct gguf *gguf,
                        const struct model_shape *shape, const struct text_tokenizer *tokenizer,
                        char *why, size_t why_size)
{
    struct model_sampling sampling = {
        .temperature = 0, .top_p = 1, .repetition_penalty = 1, .top_k = 0};
    const struct text_ids *ids = tokenizer ? text_tokenizer_ids(tokenizer) : NULL;
    if (ids && ids->im_end != TEXT_NO_ID && ids->eos == ids->im_end)
        sampling = (struct model_sampling){
            .temperature = 0.7f,
            .top_p = 0.8f,
            .repetition_penalty = shape->d_model < SMALL_MODEL_WIDTH ? 1.1f : 1.05f,
            .top_k = 20,
        };
    int r = read_float(&sampling.temperature, gguf, "general.sampling.temp", 0, 100, why, why_size);
    if (r == 0)
        r = read_float(&sampling.top_p, gguf, "general.sampling.top_p", 0, 1, why, why_size);
    if (r == 0)
        r = read_float(&sampling.repetition_penalty, gguf, "general.sampling.penalty_repeat", 0.01f,
                       100, why, why_size);
    if (r == 0)
        r = gguf_get_u32(gguf, "general.sampling.top_k", &sampling.top_k, why, why_size);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret = sampling;
    return 0;
}
