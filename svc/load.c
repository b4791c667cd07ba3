/* Bringing an engine up: model, KV pool, scratch; each refusal in numbers. */
#include "mm/store.h"
#include "svc/step.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONTEXT_DEFAULT = 8192,
    CONTEXTS_DEFAULT = 4, /* full contexts that the KV pool holds where nothing was said */
    CHUNK_MAX = 512,
};

struct engine *engine_new(struct engine_shared *shared, const struct options_model *own,
                          uint32_t slot)
{
    struct engine *e = calloc(1, sizeof *e);
    if (e)
        *e = (struct engine){.shared = shared,
                             .options = shared->options,
                             .policy = shared->policy,
                             .pool = shared->pool,
                             .own = *own,
                             .slot = slot,
                             .spare_us = ENGINE_SPARE_US};
    return e;
}

void engine_free(struct engine *engine)
{
    struct engine *e = engine;
    if (!e)
        return;
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
    model_free(e->model ? e->model : e->coming);
    free(e);
}

static uint32_t pages_of(uint32_t n_positions)
{
    return (n_positions + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
}

/* ---- what is needed, before anything is read -------------------------------------------------- */

static struct ops_rope_options rope_of(const struct options_model *o)
{
    return (struct ops_rope_options){
        .scaling = o->rope_scaling == OPTIONS_ROPE_YARN     ? OPS_ROPE_YARN
                   : o->rope_scaling == OPTIONS_ROPE_LINEAR ? OPS_ROPE_LINEAR
                                                            : OPS_ROPE_NONE,
        .factor = o->rope_factor > 0 ? o->rope_factor : 1,
        .original_context = o->rope_original,
    };
}

/* Where weights are kept. A service that ends when it is idle is stopped for systemd, and what its store
 * holds then goes, unless systemd is new enough to keep it: weights lie in a folder instead. */
static const char *store_of(const struct options *o)
{
    const bool may_go = o->store && !strcmp(o->store, "auto") && o->exit_on_idle_s;
    return may_go && mm_store_wants_folder() ? "hugetlbfs" : o->store;
}

static void say_image_done(int error, const char *sentence)
{
    journal_log(error < 0 ? JOURNAL_WARNING : JOURNAL_INFO, NULL, "%s", sentence);
}

int engine_open(struct engine *engine, int (*progress)(void *arg, uint64_t done, uint64_t total),
                void *arg, char *why, size_t why_size)
{
    struct engine *e = engine;
    const struct options *o = e->options;
    struct model_options options = {.huge_pages = o->huge_pages,
                                    .name = e->own.name,
                                    .n_context = e->own.context,
                                    .n_context_max = CONTEXT_DEFAULT,
                                    .kv_type = e->own.kv_type,
                                    .rope_override = e->own.rope_scaling != OPTIONS_ROPE_FILE,
                                    .rope = rope_of(&e->own),
                                    .image = o->image,
                                    .cache_folder = o->cache_folder,
                                    .store = store_of(o),
                                    .image_done = say_image_done,
                                    .progress = progress,
                                    .progress_arg = arg};
    int r = model_open(&e->coming, e->own.path, &options, why, why_size);
    if (r < 0)
        return r;
    const uint32_t trained = model_shape(e->coming)->context_length;
    e->context = e->own.context                         ? e->own.context
                 : trained && trained < CONTEXT_DEFAULT ? trained
                                                        : CONTEXT_DEFAULT;
    model_need(e->coming, ops_pool_n_threads(e->pool), &e->need);
    return 0;
}

static uint64_t page_bytes_of(const struct engine *e)
{
    return (uint64_t)forward_kv_slice_bytes(e->coming, e->own.kv_type) *
           model_shape(e->coming)->n_layers;
}

/* Pages of the KV pool: what was asked for, else a few contexts within `part` of the memory; at
 * least one context. `left`: what there is beside all weights. */
static int choose_pages(struct engine *e, uint64_t left, uint64_t part, char *why, size_t why_size)
{
    const uint64_t page_bytes = page_bytes_of(e), one = pages_of(e->context);
    uint64_t n = e->own.kv_bytes ? e->own.kv_bytes / page_bytes : CONTEXTS_DEFAULT * one;
    if (!e->own.kv_bytes && n > part / page_bytes)
        n = part / page_bytes > one ? part / page_bytes : one;
    if (n < one) {
        snprintf(why, why_size,
                 "A context of %u positions of %s needs %llu MiB of KV cache, but --kv-bytes gives "
                 "%llu MiB; lower --context or raise it.",
                 e->context, e->need.name, (unsigned long long)(one * page_bytes >> 20),
                 (unsigned long long)(e->own.kv_bytes >> 20));
        return -ENOMEM;
    }
    if (n > UINT32_MAX - 1 || n * page_bytes > left) {
        snprintf(why, why_size,
                 "The KV cache of %s needs %llu MiB, but %llu MiB of memory are left beside the "
                 "weights; lower --context or --kv-bytes, or use --kv q8_0.",
                 e->need.name, (unsigned long long)(n * page_bytes >> 20),
                 (unsigned long long)(left >> 20));
        return -ENOMEM;
    }
    e->n_pages = (uint32_t)n;
    e->need.kv = n * page_bytes;
    e->need.n_positions = n * OPS_KV_PAGE;
    return 0;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

int engine_plan(struct engine *const *engines, size_t n, uint64_t limit_bytes, char *why,
                size_t why_size)
{
    struct model_need needs[OPTIONS_MODELS_MAX];
    const enum mm_huge_policy huge_pages = n ? engines[0]->options->huge_pages : MM_HUGE_OFF;
    uint64_t left, part, limit = limit_bytes ? limit_bytes : UINT64_MAX, n_default = 0;
    for (size_t i = 0; i < n; i++)
        needs[i] = engines[i]->need;
    int r = model_fit(needs, n, huge_pages, limit_bytes, why, why_size);
    if (r == 0)
        r = model_room(&left, why, why_size);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        left = less(left, needs[i].is_there ? 0 : needs[i].weights);
        limit = less(limit, needs[i].weights);
    }
    part = left = left < limit ? left : limit;
    for (size_t i = 0; i < n; i++) { /* a quarter of what no model asks for by number */
        part = less(part, engines[i]->own.kv_bytes);
        n_default += !engines[i]->own.kv_bytes;
    }
    part = n_default ? part / 4 / n_default : 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = choose_pages(engines[i], left, part, why, why_size);
        needs[i] = engines[i]->need;
    }
    return r == 0 ? model_fit(needs, n, huge_pages, limit_bytes, why, why_size) : r;
}

