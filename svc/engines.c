/* All models of the service (see engines.h). */
#include "svc/engines.h"

#include "mm/numa.h"
#include "svc/status.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- start and end ------------------------------------------------------------------------- */

int engines_init(struct engines *engines, const struct options *options, struct policy *policy,
                 const struct client_list *clients, char *why, size_t why_size)
{
    struct engines s = {.shared = {.options = options, .policy = policy},
                        .clients = clients,
                        .started_us = engine_now_us()};
    struct ops_pool_options pool = {.n_threads = options->threads};
    int r = ops_pool_new(&s.shared.pool, &pool);
    if (r < 0) {
        snprintf(why, why_size, "The threads cannot be started (%s); give a smaller --threads.",
                 strerror(-r));
        return r;
    }
    *engines = s;
    return 0;
}

/* Its requests, all of which have ended, and what they counted, are nobody's any more. */
static void disown(struct engines *s, const struct engine *e)
{
    for (struct client *c = s->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests; q; q = q->next) {
            if (q->engine == e)
                q->engine = NULL;
            if (q->totals == &e->totals)
                q->totals = &s->past;
        }
    figures_add(&s->past, &e->totals);
}

static void remove_engine(struct engines *s, uint32_t i)
{
    struct engine *e = s->all[i];
    s->n--;
    memmove(s->all + i, s->all + i + 1, (s->n - i) * sizeof(struct engine *));
    disown(s, e);
    engine_free(e);
}

void engines_done(struct engines *engines)
{
    while (engines->n > 0)
        remove_engine(engines, 0);
    ops_pool_free(engines->shared.pool);
    *engines = (struct engines){0};
}

static struct engine *engine_of(const struct engines *s, const struct options_model *own)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (options_same_model(&s->all[i]->own, own))
            return s->all[i];
    return NULL;
}

void engines_hold(struct engines *engines, const struct options_models *models)
{
    for (uint32_t i = 0; i < engines->n; i++) {
        struct engine *e = engines->all[i];
        e->is_held = true;
        for (uint32_t k = 0; k < models->n; k++)
            e->is_held = e->is_held && !options_same_model(&e->own, &models->all[k]);
    }
}

static uint32_t free_slot(const struct engines *s)
{
    uint32_t slot = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->all[i]->slot == slot) {
            slot++;
            i = UINT32_MAX; /* from the first again */
        }
    return slot;
}

/* Puts engines in the order of the list, new ones where there are none. The new ones are also in
 * `ret`. */
static int add_engines(struct engines *s, const struct options_models *models, struct engine **ret,
                       uint32_t *ret_n)
{
    *ret_n = 0;
    for (uint32_t i = 0; i < models->n; i++) {
        struct engine *e = engine_of(s, &models->all[i]);
        uint32_t at = 0;
        if (!e) {
            e = engine_new(&s->shared, &models->all[i], free_slot(s));
            if (!e)
                return -ENOMEM;
            s->all[s->n++] = e;
            ret[(*ret_n)++] = e;
        }
        while (s->all[at] != e)
            at++;
        memmove(s->all + i + 1, s->all + i, (at - i) * sizeof(struct engine *));
        s->all[i] = e;
    }
    return 0;
}

/* Names tell models apart. */
static int check_names(const struct engines *s, char *why, size_t why_size)
{
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; k < i; k++)
            if (!strcmp(engine_name(s->all[i]), engine_name(s->all[k]))) {
                snprintf(why, why_size,
                         "Two models are called \"%.60s\"; give one another name: --model "
                         "NAME=%.100s.",
                         engine_name(s->all[i]), s->all[i]->own.path);
                return -EEXIST;
            }
    return 0;
}

