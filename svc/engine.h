/* The engine: all state of one model, owned by one thread. A service has one for each of its models
 * (engines.h), and one step of one of them runs at a time.
 *
 * Requests come in (engine_take) and are computed in steps (engine_step): admit, plan, compute,
 * sample, hand out. Between two steps, and between two layers of one, the caller looks at the rings:
 * a cancel, a death or a deadline takes effect within a layer. */
#ifndef QUERN_SVC_ENGINE_H
#define QUERN_SVC_ENGINE_H

#include "svc/client.h"
#include "svc/figures.h"
#include "svc/model/forward.h"
#include "svc/options.h"
#include "svc/pins.h"
#include "svc/prefix.h"
#include "svc/prepare.h"
#include "svc/request.h"
#include "svc/sampler.h"

/* Computing that may be given up for newcomers: a tenth of what long chunks take, saved up to this
 * much, so that a stream of short requests cannot keep a long prompt from getting on. */
#define ENGINE_SPARE_US UINT64_C(500000)

/* What the engines of a service have in common; the service's. */
struct engine_shared {
    const struct options *options;
    struct policy *policy;
    struct ops_pool *pool;
    uint64_t last_pin; /* handles of pinned prefixes: none twice */
    /* Between two layers of a step, where not NULL: the owner looks at rings and sockets. It may
     * submit, cancel, expire and pump requests; one that ends so while it is being computed ends
     * with the step. */
    void (*look)(void *arg);
    void *look_arg;
};

struct engine {
    struct engine_shared *shared;
    const struct options *options; /* of shared, as are these two */
    struct policy *policy;
    struct ops_pool *pool;
    struct options_model own;
    uint32_t slot;          /* in accounts: which of the models this is */
    struct model *coming;   /* opened, and not loaded yet */
    struct model_need need; /* of it */
    struct model *model;    /* NULL while loading */
    struct mm_kv *kv;
    struct prefix *prefix;
    struct pins *pins;
    struct forward *forward;
    struct sched *sched;
    struct prepare prepare;
    uint32_t context, n_pages; /* positions of a sequence; pages of kv */
    struct sampler **samplers; /* (n_threads) */
    float *logits;             /* (n_logit_rows, n_vocab) */
    uint32_t n_logit_rows;
    struct forward_span *spans; /* (sequences) of the step */
    struct engine_row *rows;    /* (sequences) of the step: what each span is */
    struct figures_counters totals;
    struct {
        bool is_on; /* spans and rows are being computed */
        size_t n;   /* of them */
        uint64_t start_us, looked_us;
        bool is_cut; /* long spans were dropped for a newcomer */
    } step;
    uint64_t spare_us;      /* of computing that may be given up for newcomers */
    struct request *ending; /* list, by next_ending */
    bool is_held;           /* requests for it wait, as while it is loading: it is about to go */
    uint64_t spent_us;      /* computing, as the engines take turns by it */
};

/* An engine without a model. NULL: no memory. */
struct engine *engine_new(struct engine_shared *shared, const struct options_model *own,
                          uint32_t slot);
/* No sequence waits or runs, and no request is its any more. */
void engine_free(struct engine *engine);

/* Opens the model file: from then on it is known what it needs. `progress` is called from time to time
 * while it is loaded; a negative return of it ends the load with that value. 0 or -errno with a
 * sentence, as the next two. */
int engine_open(struct engine *engine, int (*progress)(void *arg, uint64_t done, uint64_t total),
                void *arg, char *why, size_t why_size);

/* Shares out memory among engines that are open and not loaded; with what is loaded already they may
 * have no more than limit_bytes (0: no limit). Refuses before anything is read. */
int engine_plan(struct engine *const *engines, size_t n, uint64_t limit_bytes, char *why,
                size_t why_size);

/* Loads the model and makes what depends on it. */
int engine_load(struct engine *engine, size_t input_bytes_max, char *why, size_t why_size);

/* After the load, until it returns 0 or an error: whether all memory that was promised has come. 1: it
 * is on its way still; -ENOMEM with a sentence: it has not, and nothing can be computed. */
int engine_settle(struct engine *engine, char *why, size_t why_size);

/* Takes over a request whose model is this one, and is loaded. */
void engine_take(struct engine *engine, struct request *request);

/* Ends a request, of whatever engine or of none, with a reason, a code and a sentence (which stays
 * where it is): now, or with the step where it is being computed. */
void engine_end_request(struct request *request, enum ipc_reason reason, enum ipc_code code,
                        const char *sentence);

/* Hands out what a request's client has room for, and frees it when its final event is out. */
void engine_pump(struct request *request);

/* A request, of whatever engine, is done: hands out its end (and frees it where there is room). */
void engine_finish_if_done(struct request *request);

/* Logs and counts what the policy refused; the engine may be NULL. */
void engine_log_refusal(const struct engine *engine, struct policy *policy,
                        const struct client *client, uint64_t id,
                        const struct policy_refusal *refusal);

/* Forgets what a client that is gone has pinned. */
void engine_drop_client(struct engine *engine, const struct client *client);

/* What requests call its model; "" where that is not known yet. */
const char *engine_name(const struct engine *engine);

/* Whether no sequence waits or runs. */
bool engine_is_idle(const struct engine *engine);

/* After a step: ends what was to end while it was computed. */
void engine_end_pending(struct engine *engine);

/* Keeps the prefix that a sequence of IPC_OP_PIN has computed, and ends the sequence and its
 * request. */
void engine_pin(struct engine *engine, struct sequence *sequence);

/* Whether some sequence can go on now: its client reads. */
bool engine_is_runnable(const struct engine *engine);

/* One step. False where there was nothing to compute. */
bool engine_step(struct engine *engine);

/* A snapshot of its figures, for the engine's own thread: some µs, and a walk over the KV pages. */
void engine_figures(const struct engine *engine, struct figures_model *ret);

uint64_t engine_now_us(void); /* CLOCK_MONOTONIC */

#endif
