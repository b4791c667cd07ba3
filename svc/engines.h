/* The models of a service: each has an engine of its own, with its own arena of weights, KV pool, queue
 * and prefix cache. What they share is the thread pool, and the one thread that owns them all.
 *
 * A request goes to the model that it names. Of the engines that have something to compute the one
 * that has computed least has the next step, so that each gets the same time however long its steps
 * are; one that had nothing to do for a while comes next, and is owed nothing. */
#ifndef QUERN_SVC_ENGINES_H
#define QUERN_SVC_ENGINES_H

#include "svc/engine.h"

/* What happens to requests that come in. */
enum engines_hold {
    ENGINES_LOADING, /* they wait */
    ENGINES_OPEN,    /* they are computed; those of an engine that is held wait */
    ENGINES_CLOSED,  /* they are refused: the service is about to stop */
};

struct engines {
    struct engine_shared shared;
    struct engine *all[OPTIONS_MODELS_MAX]; /* the first is for requests that name none */
    uint32_t n;
    const struct client_list *clients; /* the service's: who has requests is among the busy */
    enum engines_hold hold;
    uint64_t load_done, load_total; /* bytes, for progress */
    const struct engine *loading;   /* the one whose model is read just now, or NULL */
    uint32_t n_loaded, n_loading;   /* of those that are loaded together: before it; in all */
    struct figures_counters past;   /* of models that are gone, and of requests that had none */
    uint64_t started_us;
};

/* Starts the thread pool; the models come later. 0 or -errno with a sentence. */
int engines_init(struct engines *engines, const struct options *options, struct policy *policy,
                 const struct client_list *clients, char *why, size_t why_size);
void engines_done(struct engines *engines); /* no client has requests any more */

/* Makes the models those of this list: those that are there stay as they are, others go (no sequence of
 * theirs waits or runs; requests that are held stay), and what is new is loaded, one after the other.
 * `progress` is called from time to time; a negative return of it ends the load with that value. On
 * failure what is new is gone again. Then comes engines_loaded. */
int engines_load(struct engines *engines, const struct options_models *models,
                 size_t input_bytes_max, int (*progress)(void *arg, uint64_t done, uint64_t total),
                 void *arg, char *why, size_t why_size);

/* Holds requests for those models that are not in this list, and no others. */
void engines_hold(struct engines *engines, const struct options_models *models);

/* After the load: as engine_settle, of all. */
int engines_settle(struct engines *engines, char *why, size_t why_size);

/* Takes over a request that ipc_session_take returned (not a cancel). */
void engines_submit(struct engines *engines, struct client *client,
                    const struct ipc_request *taken);

/* While loading: tells those who wait how far it is; then takes what came in, and is no longer held. */
void engines_load_progress(struct engines *engines, uint64_t done, uint64_t total);
void engines_loaded(struct engines *engines);

/* Ends a request of this client, if it has one of that id. */
void engines_cancel(struct client *client, uint64_t id);

/* Ends all requests of a client that is gone, without events. */
void engines_drop_client(struct engines *engines, struct client *client);

/* Ends every request with code shutdown and this sentence; those that wait for a model too where
 * `held_too`; else only those of engines that are held, or of all where the service is closed. */
void engines_stop(struct engines *engines, bool held_too, const char *sentence);

/* Whether no sequence waits or runs; of engines that are held, or of all. */
bool engines_are_idle(const struct engines *engines, bool held_only);

/* Hands out what a client has made room for. */
void engines_pump(struct client *client);

/* Whether some sequence can go on now: its client reads. */
bool engines_are_runnable(const struct engines *engines);

/* One step of one engine. False where there was nothing to compute. */
bool engines_step(struct engines *engines);

/* When a deadline needs a look, in µs of the monotonic clock; 0: never. */
uint64_t engines_next_deadline(const struct engines *engines);
void engines_expire(struct engines *engines);

/* A snapshot of all figures, for the engines' own thread. */
void engines_figures(const struct engines *engines, struct figures *ret);

/* What all models, those that are gone too, have counted together. */
void engines_totals(const struct engines *engines, struct figures_counters *ret);

#endif
