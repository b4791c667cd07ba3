/* The engine's requests: from where their model is known to the last event. What a step computes is in
 * step.c, how the model is brought up in load.c. */
#include "svc/engine.h"

#include "svc/sequence.h"
#include "svc/status.h"
#include "svc/step.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t engine_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Adds what an ended request took to the figures. */
static void note_ended(const struct request *q)
{
    struct figures_counters *t = q->totals;
    const uint16_t reason = q->final.u.final.reason;
    uint64_t *count = reason == IPC_REASON_FAILED      ? &t->n_failed
                      : reason == IPC_REASON_CANCELLED ? &t->n_cancelled
                                                       : &t->n_finished;
    if (request_is_look(&q->r))
        return;
    ++*count;
    figures_note(&t->request, engine_now_us() - q->taken_us);
    if (q->started_us)
        figures_note(&t->queue, q->started_us - q->taken_us);
    if (q->first_token_us) {
        figures_note(&t->prefill, q->first_token_us - q->started_us);
        figures_note(&t->first_token, q->first_token_us - q->taken_us);
    }
    t->n_cached_tokens += q->final.u.final.cached_tokens;
    t->n_prompt_tokens += q->final.u.final.prompt_tokens;
}

static const char *name_of(const struct engine *e)
{
    return e && e->model ? model_name(e->model) : NULL;
}

const char *engine_name(const struct engine *engine)
{
    const struct model *model = engine->model ? engine->model : engine->coming;
    return model ? model_name(model) : engine->own.name ? engine->own.name : "";
}

void engine_pump(struct request *request)
{
    struct request *q = request;
    if (!request_pump(q, engine_now_us()))
        return;
    note_ended(q);
    struct journal_context context = client_context(q->client, q->r.id);
    context.model = name_of(q->engine);
    journal_log(JOURNAL_DEBUG, &context, "request %llu ended: reason %u, code %u, %u + %u tokens",
                (unsigned long long)q->r.id, q->final.u.final.reason, q->final.u.final.code,
                q->final.u.final.prompt_tokens, q->final.u.final.generated);
    policy_request_done(q->client->account);
    policy_unqueue(q->client->account, &q->queued_tokens);
    request_free(q);
}

/* Ends what is left of a request's sequences. */
static void end_sequences(struct engine *e, struct request *q)
{
    for (uint32_t i = 0; i < q->n_sequences; i++)
        if (q->sequences[i])
            step_end_sequence(e, q->sequences[i]);
}

void engine_log_refusal(const struct engine *engine, struct policy *policy,
                        const struct client *client, uint64_t id,
                        const struct policy_refusal *refusal)
{
    struct journal_context context = client_context(client, id);
    context.model = name_of(engine);
    policy_log(policy, refusal->cause, refusal->sentence, &context, engine_now_us());
}