/* Opens the new ones, and makes sure that there is memory for them beside the others. */
static int open_engines(struct engines *s, struct engine *const *new, uint32_t n,
                        int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                        char *why, size_t why_size)
{
    const uint64_t limit = s->shared.options->memory_limit_bytes;
    struct model *models[OPTIONS_MODELS_MAX];
    uint64_t taken = 0;
    uint32_t n_models = 0;
    for (uint32_t i = 0; i < n; i++) {
        int r = engine_open(new[i], progress, arg, why, why_size);
        if (r < 0)
            return r;
        models[n_models++] = new[i]->coming; /* first: what is swept is told with the first */
    }
    for (uint32_t i = 0; i < s->n; i++)
        if (s->all[i]->model) {
            models[n_models++] = s->all[i]->model;
            taken += s->all[i]->need.weights + s->all[i]->need.kv + s->all[i]->need.scratch;
        }
    int r = check_names(s, why, why_size);
    if (r < 0)
        return r;
    model_sweep(models, n_models);
    return engine_plan(new, n, limit == 0 ? 0 : limit > taken ? limit - taken : 1, why, why_size);
}

int engines_load(struct engines *engines, const struct options_models *models,
                 size_t input_bytes_max, int (*progress)(void *arg, uint64_t done, uint64_t total),
                 void *arg, char *why, size_t why_size)
{
    struct engines *s = engines;
    struct engine *new[OPTIONS_MODELS_MAX];
    uint32_t n_new = 0;
    s->hold = ENGINES_LOADING;
    s->load_done = s->load_total = 0;
    engines_hold(s, models);
    for (uint32_t i = s->n; i-- > 0;) {
        if (!s->all[i]->is_held)
            continue;
        model_let_go(s->all[i]->model);
        remove_engine(s, i);
    }
    int r = mm_numa_set(s->shared.options->numa, why, why_size);
    if (r == 0)
        r = add_engines(s, models, new, &n_new);
    if (r == 0)
        r = open_engines(s, new, n_new, progress, arg, why, why_size);
    s->n_loading = n_new;
    for (uint32_t i = 0; i < n_new && r == 0; i++) {
        s->loading = new[i];
        s->n_loaded = i;
        r = engine_load(new[i], input_bytes_max, why, why_size);
    }
    s->loading = NULL;
    for (uint32_t i = s->n; i-- > 0 && r < 0;)
        if (!s->all[i]->model)
            remove_engine(s, i);
    return r;
}

int engines_settle(struct engines *engines, char *why, size_t why_size)
{
    int all = 0;
    for (uint32_t i = 0; i < engines->n; i++) {
        int r = engine_settle(engines->all[i], why, why_size);
        if (r < 0)
            return r;
        all = r > all ? r : all;
    }
    return all;
}

/* ---- which model --------------------------------------------------------------------------- */

/* The engine of a request's model: the one that is named (name of n bytes, n > 0), else the one that
 * has the prefix, else the first. NULL: none, or not yet. */
static struct engine *find(const struct engines *s, const struct ipc_request_record *r,
                           const char *name, const struct account *account)
{
    for (uint32_t i = 0; i < s->n && r->model_bytes; i++) {
        const struct engine *e = s->all[i];
        if (strlen(engine_name(e)) == r->model_bytes &&
            !memcmp(engine_name(e), name, r->model_bytes))
            return s->all[i];
    }
    for (uint32_t i = 0; i < s->n && r->prefix && !r->model_bytes; i++)
        if (s->all[i]->pins && pins_find(s->all[i]->pins, r->prefix, account))
            return s->all[i];
    return s->n && !r->model_bytes ? s->all[0] : NULL;
}

static const char *name_in(const struct request *q)
{
    return (const char *)q->input + q->r.input_bytes + q->r.stop_bytes;
}

static void refuse_name(const struct engines *s, struct request *q)
{
    char names[IPC_SENTENCE_MAX] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < s->n && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s\"%.80s\"", i ? ", " : "",
                              engine_name(s->all[i]));
    q->prepared = true;
    request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MODEL,
                "No model \"%.*s\" is served here; this service has %s.",
                (int)(q->r.model_bytes < 80 ? q->r.model_bytes : 80), name_in(q), names);
    engine_pump(q);
}

/* Hands a request to the engine of its model, if that is there. False: it waits for it. */
static bool take(struct engines *s, struct request *q)
{
    struct engine *e = find(s, &q->r, name_in(q), q->client->account);
    if (s->hold != ENGINES_OPEN || (e && (!e->model || e->is_held)))
        return false;
    if (!e) {
        refuse_name(s, q);
        return true;
    }
    if (q->totals != &e->totals && !request_is_look(&q->r)) { /* it was not known yet */
        q->totals->n_requests--;
        e->totals.n_requests++;
    }
    q->totals = &e->totals;
    engine_take(e, q);
    return true;
}

