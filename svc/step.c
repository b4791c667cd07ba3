/* One step of the engine (see step.h).
 *
 * Prefixes: a prefilling sequence at the start of a page first takes what the cache has. Where
 * another running sequence is just computing the same page, it is held until that is there, so that
 * a common prefix is computed once. Full pages go into the cache as they are done. */
#include "svc/step.h"

#include "mm/guard.h"
#include "ops/vector.h"
#include "svc/embedding.h"
#include "svc/sequence.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t LOOK_US = 500; /* between two looks inside a step */

/* ---- pages --------------------------------------------------------------------------------- */

static void drop_pages(struct engine *e, struct sequence *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++)
        mm_kv_drop(e->kv, s->pages[i]);
    s->n_pages = 0;
    s->sched.n_done = 0;
}

void step_end_sequence(struct engine *engine, struct sequence *sequence)
{
    struct request *q = sequence->request;
    sched_remove(engine->sched, &sequence->sched);
    if (engine->kv)
        drop_pages(engine, sequence);
    q->sequences[sequence->sample] = NULL;
    q->n_live--;
    sequence_free(sequence);
}

static uint32_t owner_of(const struct engine *e, const struct sequence *s)
{
    return e->options->share_prefixes ? 0 : (uint32_t)s->request->client->account->uid;
}

/* The page before the one that begins at n_done, which is a multiple of the page length. */
static uint32_t parent_of(const struct sequence *s)
{
    uint32_t n = s->sched.n_done / OPS_KV_PAGE;
    return n ? s->pages[n - 1] : PREFIX_NONE;
}

static bool at_page_start(const struct sequence *s)
{
    const uint16_t op = s->request->r.op;
    return (op == IPC_OP_GENERATE || op == IPC_OP_PIN) && !s->scores &&
           s->sched.n_done % OPS_KV_PAGE == 0 &&
           s->sched.n_known - s->sched.n_done > OPS_KV_PAGE; /* one row must be left to compute */
}

/* Takes from the cache the pages that follow. */
static void extend_from_cache(struct engine *e, struct sequence *s)
{
    uint32_t page = PREFIX_NONE;
    while (at_page_start(s)) {
        uint32_t found =
            prefix_find(e->prefix, owner_of(e, s), parent_of(s), s->tokens + s->sched.n_done);
        if (found == PREFIX_NONE)
            break;
        page = found;
        s->pages[s->n_pages++] = page;
        s->sched.n_done += OPS_KV_PAGE;
        if (s->sample == 0 && s->sched.n_done <= s->n_prompt && sequence_n_output(s) == 0)
            s->request->final.u.final.cached_tokens += OPS_KV_PAGE;
    }
    if (page != PREFIX_NONE)
        prefix_touch(e->prefix, page);
}

/* Whether `other` is computing the page that s wants next. */
static bool computes_the_same(const struct engine *e, const struct sequence *other,
                              const struct sequence *s)
{
    uint32_t n = s->sched.n_done / OPS_KV_PAGE;
    return !other->sched.parked && !other->sched.held && other->sched.n_done / OPS_KV_PAGE == n &&
           other->sched.n_known >= (n + 1) * OPS_KV_PAGE && owner_of(e, other) == owner_of(e, s) &&
           (n == 0 || other->pages[n - 1] == s->pages[n - 1]) &&
           !memcmp(other->tokens + n * OPS_KV_PAGE, s->tokens + n * OPS_KV_PAGE,
                   OPS_KV_PAGE * sizeof *s->tokens);
}

/* Parallel samples differ only after the prompt. Whoever of them has computed it lends the others
 * its full pages and a copy of the last one, which each will write to; what is left to them is the
 * last row of the prompt, whose logits they draw from. */
static void take_from_sibling(struct engine *e, struct sequence *s)
{
    const struct request *q = s->request;
    const uint32_t last = s->n_prompt - 1;
    const struct sequence *from = NULL;
    if (sequence_n_output(s) > 0 || s->scores || s->sched.n_done >= last)
        return;
    for (uint32_t i = 0; i < q->n_sequences && !from; i++)
        if (q->sequences[i] && q->sequences[i] != s && q->sequences[i]->sched.n_done >= last)
            from = q->sequences[i];
    if (!from)
        return;
    drop_pages(e, s);
    for (uint32_t i = 0; i < last / OPS_KV_PAGE; i++) {
        mm_kv_ref(e->kv, from->pages[i]);
        s->pages[s->n_pages++] = from->pages[i];
    }
    s->sched.n_done = s->n_pages * OPS_KV_PAGE;
    if (s->sched.n_done == last)
        return;
    uint32_t page = prefix_take_page(e->prefix);
    if (page == MM_KV_NONE)
        return;
    mm_kv_copy(e->kv, page, from->pages[s->n_pages]);
    s->pages[s->n_pages++] = page;
    s->sched.n_done = last;
}

