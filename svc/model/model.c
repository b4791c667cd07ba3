/* Owns: a model, from its metadata to its weights in memory.
 *
 * The load is: metadata, shape, plan of the weights, the budget in numbers, and only then the
 * weights, the tokenizer being built beside. What does not fit is refused before the first weight is read. */
#include "svc/model/model.h"

#include "svc/model/forward.h"
#include "svc/model/gguf.h"
#include "svc/model/residence.h"
#include "svc/model/shape.h"
#include "svc/model/vocab.h"
#include "svc/model/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct model {
    struct model_shape shape;
    struct model_weights weights;
    struct model_residence residence;
    struct model_sampling sampling;
    struct model_options options;
    struct gguf *gguf;                /* until it is read */
    struct text_tokenizer *tokenizer; /* or NULL */
    struct ops_rope *rope;
    char name[128];
    char notes[1536];
};

static int check_vocab(struct model *model, char *why, size_t why_size);
static int set_rope(struct model *model, const struct model_options *options, char *why,
                    size_t why_size);
static void set_name(struct model *model, const struct gguf *gguf);

int model_load(struct model **ret, const char *path, const struct model_options *options,
               struct ops_pool *pool, char *why, size_t why_size)
{
    struct model *model;
    struct model_need need;
    int r = model_open(&model, path, options, why, why_size);
    if (r < 0)
        return r;
    model_sweep(&model, 1);
    model_need(model, ops_pool_n_threads(pool), &need);
    r = model_fit(&need, 1, options->huge_pages, options->memory_limit_bytes, why, why_size);
    if (r == 0)
        r = model_read(model, pool, NULL, NULL, why, why_size);
    if (r < 0) {
        model_free(model);
        return r;
    }
    *ret = model;
    return 0;
}

int model_open(struct model **ret, const char *path, const struct model_options *options, char *why,
               size_t why_size)
{
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return -ENOMEM;
    model->options = *options;
    int r = gguf_open(&model->gguf, path, why, why_size);
    if (r == 0)
        r = model_shape_read(&model->shape, model->gguf, why, why_size);
    if (r == 0)
        r = model_weights_plan(&model->weights, model->gguf, &model->shape, why, why_size);
    if (r == 0)
        model_residence_find(&model->residence, &model->weights, model->gguf, options, model->notes,
                             sizeof model->notes);
    /* Building the tokenizer takes longer than all else of a warm start: not where tables lie ready. */
    if (r == 0 && !model->residence.adopted && !model->residence.image)
        r = model_vocab_begin(&model->residence.vocab, model->gguf, model->shape.n_vocab,
                              &model->residence.tables_bytes, why, why_size);
    if (r == 0)
        r = set_rope(model, options, why, why_size);
    if (r < 0) {
        model_free(model);
        return r;
    }
    set_name(model, model->gguf);
    *ret = model;
    return 0;
}

void model_sweep(struct model *const *models, size_t n)
{
    const struct model_residence **residences = calloc(n, sizeof *residences);
    for (size_t i = 0; residences && i < n; i++)
        residences[i] = &models[i]->residence;
    if (residences)
        model_residence_sweep(residences, n, models[0]->notes, sizeof models[0]->notes);
    free(residences);
}

void model_need(const struct model *model, unsigned n_threads, struct model_need *ret)
{
    const uint32_t context = model->shape.rope.n_positions;
    const uint64_t pages = ((uint64_t)context + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    struct model_need need = {
        .name = model->name,
        .weights = model_residence_bytes(&model->residence, &model->weights),
        .scratch = forward_bytes(model, FORWARD_CHUNK, context, n_threads) +
                   ops_rope_bytes(&model->shape.rope),
        .n_positions = context,
        .is_there = model->residence.adopted,
    };
    if (__builtin_mul_overflow(pages * model->shape.n_layers,
                               forward_kv_slice_bytes(model, model->options.kv_type), &need.kv))
        need.kv = UINT64_MAX / 64; /* of which several may be added up */
    *ret = need;
}

/* ---- beside the reading ----------------------------------------------------------------------- */

struct beside { /* what is made while the weights are read */
    struct model *model;
    int (*fn)(void *arg);
    void *arg;
    pthread_t thread;
    bool begun, on_thread;
    int error; /* the thread's, until it is joined */
};

static void *make_beside(void *arg)
{
    struct beside *beside = arg;
    beside->error = ops_rope_new(&beside->model->rope, &beside->model->shape.rope);
    if (beside->error == 0 && beside->fn)
        beside->error = beside->fn(beside->arg);
    return NULL;
}

static void begin_beside(void *arg)
{
    struct beside *beside = arg;
    if (beside->begun)
        return;
    beside->begun = beside->on_thread = true;
    sigset_t all, old; /* signals are for the service's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&beside->thread, NULL, make_beside, beside);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0) { /* no thread to be had: then before the first read */
        beside->on_thread = false;
        make_beside(beside);
    }
}

int model_read(struct model *model, struct ops_pool *pool, int (*fn)(void *arg), void *arg,
               char *why, size_t why_size)
{
    struct beside beside = {.model = model, .fn = fn, .arg = arg};
    if (model->residence.adopted) /* nothing is read */
        begin_beside(&beside);
    model->residence.under_way = begin_beside;
    model->residence.under_way_arg = &beside;
    int r = model_residence_load(&model->residence, &model->weights, &model->tokenizer, model->gguf,
                                 &model->options, pool, model->notes, sizeof model->notes, why,
                                 why_size);
    if (r == 0)
        begin_beside(&beside); /* where the first read was the last */
    if (beside.on_thread)
        pthread_join(beside.thread, NULL);
    model->residence.under_way = NULL;
    if (r == 0 && !model->rope)
        snprintf(why, why_size, "no memory for the table of RoPE's angles");
    if (r == 0)
        r = beside.error;
    if (r == 0)
        r = check_vocab(model, why, why_size);
    if (r == 0)
        r = model_sampling_read(&model->sampling, model->gguf, &model->shape, model->tokenizer, why,
                                why_size);
    if (r < 0)
        return r;
    gguf_free(model->gguf);
    model->gguf = NULL;
    return 0;
}