/* ---- requests ------------------------------------------------------------------------------ */

static void post_loading(const struct engines *s, struct request *q)
{
    struct ipc_event_record event = {.type = IPC_EVENT_PROGRESS};
    event.u.progress.phase = IPC_PHASE_LOADING;
    event.u.progress.done = s->load_done;
    event.u.progress.total = s->load_total;
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

void engines_submit(struct engines *engines, struct client *client, const struct ipc_request *taken)
{
    struct engines *s = engines;
    struct request *q;
    struct policy_refusal refusal;
    enum sched_class class_ = SCHED_NORMAL;
    struct policy *policy = s->shared.policy;
    struct engine *e = find(s, &taken->r, (const char *)taken->model, client->account);
    struct figures_counters *totals = e ? &e->totals : &s->past;

    totals->n_requests += !request_is_look(&taken->r);
    if (policy_priority(policy, client->account, taken->r.priority, &class_, &refusal) < 0 ||
        policy_request(policy, client->account, &refusal) < 0) {
        totals->n_failed++;
        engine_log_refusal(e, policy, client, taken->r.id, &refusal);
        refuse(client, taken->r.id, refusal.code, refusal.sentence);
        return;
    }
    if (request_new(&q, client, taken, engine_now_us()) < 0) {
        totals->n_failed++;
        policy_request_done(client->account);
        refuse(client, taken->r.id, IPC_CODE_NO_MEMORY, "No memory was left for the request.");
        return;
    }
    q->class_ = class_;
    q->totals = totals;
    struct ipc_event_record accepted = {.type = IPC_EVENT_ACCEPTED};
    request_post(q, &accepted, NULL, 0);
    if (q->r.op == IPC_OP_STATUS) {
        size_t n = 0;
        char *text = status_text(s, &n);
        q->prepared = true;
        request_end_with_text(q, text, n);
        engine_pump(q);
    } else if (s->hold == ENGINES_CLOSED) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_SHUTDOWN,
                    "The service is about to stop; send the request again when it is back.");
        engine_pump(q);
    } else if (!take(s, q)) {
        post_loading(s, q);
    }
}

void engines_loaded(struct engines *engines)
{
    engines->hold = ENGINES_OPEN;
    for (struct client *c = engines->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests, *next; q; q = next) {
            next = q->next;
            if (!q->prepared && !q->is_done)
                take(engines, q);
        }
}

void engines_load_progress(struct engines *engines, uint64_t done, uint64_t total)
{
    engines->load_done = done;
    engines->load_total = total;
    for (struct client *c = engines->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests; q; q = q->next)
            if (!q->prepared)
                post_loading(engines, q);
}

void engines_cancel(struct client *client, uint64_t id)
{
    for (struct request *q = client->requests; q; q = q->next)
        if (q->r.id == id) {
            engine_end_request(q, IPC_REASON_CANCELLED, IPC_CODE_OK, "");
            return;
        }
}

void engines_drop_client(struct engines *engines, struct client *client)
{
    for (uint32_t i = 0; i < engines->n; i++)
        assert(!engines->all[i]->step.is_on);
    client->broken = true; /* nothing is posted any more */
    while (client->requests)
        engine_end_request(client->requests, IPC_REASON_CANCELLED, IPC_CODE_OK, "");
    for (uint32_t i = 0; i < engines->n; i++)
        engine_drop_client(engines->all[i], client);
}

void engines_stop(struct engines *engines, bool held_too, const char *sentence)
{
    for (struct client *c = engines->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests, *next; q; q = next) {
            next = q->next;
            if (!held_too && (!q->prepared || (engines->hold != ENGINES_CLOSED &&
                                               !(q->engine && q->engine->is_held))))
                continue;
            request_drop_pending(q);
            engine_end_request(q, IPC_REASON_FAILED, IPC_CODE_SHUTDOWN, sentence);
        }
}

bool engines_are_idle(const struct engines *engines, bool held_only)
{
    for (uint32_t i = 0; i < engines->n; i++)
        if ((engines->all[i]->is_held || !held_only) && !engine_is_idle(engines->all[i]))
            return false;
    return true;
}