/* Whether `other`, of the same request, is on its way through the prompt, ahead of s. */
static bool leads(const struct sequence *other, const struct sequence *s)
{
    return other->request == s->request && !s->scores && !other->sched.parked &&
           !other->sched.held && sequence_n_output(s) == 0 && sequence_n_output(other) == 0 &&
           other->sched.n_done >= s->sched.n_done && s->sched.n_done + 1 < s->n_prompt;
}

static void use_common_prefixes(struct engine *e)
{
    for (uint32_t i = 0; i < sched_n_running(e->sched); i++) {
        struct sequence *s = (struct sequence *)sched_running(e->sched, i);
        s->sched.held = false;
        extend_from_cache(e, s);
        if (s->request->n_sequences > 1 && s->request->r.op == IPC_OP_GENERATE)
            take_from_sibling(e, s);
        for (uint32_t j = 0; j < i && !s->sched.held; j++) {
            const struct sequence *other = (struct sequence *)sched_running(e->sched, j);
            s->sched.held = leads(other, s) || (at_page_start(s) && computes_the_same(e, other, s));
        }
    }
}

/* Puts the pages of s that are full now, from n_before positions on, into the cache. Where the
 * cache has the block already, s uses that page from now on: the bits are the same. */
static void share_full_pages(struct engine *e, struct sequence *s, uint32_t n_before)
{
    for (uint32_t i = n_before / OPS_KV_PAGE; i < s->sched.n_done / OPS_KV_PAGE; i++) {
        uint32_t parent = i ? s->pages[i - 1] : PREFIX_NONE;
        uint32_t page = prefix_add(e->prefix, owner_of(e, s), parent,
                                   s->tokens + (size_t)i * OPS_KV_PAGE, s->pages[i]);
        if (page == PREFIX_NONE)
            return;
        if (page != s->pages[i]) {
            mm_kv_ref(e->kv, page);
            mm_kv_drop(e->kv, s->pages[i]);
            s->pages[i] = page;
        }
    }
}

