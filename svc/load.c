/* Bringing an engine up: model, KV pool, scratch; each refusal in numbers. */
#include "svc/step.h"

#include "mm/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONTEXT_DEFAULT = 8192,
    CONTEXTS_DEFAULT = 4, /* full contexts that the KV pool holds where nothing was said */
    CHUNK_MAX = 512,
};

struct engine *engine_new(struct engine_shared *shared, uint32_t slot)
{
    struct engine *e = calloc(1, sizeof *e);
    if (e)
        *e = (struct engine){.shared = shared,
                             .options = shared->options,
                             .policy = shared->policy,
                             .pool = shared->pool,
                             .slot = slot,
                             .spare_us = ENGINE_SPARE_US};
    return e;
}

void engine_unload(struct engine *engine)
{
    struct engine *e = engine;
    if (e->samplers)
        for (unsigned i = 0; i < ops_pool_n_threads(e->pool); i++)
            sampler_free(e->samplers[i]);
    free(e->samplers);
    free(e->logits);
    free(e->spans);
    free(e->rows);
    prepare_done(&e->prepare);
    sched_free(e->sched);
    pins_free(e->pins);
    prefix_free(e->prefix);
    forward_free(e->forward);
    mm_kv_free(e->kv);
    model_free(e->model);
    e->samplers = NULL;
    e->logits = NULL;
    e->spans = NULL;
    e->rows = NULL;
    e->prepare = (struct prepare){0};
    e->sched = NULL;
    e->pins = NULL;
    e->prefix = NULL;
    e->forward = NULL;
    e->kv = NULL;
    e->model = NULL;
}

void engine_free(struct engine *engine)
{
    if (!engine)
        return;
    engine_unload(engine);
    free(engine);
}

