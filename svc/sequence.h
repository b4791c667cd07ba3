/* One sequence of tokens that the engine computes: of a request, one of its parallel samples.
 *
 * It holds the ids, the KV pages and what turns ids into text. Turning a drawn id into events, and
 * seeing that it was the last one, is done here; when it is computed is the scheduler's. */
#ifndef QUERN_SVC_SEQUENCE_H
#define QUERN_SVC_SEQUENCE_H

#include "svc/request.h"
#include "svc/sampler.h"
#include "svc/scheduler.h"
#include "svc/stop.h"
#include "svc/text/stream.h"

struct sequence {
    struct sched_entry sched; /* first: the scheduler hands back pointers to it */
    struct request *request;
    uint32_t sample;
    uint32_t *tokens; /* (n_total) prompt and output; sched.n_known of them */
    uint32_t n_prompt;
    uint32_t n_total;
    uint32_t *pages; /* (n_pages_max) KV pages of positions 0 … */
    uint32_t n_pages;
    uint32_t n_cached; /* positions that came from the prefix cache, at the first admission */
    uint32_t n_shared_checked; /* full pages of it that the prefix cache knows about */

    /* generate */
    struct sampler_params params;
    struct sampler_history *history;
    struct text_stream stream;
    struct stop *stop;
    uint64_t last_token_us; /* 0: none yet */
    uint32_t gap_us;        /* from the token before to this one */
    uint32_t drawn;         /* of the step that just ended */
    float logprob;
    int draw_error;

    struct sampler_bias *biases; /* what params points to */
    uint32_t *ends;              /* the same: n_stop_ids of the request, the vocabulary's own */
    uint32_t n_stop_ids;

    /* score: (n_prompt) of the request's result; generate with echo: until they were handed out */
    struct ipc_score *scores;

    /* embed */
    float
        *hidden; /* (n_hidden_max, d_model) of the rows of a step; mean: of all, else of the last */
    double *sum; /* mean: (d_model) over the rows so far, in their order */
};

/* A sequence for n_prompt ids (copied) and up to n_total positions. -ENOMEM. */
int sequence_new(struct sequence **ret, struct request *request, uint32_t sample,
                 const uint32_t *ids, uint32_t n_prompt, uint32_t n_total, uint32_t page_len);
void sequence_free(struct sequence *sequence); /* has no pages any more */

/* Number of the output token that is to be drawn next. */
uint32_t sequence_n_output(const struct sequence *sequence);

/* Takes the id that was drawn (sequence->drawn, ->logprob): posts its event. `tokenizer` may be
 * NULL. True when it was the last; *ret_reason says why. `n_top` alternatives go with it. */
bool sequence_take_drawn(struct sequence *sequence, const struct text_tokenizer *tokenizer,
                         const struct ipc_score *top, size_t n_top, enum ipc_reason *ret_reason);

#endif
