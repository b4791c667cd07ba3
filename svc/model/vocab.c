/* Owns: the way from a file's keys to a tokenizer and to sampling defaults. */
#include "svc/model/vocab.h"

#include "svc/text/tables.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Below this width Qwen2's instruct models (0.5B and 1.5B) publish a stronger penalty. */
#define SMALL_MODEL_WIDTH 2048

#define NICE 5 /* of the thread that builds a tokenizer */

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

/* What text_tokenizer_new reads, out of the file's keys. */
struct source {
    struct text_vocab_source vocab;
    struct text_span *tokens, *merges;
    int32_t *types;
};

static void source_done(struct source *source)
{
    free(source->tokens);
    free(source->types);
    free(source->merges);
}

static int source_read(struct source *ret, const struct gguf *gguf, char *why, size_t why_size)
{
    struct source s = {0};
    struct text_vocab_source *v = &s.vocab;
    int r = read_text(&v->model, gguf, "tokenizer.ggml.model", why, why_size);
    if (r == 0)
        r = read_text(&v->pre, gguf, "tokenizer.ggml.pre", why, why_size);
    if (r == 0)
        r = read_strings(&s.tokens, &v->n_tokens, gguf, "tokenizer.ggml.tokens", why, why_size);
    if (r == 0)
        r = read_types(&s.types, v->n_tokens, gguf, why, why_size);
    if (r == 0)
        r = read_strings(&s.merges, &v->n_merges, gguf, "tokenizer.ggml.merges", why, why_size);
    if (r == 0)
        r = read_id(&v->bos_id, gguf, "tokenizer.ggml.bos_token_id", why, why_size);
    if (r == 0)
        r = read_id(&v->eos_id, gguf, "tokenizer.ggml.eos_token_id", why, why_size);
    if (r == 0)
        r = read_id(&v->pad_id, gguf, "tokenizer.ggml.padding_token_id", why, why_size);
    if (r == 0)
        r = read_text(&v->chat_template, gguf, "tokenizer.chat_template", why, why_size);
    if (r < 0) {
        source_done(&s);
        return r;
    }
    v->tokens = s.tokens;
    v->types = s.types;
    v->merges = s.merges;
    *ret = s;
    return 0;
}

int model_vocab_read(struct text_tokenizer **ret, const struct gguf *gguf, char *why,
                     size_t why_size)
{
    struct source source;
    if (!gguf_find(gguf, "tokenizer.ggml.model")) {
        *ret = NULL;
        return 0;
    }
    int r = source_read(&source, gguf, why, why_size);
    if (r < 0)
        return r;
    r = text_tokenizer_new(ret, &source.vocab, why, why_size);
    source_done(&source);
    return r;
}

int model_vocab_check(const struct text_tokenizer *tokenizer, uint32_t n_rows, char *why,
                      size_t why_size)
{
    uint32_t n = tokenizer ? text_n_vocab(tokenizer) : 0;
    if (n <= n_rows)
        return 0;
    snprintf(why, why_size,
             "the vocabulary has %" PRIu32 " tokens where token_embd.weight has %" PRIu32 " rows",
             n, n_rows);
    return -EBADMSG;
}

/* ---- on a thread of its own ------------------------------------------------------------------ */

struct model_vocab_job {
    pthread_t thread;
    struct source source;
    uint32_t n_rows;
    struct text_tokenizer *tokenizer; /* this and the next two: the thread's, until it is joined */
    int error;
    char why[256];
    int failed; /* atomic: the same early, for who has other work in vain */
    int built;  /* atomic: the thread is about to end */
};

static void *build(void *arg)
{
    struct model_vocab_job *job = arg;
    /* Reading goes first where processors are few. Of this thread alone, as Linux has it. */
    (void)!nice(NICE);
    int r = text_tokenizer_new(&job->tokenizer, &job->source.vocab, job->why, sizeof job->why);
    if (r == 0)
        r = model_vocab_check(job->tokenizer, job->n_rows, job->why, sizeof job->why);
    job->error = r;
    if (r < 0)
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&job->built, 1, __ATOMIC_RELAXED);
    return NULL;
}

int model_vocab_begin(struct model_vocab_job **ret, const struct gguf *gguf, uint32_t n_rows,
                      size_t *ret_tables_bytes, char *why, size_t why_size)
{
    if (!gguf_find(gguf, "tokenizer.ggml.model")) {
        *ret = NULL;
        *ret_tables_bytes = 0;
        return 0;
    }
    struct model_vocab_job *job = calloc(1, sizeof *job);
    if (!job) {
        snprintf(why, why_size, "no memory for the vocabulary");
        return -ENOMEM;
    }
    job->n_rows = n_rows;
    int r = source_read(&job->source, gguf, why, why_size);
    if (r < 0)
        goto free_job;
    sigset_t all, old; /* signals are for the service's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = -pthread_create(&job->thread, NULL, build, job);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r < 0) {
        snprintf(why, why_size, "no thread can be started for the vocabulary: %s", strerror(-r));
        goto free_source;
    }
    *ret_tables_bytes = text_tables_bytes_max(&job->source.vocab);
    *ret = job;
    return 0;

free_source:
    source_done(&job->source);
free_job:
    free(job);
    return r;
}

bool model_vocab_is_building(const struct model_vocab_job *job)
{
    return job && !__atomic_load_n(&job->built, __ATOMIC_RELAXED);
}

bool model_vocab_has_failed(const struct model_vocab_job *job)
{
    return job && __atomic_load_n(&job->failed, __ATOMIC_RELAXED);
}

int model_vocab_end(struct model_vocab_job *job, struct text_tokenizer **ret, char *why,
                    size_t why_size)
{
    if (!job) {
        *ret = NULL;
        return 0;
    }
    pthread_join(job->thread, NULL);
    int r = job->error;
    if (r == 0) {
        *ret = job->tokenizer;
    } else {
        text_tokenizer_free(job->tokenizer);
        snprintf(why, why_size, "%s", job->why);
    }
    source_done(&job->source);
    free(job);
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