void engines_pump(struct client *client)
{
    for (struct request *q = client->requests, *next; q; q = next) {
        next = q->next;
        if (request_is_parked(q) || q->is_done)
            engine_pump(q);
    }
}

uint64_t engines_next_deadline(const struct engines *engines)
{
    uint64_t first = 0;
    for (const struct client *c = engines->clients->busy; c; c = c->next_busy)
        for (const struct request *q = c->requests; q; q = q->next)
            if (q->deadline_us && !q->is_done && (!first || q->deadline_us < first))
                first = q->deadline_us;
    return first;
}

void engines_expire(struct engines *engines)
{
    uint64_t now = engine_now_us();
    for (struct client *c = engines->clients->busy; c; c = c->next_busy)
        for (struct request *q = c->requests, *next; q; q = next) {
            next = q->next;
            if (q->deadline_us && !q->is_done && now >= q->deadline_us)
                engine_end_request(q, IPC_REASON_CANCELLED, IPC_CODE_DEADLINE,
                                   "The deadline passed before the answer was complete.");
        }
}

/* ---- steps --------------------------------------------------------------------------------- */

bool engines_are_runnable(const struct engines *engines)
{
    for (uint32_t i = 0; i < engines->n; i++)
        if (engine_is_runnable(engines->all[i]))
            return true;
    return false;
}

/* Of those in a set of bits: who has computed least. There is one. */
static uint32_t least_of(const struct engines *s, uint32_t set)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < s->n; i++)
        if ((set >> i & 1) && (best == UINT32_MAX || s->all[i]->spent_us < s->all[best]->spent_us))
            best = i;
    return best;
}

static bool step_of(struct engine *e, uint64_t token_gap_us, bool alone)
{
    const uint64_t start_us = engine_now_us();
    if (!e->model)
        return false;
    sched_set_token_gap(e->sched, token_gap_us, alone);
    if (!engine_step(e))
        return false;
    e->spent_us += engine_now_us() - start_us;
    return true;
}

bool engines_step(struct engines *engines)
{
    struct engines *s = engines;
    uint32_t runnable = 0, n_runnable = 0, rest = 0;
    if (s->hold == ENGINES_LOADING)
        return false;
    for (uint32_t i = 0; i < s->n; i++) {
        const bool can = engine_is_runnable(s->all[i]);
        *(can ? &runnable : &rest) |= 1u << i;
        n_runnable += can;
    }
    if (runnable) {
        const uint64_t least_us = s->all[least_of(s, runnable)]->spent_us;
        for (uint32_t i = 0; i < s->n; i++)
            if ((rest >> i & 1) && s->all[i]->spent_us < least_us)
                s->all[i]->spent_us = least_us; /* it was not kept waiting: nothing is owed to it */
    }
    /* Between two tokens of one there are steps of the others. */
    const uint64_t gap_us =
        (uint64_t)s->shared.options->token_gap_ms * 1000 / (n_runnable ? n_runnable : 1);
    /* Those that cannot compute last: their queues are looked at. */
    const uint32_t sets[] = {runnable, rest};
    for (size_t k = 0; k < sizeof sets / sizeof *sets; k++)
        for (uint32_t set = sets[k]; set;) {
            const uint32_t i = least_of(s, set);
            if (step_of(s->all[i], gap_us, n_runnable <= 1))
                return true;
            set &= ~(1u << i);
        }
    return false;
}

/* ---- figures ------------------------------------------------------------------------------- */

void engines_figures(const struct engines *engines, struct figures *ret)
{
    const struct engines *s = engines;
    *ret = (struct figures){.uptime_us = engine_now_us() - s->started_us,
                            .clients = s->clients->n,
                            .is_ready = s->hold != ENGINES_LOADING};
    for (uint32_t i = 0; i < s->n; i++)
        if (s->all[i]->model)
            engine_figures(s->all[i], &ret->models[ret->n_models++]);
}

void engines_totals(const struct engines *engines, struct figures_counters *ret)
{
    *ret = engines->past;
    for (uint32_t i = 0; i < engines->n; i++)
        figures_add(ret, &engines->all[i]->totals);
}
