/* The engine's requests: from submission to the last event. What a step computes is in step.c, how
 * the model is brought up in load.c. */
#include "svc/engine.h"

#include "svc/sequence.h"
#include "svc/status.h"
#include "svc/step.h"

#include <assert.h>
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

/* Requests that only look at the service: they are not counted, so that watching it changes nothing. */
static bool is_look(const struct ipc_request_record *r)
{
    return r->op == IPC_OP_STATUS || r->op == IPC_OP_INFO;
}

/* Adds what an ended request took to the figures. */
static void note_ended(struct engine *e, const struct request *q)
{
    const uint16_t reason = q->final.u.final.reason;
    uint64_t *count = reason == IPC_REASON_FAILED      ? &e->totals.n_failed
                      : reason == IPC_REASON_CANCELLED ? &e->totals.n_cancelled
                                                       : &e->totals.n_finished;
    if (is_look(&q->r))
        return;
    ++*count;
    figures_note(&e->totals.request, engine_now_us() - q->taken_us);
    if (q->started_us)
        figures_note(&e->totals.queue, q->started_us - q->taken_us);
    if (q->first_token_us) {
        figures_note(&e->totals.prefill, q->first_token_us - q->started_us);
        figures_note(&e->totals.first_token, q->first_token_us - q->taken_us);
    }
    e->totals.n_cached_tokens += q->final.u.final.cached_tokens;
    e->totals.n_prompt_tokens += q->final.u.final.prompt_tokens;
}

/* Hands out what it can, and frees the request when its final event is out. */
static void pump(struct engine *e, struct request *q)
{
    if (!request_pump(q, engine_now_us()))
        return;
    note_ended(e, q);
    struct journal_context context = client_context(q->client, q->r.id);
    context.model = e->model ? model_name(e->model) : NULL;
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

static void log_refusal(struct engine *e, const struct client *client, uint64_t id,
                        const struct policy_refusal *refusal)
{
    struct journal_context context = client_context(client, id);
    context.model = e->model ? model_name(e->model) : NULL;
    policy_log(e->policy, refusal->cause, refusal->sentence, &context, engine_now_us());
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
    int r =
        policy_kv_share(e->policy, account, mm_kv_n_pages(e->kv), n_pages, OPS_KV_PAGE, &refusal);
    if (r == 0)
        r = policy_queue(e->policy, account, n_tokens, &refusal);
    if (r == 0) {
        q->queued_tokens = n_tokens;
        return 0;
    }
    log_refusal(e, q->client, q->r.id, &refusal);
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
                              sequence->n_prompt / OPS_KV_PAGE, &handle, why, sizeof why)
                   : -ENOMEM;
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

static void prepare(struct engine *e, struct request *q)
{
    if (q->r.op == IPC_OP_INFO) {
        size_t n = 0;
        char *text = status_info_text(e, &n);
        q->prepared = true;
        request_set_result(q, IPC_DATA_TEXT, text, text ? n : 0);
        if (text)
            request_end(q, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
        else
            request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY, "No memory was left.");
    } else if (q->r.op == IPC_OP_UNPIN) {
        unpin(e, q);
    } else {
        prepare_request(&e->prepare, q);
        if (!q->is_done)
            schedule(e, q);
    }
    if (q->is_done)
        pump(e, q);
}

static void post_loading(struct engine *e, struct request *q)
{
    struct ipc_event_record event = {.type = IPC_EVENT_PROGRESS};
    event.u.progress.phase = IPC_PHASE_LOADING;
    event.u.progress.done = e->load_done;
    event.u.progress.total = e->load_total;
    request_post_news(q, &event);
}

static void refuse(struct client *client, uint64_t id, enum ipc_code code, const char *sentence)
{
    struct ipc_event_record final = {.id = id, .type = IPC_EVENT_FINAL};
    final.u.final.reason = IPC_REASON_FAILED;
    final.u.final.code = (uint16_t)code;
    int r = ipc_session_finish(client->session, &final, sentence);
    if (r < 0)
        client_fail(client, r);
}

void engine_submit(struct engine *engine, struct client *client, const struct ipc_request *taken)
{
    struct request *q;
    struct policy_refusal refusal;
    enum sched_class class_ = SCHED_NORMAL;

    engine->totals.n_requests += !is_look(&taken->r);
    if (policy_priority(engine->policy, client->account, taken->r.priority, &class_, &refusal) <
            0 ||
        policy_request(engine->policy, client->account, &refusal) < 0) {
        engine->totals.n_failed++;
        log_refusal(engine, client, taken->r.id, &refusal);
        refuse(client, taken->r.id, refusal.code, refusal.sentence);
        return;
    }
    if (request_new(&q, client, taken, engine_now_us()) < 0) {
        engine->totals.n_failed++;
        policy_request_done(client->account);
        refuse(client, taken->r.id, IPC_CODE_NO_MEMORY, "No memory was left for the request.");
        return;
    }
    q->class_ = class_;
    struct ipc_event_record accepted = {.type = IPC_EVENT_ACCEPTED};
    request_post(q, &accepted, NULL, 0);
    if (q->r.op == IPC_OP_STATUS) {
        size_t n = 0;
        char *text = status_text(engine, &n);
        q->prepared = true;
        request_set_result(q, IPC_DATA_TEXT, text, text ? n : 0);
        if (text)
            request_end(q, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
        else
            request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY, "No memory was left.");
        pump(engine, q);
    } else if (engine->hold == ENGINE_CLOSED) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_SHUTDOWN,
                    "The service is about to stop; send the request again when it is back.");
        pump(engine, q);
    } else if (engine->model && engine->hold == ENGINE_OPEN) {
        prepare(engine, q);
    } else {
        post_loading(engine, q);
    }
}

