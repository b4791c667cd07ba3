/* What the service counts and times: for the metrics page, status and tests.
 *
 * Plain numbers without pointers, so that a copy is a snapshot. Counters only grow. The engine's
 * thread writes them; engine_figures gives a copy between two steps. Times go into histograms of
 * fixed bounds, so that a scraper may add them up over time and over services. */
#ifndef QUERN_SVC_FIGURES_H
#define QUERN_SVC_FIGURES_H

#include "svc/options.h"

#include <stdint.h>

#define FIGURES_BOUNDS   20u
#define FIGURES_NAME_MAX 80u

/* Upper bounds (inclusive) of the buckets, in µs; what is larger counts in the last one. */
extern const uint64_t figures_bounds_us[FIGURES_BOUNDS];

struct figures_histogram {
    uint64_t counts[FIGURES_BOUNDS + 1]; /* of each bucket alone, not cumulative */
    uint64_t n, sum_us;
};

struct figures_counters { /* of one model, since the start */
    uint64_t n_requests, n_finished, n_cancelled, n_failed;
    uint64_t n_prompt_tokens, n_cached_tokens, n_generated_tokens;
    uint64_t n_steps, n_rows; /* rows: tokens computed, recomputed ones included */
    uint64_t n_set_back;      /* sequences that had to make room */
    uint64_t n_cut_short;     /* prefill chunks given up for a cancel or a newcomer */
    uint64_t step_us;         /* all steps together */
    uint64_t plan_us, sample_us,
        hand_out_us;                      /* of these: admission and planning; the draw; events */
    struct figures_histogram queue;       /* taken → first computed */
    struct figures_histogram prefill;     /* first computed → first token */
    struct figures_histogram first_token; /* taken → first token */
    struct figures_histogram token_gap;   /* between two tokens of a sequence */
    struct figures_histogram step;
    struct figures_histogram request; /* taken → final event */
};

struct figures_model {
    char name[FIGURES_NAME_MAX];
    uint32_t running, waiting, sequences_max;
    uint32_t kv_pages, kv_pages_used, kv_pages_cached, kv_pages_reserved, kv_pages_pinned;
    uint32_t page_len;                     /* positions in a page */
    uint32_t weights_pages, kv_pages_kind; /* enum mm_page_kind of their memory */
    uint64_t weights_bytes, kv_bytes;
    struct figures_counters counters;
};

struct figures {
    uint64_t uptime_us;
    uint32_t clients;
    bool is_ready;     /* requests are computed */
    uint32_t n_models; /* that are loaded */
    struct figures_model models[OPTIONS_MODELS_MAX];
};

void figures_note(struct figures_histogram *histogram, uint64_t us);

/* Adds what another one counted. */
void figures_add(struct figures_counters *total, const struct figures_counters *more);

/* An upper bound of the given part (0 … 1) of what was noted, in µs; 0 where nothing was. */
uint64_t figures_quantile(const struct figures_histogram *histogram, double part);

#endif