/* The limits of the user that count tokens. On failure the request was ended. */
static int check_quotas(struct engine *e, struct request *q)
{
    struct account *account = q->client->account;
    struct policy_refusal refusal;
    uint64_t n_tokens = 0;
    uint32_t n_pages = 0;
    for (uint32_t i = 0; i < q->n_sequences; i++) {
        uint32_t pages = (q->sequences[i]->n_total + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
        n_tokens += q->sequences[i]->n_prompt;
        n_pages = pages > n_pages ? pages : n_pages;
    }
    int r = policy_kv_share(e->policy, account, e->slot, mm_kv_n_pages(e->kv), n_pages, OPS_KV_PAGE,
                            &refusal);
    if (r == 0)
        r = policy_queue(e->policy, account, n_tokens, &refusal);
    if (r == 0) {
        q->queued_tokens = n_tokens;
        return 0;
    }
    engine_log_refusal(e, e->policy, q->client, q->r.id, &refusal);
    request_end(q, IPC_REASON_FAILED, refusal.code, "%s", refusal.sentence);
    end_sequences(e, q);
    return r;
}

static void schedule(struct engine *e, struct request *q)
{
    if (check_quotas(e, q) < 0)
        return;
    for (uint32_t i = 0; i < q->n_sequences && !q->is_done; i++) {
        struct sequence *s = q->sequences[i];
        uint64_t alone_us = sched_estimate_prefill(e->sched, s->n_prompt);
        int r = sched_add(e->sched, &s->sched);
        if (q->deadline_us && q->taken_us + alone_us > q->deadline_us)
            request_end(q, IPC_REASON_FAILED, IPC_CODE_DEADLINE,
                        "The deadline is %u ms, but the prompt alone takes about %llu ms here.",
                        q->r.deadline_ms, (unsigned long long)alone_us / 1000);
        else if (r == -ENOBUFS)
            request_end(q, IPC_REASON_FAILED, IPC_CODE_BUSY,
                        "%u requests wait already, as many as the queue takes; try later.",
                        sched_n_waiting(e->sched));
        else if (r < 0)
            request_end(q, IPC_REASON_FAILED, IPC_CODE_TOO_LONG,
                        "The sequence may need %u positions, but the cache has %u in all.",
                        s->n_total, mm_kv_n_pages(e->kv) * OPS_KV_PAGE);
    }
    if (q->is_done)
        end_sequences(e, q);
}

static void pins_changed(struct engine *e)
{
    sched_set_pinned(e->sched, pins_n_pages(e->pins));
}

static void unpin(struct engine *e, struct request *q)
{
    q->prepared = true;
    if (pins_drop(e->pins, q->r.prefix, q->client->account) < 0)
        request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                    "User %u has no pinned prefix %llu in this model.",
                    (unsigned)q->client->account->uid, (unsigned long long)q->r.prefix);
    else
        request_end(q, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
    pins_changed(e);
}

void engine_pin(struct engine *engine, struct sequence *sequence)
{
    struct engine *e = engine;
    struct request *q = sequence->request;
    struct client *client = q->client;
    char why[IPC_SENTENCE_MAX] = "";
    uint64_t handle, *result = malloc(sizeof *result);
    int r = result ? pins_add(e->pins, client->account, q->r.flags & IPC_FLAG_KEEP ? NULL : client,
                              sequence->tokens, sequence->n_prompt, sequence->pages,
                              sequence->n_prompt / OPS_KV_PAGE, q->chat, q->chat_bytes, &handle,
                              why, sizeof why)
                   : -ENOMEM;
    if (r == 0)
        q->chat = NULL;             /* the pin's now */
    step_end_sequence(e, sequence); /* its reservation becomes the pin's */
    pins_changed(e);
    if (r < 0) {
        free(result);
        request_end(q, IPC_REASON_FAILED, r == -EBUSY ? IPC_CODE_BUSY : IPC_CODE_NO_MEMORY, "%s",
                    why);
        return;
    }
    *result = handle;
    request_set_result(q, IPC_DATA_HANDLE, result, sizeof *result);
    request_end(q, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
}

void engine_take(struct engine *engine, struct request *request)
{
    struct engine *e = engine;
    struct request *q = request;
    q->engine = e;
    if (q->r.op == IPC_OP_INFO) {
        size_t n = 0;
        char *text = status_info_text(e, &n);
        q->prepared = true;
        request_end_with_text(q, text, n);
    } else if (q->r.op == IPC_OP_UNPIN) {
        unpin(e, q);
    } else {
        prepare_request(&e->prepare, q);
        if (!q->is_done)
            schedule(e, q);
    }
    if (q->is_done)
        engine_pump(q);
}

void engine_end_request(struct request *request, enum ipc_reason reason, enum ipc_code code,
                        const char *sentence)
{
    struct request *q = request;
    struct engine *e = q->engine;
    if (e && e->step.is_on && !q->is_done) {
        if (q->is_ending)
            return;
        q->is_ending = true;
        q->ending_reason = reason;
        q->ending_code = code;
        q->ending_sentence = sentence;
        q->next_ending = e->ending;
        e->ending = q;
        return;
    }
    request_end(q, reason, code, "%s", sentence);
    end_sequences(e, q);
    engine_pump(q);
}

void engine_end_pending(struct engine *engine)
{
    while (engine->ending) {
        struct request *q = engine->ending;
        engine->ending = q->next_ending;
        q->is_ending = false;
        engine_end_request(q, q->ending_reason, q->ending_code, q->ending_sentence);
    }
}

void engine_drop_client(struct engine *engine, const struct client *client)
{
    if (!engine->pins)
        return;
    pins_drop_client(engine->pins, client);
    pins_changed(engine);
}

bool engine_is_idle(const struct engine *engine)
{
    const struct sched *sched = engine->sched;
    return !sched || sched_n_running(sched) + sched_n_waiting(sched) == 0;
}

void engine_figures(const struct engine *engine, struct figures_model *ret)
{
    const struct engine *e = engine;
    struct figures_model *m = ret;
    *m = (struct figures_model){.page_len = OPS_KV_PAGE};
    snprintf(m->name, sizeof m->name, "%s", model_name(e->model));
    m->running = sched_n_running(e->sched);
    m->waiting = sched_n_waiting(e->sched);
    m->sequences_max = e->own.sequences;
    m->kv_pages = mm_kv_n_pages(e->kv);
    m->kv_pages_cached = prefix_n_idle(e->prefix);
    m->kv_pages_used = m->kv_pages - mm_kv_n_free(e->kv) - m->kv_pages_cached;
    m->kv_pages_reserved = sched_pages_reserved(e->sched);
    m->kv_pages_pinned = pins_n_pages(e->pins);
    m->weights_bytes = model_arena(e->model)->size;
    m->weights_pages = model_arena(e->model)->kind;
    m->kv_bytes = mm_kv_arena(e->kv)->size;
    m->kv_pages_kind = mm_kv_arena(e->kv)->kind;
    m->counters = e->totals;
}

void engine_finish_if_done(struct request *request)
{
    if (request->is_done)
        engine_pump(request);
}