/* Pages for the next n_rows positions. Reservations make sure that there are some. */
static bool take_pages(struct engine *e, struct sequence *s, uint32_t n_rows)
{
    uint32_t n = (s->sched.n_done + n_rows + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    while (s->n_pages < n) {
        uint32_t page = prefix_take_page(e->prefix);
        if (page == MM_KV_NONE)
            return false;
        s->pages[s->n_pages++] = page;
    }
    return true;
}

/* ---- admission ----------------------------------------------------------------------------- */

static void admit(struct engine *e, uint64_t now_us)
{
    struct sched_entry *entry, *victim;
    bool changed = false;
    while ((entry = sched_admit(e->sched, now_us, &victim)) || victim) {
        changed = true;
        if (victim) {
            struct sequence *s = (struct sequence *)victim;
            drop_pages(e, s);
            sched_set_back(e->sched, victim);
            e->totals.n_set_back++;
            continue;
        }
        struct request *q = ((struct sequence *)entry)->request;
        if (!q->started_us)
            q->started_us = now_us;
        q->queue_position = UINT32_MAX; /* set back, it hears of its place again */
        policy_unqueue(q->client->account, &q->queued_tokens);
    }
    if (!changed && sched_n_waiting(e->sched) == 0)
        return;
    for (uint32_t i = 0; i < sched_n_waiting(e->sched); i++) {
        struct sequence *s = (struct sequence *)sched_waiting(e->sched, i);
        uint32_t reason =
            sched_waits_for_share(e->sched, &s->sched) ? IPC_QUEUED_SHARE : IPC_QUEUED_TURN;
        if (s->sample != 0 ||
            (s->request->queue_position == s->sched.position && s->request->queue_reason == reason))
            continue;
        struct ipc_event_record event = {.type = IPC_EVENT_QUEUED};
        event.u.queued.position = s->sched.position;
        event.u.queued.total = sched_n_waiting(e->sched);
        event.u.queued.wait_us = sched_estimate_wait(e->sched, s->sched.position);
        event.u.queued.reason = reason;
        if (reason == IPC_QUEUED_SHARE)
            event.u.queued.limit = (uint64_t)s->sched.user->n_pages_max * OPS_KV_PAGE;
        s->request->queue_reason = reason;
        s->request->queue_position = s->sched.position;
        request_post_news(s->request, &event);
    }
}

/* ---- the batch ----------------------------------------------------------------------------- */

/* Makes the span of a planned item. False where it must wait for a later step. */
static bool make_span(struct engine *e, const struct sched_item *item, struct forward_span *span,
                      struct engine_row *row, uint32_t *n_logits)
{
    struct sequence *s = (struct sequence *)item->entry;
    uint32_t n_rows = item->n_rows;
    uint32_t room = e->n_logit_rows - *n_logits;
    if (s->scores && n_rows > room)
        n_rows = room;
    bool last = s->sched.n_done + n_rows == s->sched.n_known;
    /* With echo the rows of the prompt are scored, and the last of them is drawn from as well. */
    bool draws = last && s->request->r.op == IPC_OP_GENERATE;
    if (n_rows == 0 || (draws && room == 0) || !take_pages(e, s, n_rows))
        return false;
    *row = (struct engine_row){
        .request = s->request, .sequence = s, .sample = s->sample, .draws = draws};
    *span = (struct forward_span){
        .tokens = s->tokens + s->sched.n_done,
        .n_tokens = n_rows,
        .first_position = s->sched.n_done,
        .pages = s->pages,
        .n_logits = s->scores ? n_rows : draws,
        .logits = e->logits + (size_t)*n_logits * model_shape(e->model)->n_vocab,
    };
    if (s->hidden)
        embedding_want(s, span, last);
    *n_logits += span->n_logits;
    return true;
}

static size_t make_batch(struct engine *e)
{
    const struct sched_item *items;
    size_t n_items = sched_plan(e->sched, &items), n = 0;
    uint32_t n_logits = 0;
    for (size_t i = 0; i < n_items; i++)
        if (make_span(e, &items[i], &e->spans[n], &e->rows[n], &n_logits))
            n++;
    return n;
}

/* ---- sampling, on the pool ----------------------------------------------------------------- */

static void score_rows(const struct engine *e, struct sequence *s, const struct forward_span *span)
{
    const struct model_shape *shape = model_shape(e->model);
    for (uint32_t i = 0; i < span->n_tokens; i++) {
        const float *logits = span->logits + (size_t)i * shape->n_vocab;
        uint32_t next = span->first_position + i + 1;
        if (next >= s->n_prompt)
            break;
        s->scores[next].logprob =
            logits[s->tokens[next]] - ops_log_sum_exp(logits, shape->n_tokens);
    }
}

static void draw_row(const struct engine *e, struct sampler *sampler, struct engine_row *row,
                     float *logits)
{
    struct sequence *s = row->sequence;
    const uint32_t n_tokens = model_shape(e->model)->n_tokens;
    const struct sampler_candidate *top;
    float log_sum = ops_log_sum_exp(logits, n_tokens);
    row->n_top = sampler_top(sampler, logits, s->request->r.n_logprobs, &top);
    for (size_t i = 0; i < row->n_top; i++)
        row->top[i] =
            (struct ipc_score){.token = top[i].id, .logprob = (float)top[i].value - log_sum};
    s->draw_error = sampler_draw(sampler, &s->params, s->history, logits, s->sample,
                                 sequence_n_output(s), &s->drawn);
    s->logprob = s->draw_error ? 0 : logits[s->drawn] - log_sum;
}

static void sample_task(void *arg, size_t begin, size_t end, unsigned thread)
{
    struct engine *e = arg;
    for (size_t i = begin; i < end; i++) {
        struct sequence *s = e->rows[i].sequence;
        if (e->spans[i].error)
            continue;
        const struct forward_span *span = &e->spans[i];
        if (s->scores)
            score_rows(e, s, span);
        if (e->rows[i].draws)
            draw_row(e, e->samplers[thread], &e->rows[i],
                     span->logits + (size_t)(span->n_logits - 1) * model_shape(e->model)->n_vocab);
    }
}

/* ---- what came out ------------------------------------------------------------------------- */

static void end_sequences(struct engine *e, struct request *q)
{
    for (uint32_t i = 0; i < q->n_sequences; i++)
        if (q->sequences[i])
            step_end_sequence(e, q->sequences[i]);
}

static void fail_numeric(struct engine *e, struct request *q)
{
    request_end(q, IPC_REASON_FAILED, IPC_CODE_NUMERIC,
                "A value that is not a number arose in this sequence; the model file may be "
                "damaged.");
    end_sequences(e, q);
}

static void fail_banned(struct engine *e, struct request *q)
{
    request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                "Every token that could come next is banned by the request.");
    end_sequences(e, q);
}

