/* The texts of status and info (see status.h). */
#include "svc/status.h"

#include "mm/kv.h"
#include "ops/isa.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const char *kv_type_name(enum ops_kv_type type)
{
    static const char *const names[] = {
        [OPS_KV_F32] = "f32", [OPS_KV_F16] = "f16", [OPS_KV_Q8_0] = "q8_0"};
    return names[type];
}

__attribute__((format(printf, 3, 4))) static void line(FILE *f, const char *key, const char *format,
                                                       ...)
{
    va_list args;
    va_start(args, format);
    fprintf(f, "%s=", key);
    vfprintf(f, format, args);
    fputc('\n', f);
    va_end(args);
}

static void count(FILE *f, const char *key, uint64_t value)
{
    line(f, key, "%llu", (unsigned long long)value);
}

/* What a client needs to execute the template itself, for tools: one line of JSON. */
static void program_line(FILE *f, const struct text_chat *chat)
{
    json_t *program = json_pack("{s:s%, s:s, s:s}", "template", chat->program_text.s,
                                chat->program_text.len, "bos", chat->bos, "eos", chat->eos);
    char *text = program ? json_dumps(program, JSON_COMPACT) : NULL;
    if (text)
        line(f, "chat_program", "%s", text);
    free(text);
    json_decref(program);
}

static void chat_lines(FILE *f, const struct engine *e)
{
    if (!model_tokenizer(e->model))
        return;
    line(f, "chat_family", "%s", chat_family_name(e->prepare.chat.family));
    line(f, "chat_template", "%s", chat_known_name(e->prepare.chat.known));
    if (e->prepare.chat.program)
        program_line(f, &e->prepare.chat);
}

static void model_lines(FILE *f, const struct engine *e)
{
    const struct model *m = e->model;
    const struct model_sampling *d = model_sampling(m);
    line(f, "model", "%s", model_name(m));
    line(f, "model_types", "%s", model_type_summary(m));
    count(f, "model_bytes", model_weight_bytes(m));
    count(f, "context", e->context);
    count(f, "context_trained", model_shape(m)->context_length);
    line(f, "default_temperature", "%g", (double)d->temperature);
    count(f, "default_top_k", d->top_k);
    line(f, "default_top_p", "%g", (double)d->top_p);
    line(f, "default_repetition_penalty", "%g", (double)d->repetition_penalty);
    line(f, "default_min_p", "0");
    line(f, "default_presence_penalty", "0");
    line(f, "default_frequency_penalty", "0");
    count(f, "default_max_tokens", PREPARE_MAX_TOKENS);
    chat_lines(f, e);
}

static void cache_lines(FILE *f, const struct engine *e)
{
    const uint32_t n = mm_kv_n_pages(e->kv), idle = prefix_n_idle(e->prefix);
    line(f, "weights_pages", "%s%s", mm_page_kind_name(model_arena(e->model)->kind),
         model_arena(e->model)->locked ? ", locked" : "");
    count(f, "weights_arena_bytes", model_arena(e->model)->size);
    struct timespec since;
    const char *keeper = model_kept_by(e->model, &since);
    line(f, "weights_kept_by", "%s", keeper ? keeper : "nobody");
    if (keeper)
        count(f, "weights_kept_s", (uint64_t)(time(NULL) - since.tv_sec));
    line(f, "weights_warm", "%s", model_is_warm(e->model) ? "yes" : "no");
    line(f, "kv_type", "%s", kv_type_name(e->own.kv_type));
    line(f, "kv_pages_kind", "%s%s", mm_page_kind_name(mm_kv_arena(e->kv)->kind),
         mm_kv_arena(e->kv)->locked ? ", locked" : "");
    count(f, "kv_bytes", mm_kv_arena(e->kv)->size);
    count(f, "kv_positions", (uint64_t)n * OPS_KV_PAGE);
    count(f, "kv_pages", n);
    count(f, "kv_pages_used", n - mm_kv_n_free(e->kv) - idle);
    count(f, "kv_pages_cached", idle);
    count(f, "kv_pages_reserved", sched_pages_reserved(e->sched));
    count(f, "kv_pages_pinned", pins_n_pages(e->pins));
    count(f, "sequences_max", e->own.sequences);
    count(f, "running", sched_n_running(e->sched));
    count(f, "waiting", sched_n_waiting(e->sched));
}