/* ---- and all of it ------------------------------------------------------------------------- */

/* What a model computes with. It is made on another thread while the weights are read, and until then
 * not the engine's, which others look at. */
struct computation {
    struct engine *engine;
    struct mm_kv *kv;
    struct forward *forward;
    struct prefix *prefix;
    struct pins *pins;
    struct sched *sched;
    float *logits;
    struct forward_span *spans;
    struct engine_row *rows;
    uint32_t n_logit_rows;
    int error;
    char why[512]; /* of the KV cache's pages */
};

static int make_rows(struct computation *c)
{
    const uint32_t n_sequences = c->engine->own.sequences;
    c->n_logit_rows = n_sequences + STEP_SCORE_ROWS;
    c->logits = malloc((size_t)c->n_logit_rows * model_shape(c->engine->coming)->n_vocab *
                       sizeof *c->logits);
    c->spans = calloc(n_sequences, sizeof *c->spans);
    c->rows = calloc(n_sequences, sizeof *c->rows);
    return c->logits && c->spans && c->rows ? 0 : -ENOMEM;
}

static int make_computation(void *arg)
{
    struct computation *c = arg;
    const struct engine *e = c->engine;
    const struct options *o = e->options;
    const struct model *model = e->coming;
    const uint32_t n_sequences = e->own.sequences;
    const enum ops_kv_type kv_type = e->own.kv_type;
    const struct sched_options sched = {.n_pages = e->n_pages,
                                        .page_len = OPS_KV_PAGE,
                                        .n_running = n_sequences,
                                        .n_waiting = o->queue,
                                        .chunk_max = CHUNK_MAX,
                                        .token_gap_us = (uint64_t)o->token_gap_ms * 1000};
    int r = mm_kv_new(&c->kv, e->n_pages, model_shape(model)->n_layers,
                      forward_kv_slice_bytes(model, kv_type), o->huge_pages, c->why, sizeof c->why);
    if (r < 0)
        return c->error = r;
    if ((r = forward_new(&c->forward, model, e->pool, c->kv, kv_type, CHUNK_MAX + n_sequences,
                         e->context)) < 0 ||
        (r = prefix_new(&c->prefix, c->kv, OPS_KV_PAGE)) < 0 ||
        (r = pins_new(&c->pins, c->kv, e->n_pages - pages_of(e->context), e->slot,
                      &e->shared->last_pin)) < 0 ||
        (r = sched_new(&c->sched, &sched)) < 0 || (r = make_rows(c)) < 0)
        snprintf(
            c->why, sizeof c->why,
            "Memory for the computation could not be had (%s); lower --context or --sequences.",
            strerror(-r));
    return c->error = r;
}

/* The engine's from now on, whatever of it there is. */
static void take_computation(struct engine *e, const struct computation *c)
{
    e->kv = c->kv;
    e->forward = c->forward;
    e->prefix = c->prefix;
    e->pins = c->pins;
    e->sched = c->sched;
    e->logits = c->logits;
    e->spans = c->spans;
    e->rows = c->rows;
    e->n_logit_rows = c->n_logit_rows;
}

/* What needs to know the tokens. */
static int make_samplers(struct engine *e, size_t input_bytes_max)
{
    const unsigned n_threads = ops_pool_n_threads(e->pool);
    e->samplers = calloc(n_threads, sizeof *e->samplers);
    if (!e->samplers)
        return -ENOMEM;
    for (unsigned i = 0; i < n_threads; i++) {
        int r = sampler_new(&e->samplers[i], model_shape(e->coming)->n_tokens);
        if (r < 0)
            return r;
    }
    return prepare_init(&e->prepare, e->coming, e->pins, e->slot, e->context, OPS_KV_PAGE,
                        STEP_SCORE_ROWS, input_bytes_max);
}

int engine_settle(struct engine *engine, char *why, size_t why_size)
{
    return mm_kv_settle(engine->kv, why, why_size);
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

int engine_load(struct engine *engine, size_t input_bytes_max, char *why, size_t why_size)
{
    struct engine *e = engine;
    const struct journal_context context = {.model = engine_name(e)};
    struct computation c = {.engine = e};
    int r = model_read(e->coming, e->pool, make_computation, &c, why, why_size);
    take_computation(e, &c); /* engine_free's where something went wrong */
    if (r < 0 && c.error == r)
        snprintf(why, why_size, "%s", c.why);
    if (r < 0)
        return r;
    if (c.why[0])
        journal_log(JOURNAL_INFO, &context, "KV cache of %s: %s", engine_name(e), c.why);
    r = make_samplers(e, input_bytes_max);
    if (r < 0) {
        snprintf(why, why_size, "Memory for the samplers could not be had (%s).", strerror(-r));
        return r;
    }
    e->model = e->coming;
    e->coming = NULL;
    tell_template(e);
    return 0;
}