static void complete_scores(struct sequence *s)
{
    s->scores[0].logprob = NAN; /* nothing comes before it */
    for (uint32_t i = 0; i < s->n_prompt; i++)
        s->scores[i].token = s->tokens[i];
}

static void set_scores(struct sequence *s)
{
    complete_scores(s);
    request_set_result(s->request, IPC_DATA_SCORES, s->scores, s->n_prompt * sizeof *s->scores);
    s->scores = NULL;
}

/* The scores of the prompt go out before its first token. */
static void echo_scores(struct sequence *s)
{
    const size_t total = s->n_prompt * sizeof *s->scores;
    complete_scores(s);
    for (size_t at = 0; at < total; at += IPC_DATA_MAX) {
        size_t n = total - at < IPC_DATA_MAX ? total - at : IPC_DATA_MAX;
        struct ipc_event_record event = {.type = IPC_EVENT_DATA, .sample = (uint16_t)s->sample};
        event.u.data.kind = IPC_DATA_SCORES;
        event.u.data.index = at;
        event.u.data.total = total;
        request_post(s->request, &event, (const uint8_t *)s->scores + at, (uint32_t)n);
    }
    free(s->scores);
    s->scores = NULL;
}

/* The vectors of a request stand one after the other; the last to come makes them the result. */
static void set_embedding(struct sequence *s, uint32_t d_model)
{
    struct request *q = s->request;
    float *vectors = (float *)(void *)q->result; /* made for all of them */
    embedding_finish(s, d_model, vectors + (size_t)s->sample * d_model);
    if (q->n_live == 1)
        request_set_result(q, IPC_DATA_FLOATS, q->result,
                           (size_t)q->n_sequences * d_model * sizeof *vectors);
}

/* Why a request of several samples ended: the least complete of their reasons. */
static void note_reason(struct request *q, enum ipc_reason reason)
{
    if (reason > q->final.u.final.reason)
        q->final.u.final.reason = (uint16_t)reason;
}

/* Takes in what a span gave. The sequence may be gone afterwards. */
static void take_result(struct engine *e, struct forward_span *span, struct engine_row *row,
                        uint64_t now_us)
{
    struct sequence *s = row->sequence;
    struct request *q = s->request;
    uint32_t n_before = s->sched.n_done;
    bool over = false;

    if (!span->error && row->draws && s->draw_error == -ENODATA) {
        fail_banned(e, q);
        return;
    }
    if (span->error || (row->draws && s->draw_error)) {
        fail_numeric(e, q);
        return;
    }
    if (s->hidden)
        embedding_add(s, span, model_shape(e->model)->d_model);
    s->sched.n_done += span->n_tokens;
    e->totals.n_rows += span->n_tokens;
    share_full_pages(e, s, n_before);
    if (row->draws) {
        enum ipc_reason reason = IPC_REASON_DONE;
        if (!q->first_token_us)
            q->first_token_us = now_us;
        s->gap_us = 0;
        if (s->last_token_us) {
            const uint64_t gap_us = now_us - s->last_token_us;
            figures_note(&e->totals.token_gap, gap_us);
            s->gap_us = gap_us < UINT32_MAX ? (uint32_t)gap_us : UINT32_MAX;
        }
        s->last_token_us = now_us;
        e->totals.n_generated_tokens++;
        if (s->scores)
            echo_scores(s);
        over = sequence_take_drawn(s, model_tokenizer(e->model), row->top, row->n_top, &reason);
        if (over)
            note_reason(q, reason);
    } else if (s->sched.n_done == s->n_prompt && s->scores) {
        set_scores(s);
        over = true;
    } else if (s->sched.n_done == s->n_prompt && s->hidden) {
        set_embedding(s, model_shape(e->model)->d_model);
        over = true;
    } else if (s->sched.n_done == s->n_prompt && q->r.op == IPC_OP_PIN) {
        engine_pin(e, s);
        return;
    } else {
        struct ipc_event_record event = {.type = IPC_EVENT_PROGRESS, .sample = (uint16_t)s->sample};
        event.u.progress.phase = IPC_PHASE_PREFILL;
        event.u.progress.done = s->sched.n_done;
        event.u.progress.total = s->sched.n_known;
        request_post_news(q, &event);
    }
    if (!over)
        return;
    step_end_sequence(e, s);
    if (q->n_live == 0)
        request_end(q, (enum ipc_reason)q->final.u.final.reason, IPC_CODE_OK, "%s", "");
}

