/* The engine: all model state, owned by one thread.
 *
 * Requests come in (engine_submit) and are computed in steps (engine_step): admit, plan, compute,
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

/* What happens to requests that come in. */
enum engine_hold {
    ENGINE_OPEN,   /* they are computed */
    ENGINE_HELD,   /* they wait, as while the model is loading: it is about to be replaced */
    ENGINE_CLOSED, /* they are refused: the service is about to stop */
};

/* Computing that may be given up for newcomers: a tenth of what long chunks take, saved up to this
 * much, so that a stream of short requests cannot keep a long prompt from getting on. */
#define ENGINE_SPARE_US UINT64_C(500000)

struct engine {
    const struct options *options;
    struct policy *policy;
    const struct client_list *clients; /* the service's: who has requests is among the busy */
    struct ops_pool *pool;
    struct model *model; /* NULL while loading */
    struct mm_kv *kv;
    struct prefix *prefix;
    struct pins *pins;
    struct forward *forward;
    struct sched *sched;
    struct prepare prepare;
    uint32_t context;
    uint64_t load_done, load_total; /* bytes, for progress */
    struct sampler **samplers;      /* (n_threads) */
    float *logits;                  /* (n_logit_rows, n_vocab) */
    uint32_t n_logit_rows;
    struct forward_span *spans; /* (sequences) of the step */
    struct engine_row *rows;    /* (sequences) of the step: what each span is */
    struct figures_counters totals;
    /* Between two layers of a step, where not NULL: the owner looks at rings and sockets. It may
     * call engine_submit, _cancel, _expire and _pump; a request that ends so while it is being
     * computed ends with the step. */
    void (*look)(void *arg);
    void *look_arg;
    struct {
        bool is_on; /* spans and rows are being computed */
        size_t n;   /* of them */
        uint64_t start_us, looked_us;
        bool is_cut; /* long spans were dropped for a newcomer */
    } step;
    uint64_t spare_us;      /* of computing that may be given up for newcomers */
    struct request *ending; /* list, by next_ending */
    enum engine_hold hold;
    uint64_t started_us;
};

/* Starts the thread pool; the model comes later. 0 or -errno with a sentence. */
int engine_init(struct engine *engine, const struct options *options, struct policy *policy,
                const struct client_list *clients, char *why, size_t why_size);
void engine_done(struct engine *engine); /* no client has requests any more */

/* Loads the model and makes what depends on it. `progress` is called from time to time; a negative
 * return of it ends the load with that value. */
int engine_load(struct engine *engine, size_t input_bytes_max,
                int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg, char *why,
                size_t why_size);

/* Lets go of the model and what depends on it, so that another can be loaded. No sequence waits or
 * runs; requests that are held stay. */
void engine_unload(struct engine *engine);

/* Takes over a request that ipc_session_take returned (not a cancel). */
void engine_submit(struct engine *engine, struct client *client, const struct ipc_request *taken);

/* After the load, until it returns 0 or an error: whether all memory that was promised has come. 1: it
 * is on its way still; -ENOMEM with a sentence: it has not, and nothing can be computed. */
int engine_settle(struct engine *engine, char *why, size_t why_size);

/* While the model is loading: tells those who wait how far it is; then prepares what came in. */
void engine_load_progress(struct engine *engine, uint64_t done, uint64_t total);
void engine_loaded(struct engine *engine);

/* Ends a request of this client, if it has one of that id. */
void engine_cancel(struct engine *engine, struct client *client, uint64_t id);

/* Ends all requests of a client that is gone, without events. */
void engine_drop_client(struct engine *engine, struct client *client);

/* Ends every request with code shutdown and this sentence; those that are held only where
 * `held_too`. */
void engine_stop(struct engine *engine, bool held_too, const char *sentence);

/* Whether no sequence waits or runs. */
bool engine_is_idle(const struct engine *engine);

/* Hands out what a client has made room for. */
void engine_pump(struct engine *engine, struct client *client);

/* After a step: ends what was to end while it was computed. */
void engine_end_pending(struct engine *engine);

/* Keeps the prefix that a sequence of IPC_OP_PIN has computed, and ends the sequence and its
 * request. */
void engine_pin(struct engine *engine, struct sequence *sequence);

/* Hands out the end of a request that is done (and frees it where there is room). */
void engine_finish_if_done(struct engine *engine, struct request *request);

/* Whether some sequence can go on now: its client reads. */
bool engine_is_runnable(const struct engine *engine);

/* One step. False where there was nothing to compute. */
bool engine_step(struct engine *engine);

/* When a deadline needs a look, in µs of the monotonic clock; 0: never. */
uint64_t engine_next_deadline(const struct engine *engine);
void engine_expire(struct engine *engine);

/* A snapshot of all figures, for the engine's own thread: some µs, and a walk over the KV pages. */
void engine_figures(const struct engine *engine, struct figures *ret);

uint64_t engine_now_us(void); /* CLOCK_MONOTONIC */

#endif