void engine_loaded(struct engine *engine)
{
    for (struct client *c = engine->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests, *next; q; q = next) {
            next = q->next;
            if (!q->prepared && !q->is_done)
                prepare(engine, q);
        }
}

void engine_load_progress(struct engine *engine, uint64_t done, uint64_t total)
{
    engine->load_done = done;
    engine->load_total = total;
    for (struct client *c = engine->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests; q; q = q->next)
            if (!q->prepared)
                post_loading(engine, q);
}

/* `sentence` stays where it is. */
static void end_request(struct engine *e, struct request *q, enum ipc_reason reason,
                        enum ipc_code code, const char *sentence)
{
    if (e->step.is_on && !q->is_done) {
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
    pump(e, q);
}

void engine_end_pending(struct engine *engine)
{
    while (engine->ending) {
        struct request *q = engine->ending;
        engine->ending = q->next_ending;
        q->is_ending = false;
        end_request(engine, q, q->ending_reason, q->ending_code, q->ending_sentence);
    }
}

void engine_cancel(struct engine *engine, struct client *client, uint64_t id)
{
    for (struct request *q = client->requests; q; q = q->next)
        if (q->r.id == id) {
            end_request(engine, q, IPC_REASON_CANCELLED, IPC_CODE_OK, "");
            return;
        }
}

void engine_drop_client(struct engine *engine, struct client *client)
{
    assert(!engine->step.is_on);
    client->broken = true; /* nothing is posted any more */
    while (client->requests)
        end_request(engine, client->requests, IPC_REASON_CANCELLED, IPC_CODE_OK, "");
    if (engine->pins) {
        pins_drop_client(engine->pins, client);
        pins_changed(engine);
    }
}

void engine_stop(struct engine *engine, bool held_too, const char *sentence)
{
    for (struct client *c = engine->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests, *next; q; q = next) {
            next = q->next;
            if (!q->prepared && !held_too)
                continue;
            request_drop_pending(q);
            end_request(engine, q, IPC_REASON_FAILED, IPC_CODE_SHUTDOWN, sentence);
        }
}

bool engine_is_idle(const struct engine *engine)
{
    const struct sched *sched = engine->sched;
    return !sched || sched_n_running(sched) + sched_n_waiting(sched) == 0;
}

void engine_pump(struct engine *engine, struct client *client)
{
    for (struct request *q = client->requests, *next; q; q = next) {
        next = q->next;
        if (request_is_parked(q) || q->is_done)
            pump(engine, q);
    }
}

uint64_t engine_next_deadline(const struct engine *engine)
{
    uint64_t first = 0;
    for (const struct client *c = engine->clients->busy; c; c = c->next_busy)
        for (const struct request *q = c->requests; q; q = q->next)
            if (q->deadline_us && !q->is_done && (!first || q->deadline_us < first))
                first = q->deadline_us;
    return first;
}

void engine_expire(struct engine *engine)
{
    uint64_t now = engine_now_us();
    for (struct client *c = engine->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests, *next; q; q = next) {
            next = q->next;
            if (q->deadline_us && !q->is_done && now >= q->deadline_us)
                end_request(engine, q, IPC_REASON_CANCELLED, IPC_CODE_DEADLINE,
                            "The deadline passed before the answer was complete.");
        }
}

void engine_figures(const struct engine *engine, struct figures *ret)
{
    const struct engine *e = engine;
    *ret = (struct figures){.uptime_us = engine_now_us() - e->started_us,
                            .clients = e->policy->n_connections};
    if (!e->model)
        return;
    struct figures_model *m = &ret->models[ret->n_models++];
    snprintf(m->name, sizeof m->name, "%s", model_name(e->model));
    m->running = sched_n_running(e->sched);
    m->waiting = sched_n_waiting(e->sched);
    m->sequences_max = e->options->sequences;
    m->kv_pages = mm_kv_n_pages(e->kv);
    m->kv_pages_cached = prefix_n_idle(e->prefix);
    m->kv_pages_used = m->kv_pages - mm_kv_n_free(e->kv) - m->kv_pages_cached;
    m->kv_pages_reserved = sched_pages_reserved(e->sched);
    m->kv_pages_pinned = pins_n_pages(e->pins);
    m->page_len = OPS_KV_PAGE;
    m->weights_bytes = model_arena(e->model)->size;
    m->weights_pages = model_arena(e->model)->kind;
    m->kv_bytes = mm_kv_arena(e->kv)->size;
    m->kv_pages_kind = mm_kv_arena(e->kv)->kind;
    m->counters = e->totals;
}

void engine_finish_if_done(struct engine *engine, struct request *request)
{
    if (request->is_done)
        pump(engine, request);
}