bool engine_is_runnable(const struct engine *engine)
{
    const struct sched *sched = engine->sched;
    if (!engine->model)
        return false;
    for (uint32_t i = 0; i < sched_n_running(sched); i++)
        if (!sched_running(sched, i)->parked)
            return true;
    for (uint32_t i = 0; i < sched_n_waiting(sched); i++)
        if (!sched_waiting(sched, i)->parked &&
            !sched_waits_for_share(sched, sched_waiting(sched, i)))
            return true;
    return false;
}

/* ---- between two layers -------------------------------------------------------------------- */

/* Whether long spans should make way for a short prompt that could be admitted now. */
static bool makes_way(const struct engine *e, uint64_t now_us)
{
    const uint64_t elapsed_us = now_us - e->step.start_us;
    const uint64_t short_us = sched_estimate_short(e->sched);
    return !e->step.is_cut && sched_n_waiting(e->sched) > 0 && elapsed_us <= e->spare_us &&
           sched_estimate_step(e->sched) > elapsed_us + short_us &&
           sched_short_waits(e->sched, now_us);
}

static void look(void *arg)
{
    struct engine *e = arg;
    const uint64_t now_us = engine_now_us();
    if (!e->shared->look || now_us - e->step.looked_us < LOOK_US)
        return;
    e->step.looked_us = now_us;
    mm_guard_pause(); /* what clients bring in the middle of a step may allocate */
    e->shared->look(e->shared->look_arg);
    mm_guard_go_on();
    const bool cut = makes_way(e, now_us);
    for (size_t i = 0; i < e->step.n; i++) {
        const struct request *q = e->rows[i].request;
        const bool is_over =
            q->is_ending || q->client->broken || (q->deadline_us && now_us >= q->deadline_us);
        if (is_over || (cut && sched_is_long(&e->rows[i].sequence->sched)))
            e->spans[i].error = -ECANCELED;
    }
    if (cut) {
        e->step.is_cut = true;
        e->spare_us -= now_us - e->step.start_us;
        e->totals.n_cut_short++;
    }
}

/* ---- the step ------------------------------------------------------------------------------ */

static void note_step(struct engine *e, uint64_t planned_us, uint64_t computed_us, uint64_t now_us)
{
    const uint64_t start_us = e->step.start_us;
    bool complete = true, has_long = false;
    for (size_t i = 0; i < e->step.n; i++) {
        complete = complete && e->spans[i].error != -ECANCELED;
        has_long = has_long || sched_is_long(&e->rows[i].sequence->sched);
    }
    sched_step_done(e->sched, now_us - start_us, complete);
    if (complete && has_long) {
        e->spare_us += (now_us - start_us) / 10;
        e->spare_us = e->spare_us < ENGINE_SPARE_US ? e->spare_us : ENGINE_SPARE_US;
    }
    e->totals.n_steps++;
    e->totals.step_us += now_us - start_us;
    e->totals.plan_us += planned_us - start_us;
    e->totals.sample_us += now_us - computed_us;
    figures_note(&e->totals.step, now_us - start_us);
}

bool engine_step(struct engine *engine)
{
    struct engine *e = engine;
    uint64_t start = engine_now_us();
    if (!e->model)
        return false;
    admit(e, start);
    mm_guard_begin();
    use_common_prefixes(e);
    size_t n = make_batch(e);
    if (n == 0)
        return false;
    const struct forward_watch watch = {look, e};
    const uint64_t planned = engine_now_us();
    e->step.is_on = true;
    e->step.is_cut = false;
    e->step.n = n;
    e->step.start_us = start;
    e->step.looked_us = planned;
    forward_run(e->forward, e->spans, n, &watch);
    const uint64_t computed = engine_now_us();
    ops_pool_run(e->pool, n, 1, sample_task, e);
    mm_guard_end("a step");
    e->step.is_on = false;
    const uint64_t now = engine_now_us();
    note_step(e, planned, computed, now);

    /* A request that fails takes its other sequences along: each row is looked up again. */
    for (size_t i = 0; i < n; i++) {
        struct engine_row *row = &e->rows[i];
        struct request *q = row->request;
        if (!q->is_done && !q->is_ending && e->spans[i].error != -ECANCELED &&
            q->sequences[row->sample] == row->sequence)
            take_result(e, &e->spans[i], row, now);
    }
    for (size_t i = 0; i < n; i++) {
        struct request *q = e->rows[i].request;
        for (size_t j = i + 1; j < n && q; j++)
            if (e->rows[j].request == q)
                q = NULL; /* the last row of a request ends it */
        if (q && q->is_done)
            engine_finish_if_done(q);
    }
    engine_end_pending(e);
    e->totals.hand_out_us += engine_now_us() - now;
    return true;
}
