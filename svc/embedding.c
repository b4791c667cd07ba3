/* Embeddings (see embedding.h). */
#include "svc/embedding.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int embedding_prepare(struct sequence *sequence, uint32_t d_model)
{
    struct sequence *s = sequence;
    bool mean = s->request->r.flags & IPC_FLAG_MEAN;
    uint32_t n_rows = !mean ? 1 : s->n_prompt < FORWARD_CHUNK ? s->n_prompt : FORWARD_CHUNK;

    s->hidden = calloc((size_t)n_rows * d_model, sizeof *s->hidden);
    if (mean) {
        s->sum = calloc(d_model, sizeof *s->sum);
        s->sched.rows_max = n_rows;
    }
    return s->hidden && (!mean || s->sum) ? 0 : -ENOMEM;
}

void embedding_want(const struct sequence *sequence, struct forward_span *span, bool last)
{
    span->hidden = sequence->sum || last ? sequence->hidden : NULL;
    span->n_hidden = sequence->sum ? span->n_tokens : last;
}

void embedding_add(struct sequence *sequence, const struct forward_span *span, uint32_t d_model)
{
    if (!sequence->sum)
        return;
    if (span->first_position == 0) /* it may have been set back and begin anew */
        memset(sequence->sum, 0, d_model * sizeof *sequence->sum);
    for (uint32_t t = 0; t < span->n_tokens; t++)
        for (uint32_t i = 0; i < d_model; i++)
            sequence->sum[i] += sequence->hidden[(size_t)t * d_model + i];
}

void embedding_finish(const struct sequence *sequence, uint32_t d_model, float *ret)
{
    double squares = 0, scale = 1;

    for (uint32_t i = 0; i < d_model; i++) {
        double x = sequence->sum ? sequence->sum[i] / sequence->n_prompt : sequence->hidden[i];
        ret[i] = (float)x;
        squares += x * x;
    }
    if (!(sequence->request->r.flags & IPC_FLAG_NORMALIZE) || squares == 0)
        return;
    scale = 1 / sqrt(squares);
    for (uint32_t i = 0; i < d_model; i++) {
        double x = sequence->sum ? sequence->sum[i] / sequence->n_prompt : sequence->hidden[i];
        ret[i] = (float)(x * scale);
    }
}