/* Of one model. */
static void counter_lines(FILE *f, const struct figures_counters *t)
{
    count(f, "requests", t->n_requests);
    count(f, "finished", t->n_finished);
    count(f, "prompt_tokens", t->n_prompt_tokens);
    count(f, "cached_tokens", t->n_cached_tokens);
    count(f, "generated_tokens", t->n_generated_tokens);
    count(f, "steps", t->n_steps);
    count(f, "step_us", t->step_us);
}

/* Upper bounds of what 50 and 99 of a hundred did not exceed, since the start. */
static void latency_lines(FILE *f, const struct figures_counters *t)
{
    const struct {
        const char *name;
        const struct figures_histogram *times;
    } all[] = {{"queue", &t->queue},
               {"first_token", &t->first_token},
               {"token_gap", &t->token_gap},
               {"request", &t->request}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_p50_us", all[i].name);
        count(f, key, figures_quantile(all[i].times, 0.5));
        snprintf(key, sizeof key, "%s_p99_us", all[i].name);
        count(f, key, figures_quantile(all[i].times, 0.99));
    }
}

char *status_text(const struct engines *engines, size_t *ret_n)
{
    const struct engines *s = engines;
    const bool loading = s->hold == ENGINES_LOADING;
    struct figures_counters t;
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_n);
    if (!f)
        return NULL;
    engines_totals(s, &t);
    line(f, "version", "%s", QUERN_VERSION);
    line(f, "state", "%s", loading ? "loading" : "ready");
    if (loading) {
        count(f, "load_bytes_done", s->load_done);
        count(f, "load_bytes_total", s->load_total);
    }
    count(f, "uptime_s", (engine_now_us() - s->started_us) / 1000000);
    count(f, "threads", ops_pool_n_threads(s->shared.pool));
    line(f, "isa", "%s", ops_isa_name(ops_isa()));
    count(f, "token_gap_ms", s->shared.options->token_gap_ms);
    count(f, "clients", s->clients->n);
    for (int i = 0; i < POLICY_N_CAUSES; i++) {
        char key[64];
        snprintf(key, sizeof key, "refused_%s", policy_cause_name((enum policy_cause)i));
        count(f, key, s->shared.policy->refused[i].n);
    }
    count(f, "total_requests", t.n_requests);
    count(f, "total_finished", t.n_finished);
    count(f, "total_cancelled", t.n_cancelled);
    count(f, "total_failed", t.n_failed);
    count(f, "total_prompt_tokens", t.n_prompt_tokens);
    count(f, "total_cached_tokens", t.n_cached_tokens);
    count(f, "total_generated_tokens", t.n_generated_tokens);
    count(f, "total_steps", t.n_steps);
    count(f, "total_step_us", t.step_us);
    count(f, "total_set_back", t.n_set_back);
    count(f, "total_cut_short", t.n_cut_short);
    count(f, "total_rows", t.n_rows);
    count(f, "total_plan_us", t.plan_us);
    count(f, "total_sample_us", t.sample_us);
    count(f, "total_hand_out_us", t.hand_out_us);
    latency_lines(f, &t);
    count(f, "models", s->n);
    for (uint32_t i = 0; i < s->n && !loading; i++) {
        model_lines(f, s->all[i]);
        cache_lines(f, s->all[i]);
        counter_lines(f, &s->all[i]->totals);
    }
    return fclose(f) == 0 ? text : NULL;
}

char *status_info_text(const struct engine *engine, size_t *ret_n)
{
    const struct model_shape *shape = model_shape(engine->model);
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_n);
    if (!f)
        return NULL;
    model_lines(f, engine);
    count(f, "layers", shape->n_layers);
    count(f, "width", shape->d_model);
    count(f, "heads", shape->n_heads);
    count(f, "kv_heads", shape->n_kv_heads);
    count(f, "head_width", shape->head_dim);
    count(f, "experts", shape->n_experts);
    count(f, "experts_used", shape->n_experts_used);
    count(f, "vocabulary", shape->n_tokens);
    count(f, "vocabulary_rows", shape->n_vocab);
    line(f, "tokenizer", "%s", model_tokenizer(engine->model) ? "yes" : "no");
    chat_lines(f, engine);
    return fclose(f) == 0 ? text : NULL;
}