static uint32_t pages_of(uint32_t n_positions)
{
    return (n_positions + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
}

/* Pages of the KV pool: what was asked for, else a few contexts within a quarter of the memory; at
 * least one context. */
static int choose_pages(const struct engine *e, const struct model *model, uint32_t *ret, char *why,
                        size_t why_size)
{
    const struct options *o = e->options;
    const uint64_t page_bytes =
        (uint64_t)forward_kv_slice_bytes(model, o->kv_type) * model_shape(model)->n_layers;
    const uint64_t one = pages_of(e->context);
    uint64_t ordinary = UINT64_MAX, hugetlb = 0, left = UINT64_MAX;
    if (mm_memory_available(&ordinary, &hugetlb) == 0)
        left = ordinary + hugetlb;
    if (o->memory_limit_bytes) {
        uint64_t used = model_arena(model)->size;
        uint64_t rest = o->memory_limit_bytes > used ? o->memory_limit_bytes - used : 0;
        left = rest < left ? rest : left;
    }
    uint64_t n = o->kv_bytes ? o->kv_bytes / page_bytes : CONTEXTS_DEFAULT * one;
    if (!o->kv_bytes && n > left / 4 / page_bytes)
        n = left / 4 / page_bytes > one ? left / 4 / page_bytes : one;
    if (n < one) {
        snprintf(why, why_size,
                 "A context of %u positions needs %llu MiB of KV cache, but --kv-bytes gives %llu "
                 "MiB; lower --context or raise it.",
                 e->context, (unsigned long long)(one * page_bytes >> 20),
                 (unsigned long long)(o->kv_bytes >> 20));
        return -ENOMEM;
    }
    if (n > UINT32_MAX - 1 || n * page_bytes > left) {
        snprintf(why, why_size,
                 "The KV cache needs %llu MiB, but %llu MiB of memory are left beside the weights; "
                 "lower --context or --kv-bytes, or use --kv q8_0.",
                 (unsigned long long)(n * page_bytes >> 20), (unsigned long long)(left >> 20));
        return -ENOMEM;
    }
    *ret = (uint32_t)n;
    return 0;
}

static int make_scratch(struct engine *e, const struct model *model, size_t input_bytes_max)
{
    const struct options *o = e->options;
    const struct model_shape *shape = model_shape(model);
    const unsigned n_threads = ops_pool_n_threads(e->pool);
    e->n_logit_rows = o->sequences + STEP_SCORE_ROWS;
    e->logits = malloc((size_t)e->n_logit_rows * shape->n_vocab * sizeof *e->logits);
    e->spans = calloc(o->sequences, sizeof *e->spans);
    e->rows = calloc(o->sequences, sizeof *e->rows);
    e->samplers = calloc(n_threads, sizeof *e->samplers);
    if (!e->logits || !e->spans || !e->rows || !e->samplers)
        return -ENOMEM;
    for (unsigned i = 0; i < n_threads; i++) {
        int r = sampler_new(&e->samplers[i], shape->n_tokens);
        if (r < 0)
            return r;
    }
    return prepare_init(&e->prepare, model, e->pins, e->slot, e->context, OPS_KV_PAGE,
                        STEP_SCORE_ROWS, input_bytes_max);
}

int engine_settle(struct engine *engine, char *why, size_t why_size)
{
    return mm_kv_settle(engine->kv, why, why_size);
}

static void say_image_done(int error, const char *sentence)
{
    journal_log(error < 0 ? JOURNAL_WARNING : JOURNAL_INFO, NULL, "%s", sentence);
}

static struct ops_rope_options rope_of(const struct options *o)
{
    return (struct ops_rope_options){
        .scaling = o->rope_scaling == OPTIONS_ROPE_YARN     ? OPS_ROPE_YARN
                   : o->rope_scaling == OPTIONS_ROPE_LINEAR ? OPS_ROPE_LINEAR
                                                            : OPS_ROPE_NONE,
        .factor = o->rope_factor > 0 ? o->rope_factor : 1,
        .original_context = o->rope_original,
    };
}

/* A template that is not one of the known ones is news. */
static void tell_template(const struct engine *e)
{
    const struct prepare *p = &e->prepare;

    if (!model_tokenizer(e->model) || p->chat.known == CHAT_KNOWN)
        return;
    if (p->chat.known == CHAT_EXECUTED)
        journal_log(JOURNAL_NOTICE, NULL,
                    "The file's chat template is none that is known: it is executed.");
    else
        journal_log(JOURNAL_NOTICE, NULL,
                    "The file's chat template is none that is known; prompts are made as %s does "
                    "(%s).%s%s%s",
                    chat_family_name(p->chat.family), chat_known_name(p->chat.known),
                    *p->chat_why ? " It was not executed: " : "", p->chat_why,
                    *p->chat_why ? "." : "");
}

int engine_load(struct engine *engine, size_t input_bytes_max,
                int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, char *why,
                size_t why_size)
{
    struct engine *e = engine;
    const struct options *o = e->options;
    struct model *model;
    struct model_options options = {.huge_pages = o->huge_pages,
                                    .memory_limit_bytes = o->memory_limit_bytes,
                                    .n_context = o->context,
                                    .n_context_max = CONTEXT_DEFAULT,
                                    .kv_type = o->kv_type,
                                    .rope_override = o->rope_scaling != OPTIONS_ROPE_FILE,
                                    .rope = rope_of(o),
                                    .image = o->image,
                                    .cache_folder = o->cache_folder,
                                    .store = o->store,
                                    .image_done = say_image_done,
                                    .progress = progress,
                                    .progress_arg = arg};
    int r = model_load(&model, o->model, &options, e->pool, why, why_size);
    if (r < 0)
        return r;
    const struct model_shape *shape = model_shape(model);
    const uint32_t trained = shape->context_length;
    e->context = o->context                             ? o->context
                 : trained && trained < CONTEXT_DEFAULT ? trained
                                                        : CONTEXT_DEFAULT;
    uint32_t n_pages;
    r = choose_pages(e, model, &n_pages, why, why_size);
    if (r < 0)
        goto free_model;
    r = mm_kv_new(&e->kv, n_pages, shape->n_layers, forward_kv_slice_bytes(model, o->kv_type),
                  o->huge_pages, why, why_size);
    if (r < 0)
        goto free_model;
    if (why[0])
        journal_log(JOURNAL_INFO, NULL, "KV cache: %s", why);
    struct sched_options sched = {.n_pages = n_pages,
                                  .page_len = OPS_KV_PAGE,
                                  .n_running = o->sequences,
                                  .n_waiting = o->queue,
                                  .chunk_max = CHUNK_MAX,
                                  .token_gap_us = (uint64_t)o->token_gap_ms * 1000};
    if ((r = forward_new(&e->forward, model, e->pool, e->kv, o->kv_type, CHUNK_MAX + o->sequences,
                         e->context)) < 0 ||
        (r = prefix_new(&e->prefix, e->kv, OPS_KV_PAGE)) < 0 ||
        (r = pins_new(&e->pins, e->kv, n_pages - pages_of(e->context), e->slot,
                      &e->shared->last_pin)) < 0 ||
        (r = sched_new(&e->sched, &sched)) < 0 ||
        (r = make_scratch(e, model, input_bytes_max)) < 0) {
        snprintf(
            why, why_size,
            "Memory for the computation could not be had (%s); lower --context or --sequences.",
            strerror(-r));
        goto free_model; /* what else was made is engine_done's */
    }
    e->model = model;
    tell_template(e);
    return 0;
free_model:
    forward_free(e->forward);
    e->forward = NULL;
    model_free(model);
    return r;
}