void model_free(struct model *model)
{
    if (!model)
        return;
    model_residence_done(&model->residence);
    gguf_free(model->gguf);
    text_tokenizer_free(model->tokenizer); /* its tables lie in the arena of the weights */
    model_weights_done(&model->weights);
    ops_rope_free(model->rope);
    free(model);
}

static int check_vocab(struct model *model, char *why, size_t why_size)
{
    int r = model_vocab_check(model->tokenizer, model->shape.n_vocab, why, why_size);
    if (r == 0 && model->tokenizer)
        model->shape.n_tokens = text_n_vocab(model->tokenizer);
    return r;
}

/* The file's RoPE, or the caller's; the table is as long as what will be served. */
static int set_rope(struct model *model, const struct model_options *options, char *why,
                    size_t why_size)
{
    struct model_shape *shape = &model->shape;
    if (options->rope_override) {
        shape->rope.scaling = options->rope.scaling;
        shape->rope.factor = options->rope.factor;
        shape->rope.attention_factor = options->rope.attention_factor;
        shape->rope.original_context =
            options->rope.original_context ? options->rope.original_context : shape->context_length;
    }
    if (shape->rope.scaling == OPS_ROPE_YARN) {
        double context = shape->rope.factor * shape->rope.original_context;
        if (context > MODEL_CONTEXT_MAX) {
            snprintf(why, why_size,
                     "RoPE scaling by %g of %" PRIu32 " positions is beyond the %u possible",
                     shape->rope.factor, shape->rope.original_context, MODEL_CONTEXT_MAX);
            return -EINVAL;
        }
        if (context > shape->context_length)
            shape->context_length = (uint32_t)context;
    }
    shape->rope.n_positions = options->n_context ? options->n_context : shape->context_length;
    if (!options->n_context && options->n_context_max &&
        shape->rope.n_positions > options->n_context_max)
        shape->rope.n_positions = options->n_context_max;
    if (ops_rope_bytes(&shape->rope) == 0) {
        snprintf(why, why_size,
                 "RoPE options are out of range: factor %g, original context %" PRIu32,
                 shape->rope.factor, shape->rope.original_context);
        return -EINVAL;
    }
    return 0;
}

/* What was given, else general.name, else the file's name; what does not print is shown as '?'. */
static void set_name(struct model *model, const struct gguf *gguf)
{
    char why[1];
    struct gguf_string name = {NULL, 0};
    if (model->options.name) {
        snprintf(model->name, sizeof model->name, "%s", model->options.name);
        return;
    }
    if (gguf_get_string(gguf, "general.name", &name, why, sizeof why) < 0 || name.length == 0) {
        const char *path = gguf_path(gguf, 0), *slash = strrchr(path, '/');
        name.data = slash ? slash + 1 : path;
        name.length = strlen(name.data);
    }
    size_t n = name.length < sizeof model->name - 1 ? name.length : sizeof model->name - 1;
    for (size_t i = 0; i < n; i++)
        model->name[i] = name.data[i] >= 0x20 && name.data[i] < 0x7f ? name.data[i] : '?';
}

const struct model_shape *model_shape(const struct model *model)
{
    return &model->shape;
}

const struct model_layer *model_layers(const struct model *model)
{
    return model->weights.layers;
}

const struct ops_matrix *model_embedding(const struct model *model)
{
    return &model->weights.embedding;
}

const struct ops_matrix *model_head(const struct model *model)
{
    return &model->weights.head;
}

const float *model_output_norm(const struct model *model)
{
    return model->weights.output_norm;
}

const struct ops_rope *model_rope(const struct model *model)
{
    return model->rope;
}

const struct text_tokenizer *model_tokenizer(const struct model *model)
{
    return model->tokenizer;
}

const struct model_sampling *model_sampling(const struct model *model)
{
    return &model->sampling;
}

const struct mm_arena *model_arena(const struct model *model)
{
    return &model->weights.arena;
}

const char *model_name(const struct model *model)
{
    return model->name;
}

const char *model_type_summary(const struct model *model)
{
    return model->weights.type_summary;
}

const char *model_load_notes(const struct model *model)
{
    return model->notes;
}

const char *model_image_notes(const struct model *model)
{
    return model_residence_image_notes(&model->residence);
}

int model_wait_for_image(struct model *model)
{
    return model_residence_wait(&model->residence);
}

const char *model_kept_by(const struct model *model, struct timespec *ret_since)
{
    if (!model->residence.kept || mm_store_since(&model->weights.arena, ret_since) < 0)
        return NULL;
    return model->residence.store.place == MM_STORE_SYSTEMD ? "systemd" : "hugetlbfs";
}

enum mm_huge_policy model_scratch_pages(const struct model *model)
{
    return model->options.huge_pages == MM_HUGE_OFF ? MM_HUGE_OFF : MM_HUGE_PREFER;
}

void model_let_go(struct model *model)
{
    if (model->residence.kept)
        mm_store_let_go(&model->residence.store);
    model->residence.kept = false;
}

bool model_is_warm(const struct model *model)
{
    return model->residence.adopted;
}

uint64_t model_weight_bytes(const struct model *model)
{
    return model->weights.token_bytes;
}
