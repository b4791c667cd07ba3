/* One step of the engine: admit, plan, compute, sample, hand out. */
#ifndef QUERN_SVC_STEP_H
#define QUERN_SVC_STEP_H

#include "svc/engine.h"

struct sequence;

/* Rows of logits that scoring may take in one step, all sequences together. */
#define STEP_SCORE_ROWS 32u

/* A span of the step, and what was drawn for it. */
struct engine_row {
    struct request *request;
    struct sequence *sequence;
    uint32_t sample;
    bool draws; /* its last row's logits give a token */
    size_t n_top;
    struct ipc_score top[IPC_LOGPROBS_MAX];
};

/* Ends a sequence: gives its pages back (the cache keeps what it knows) and frees it. */
void step_end_sequence(struct engine *engine, struct sequence *sequence);

#endif
