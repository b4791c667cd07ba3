/* From a request's bytes to something that can be computed: ids, sampling values, limits.
 *
 * Everything that can be wrong with a request once the model is known is found here and ends it
 * with a code and a sentence; operations that need no computation get their result here. */
#ifndef QUERN_SVC_PREPARE_H
#define QUERN_SVC_PREPARE_H

#include "svc/model/model.h"
#include "svc/pins.h"
#include "svc/request.h"
#include "svc/text/chat.h"

struct prepare {
    const struct model *model;
    const struct pins *pins;
    uint32_t slot;         /* of the model, in accounts */
    struct text_chat chat; /* the prompt template */
    char chat_why[200];    /* why the file's own is not used; may be empty */
    uint32_t context;      /* positions a sequence may have */
    uint32_t page_len;     /* of the KV pool */
    uint32_t score_rows;   /* rows of a scoring step at most */
    uint32_t *ids;         /* (n_ids_max) scratch */
    size_t n_ids_max;
};

/* Sampling values where a request gives none. */
#define PREPARE_MAX_TOKENS 2048u

int prepare_init(struct prepare *prepare, const struct model *model, const struct pins *pins,
                 uint32_t slot, uint32_t context, uint32_t page_len, uint32_t score_rows,
                 size_t input_bytes_max);
void prepare_done(struct prepare *prepare);

/* Makes the sequences of a request, or ends it. Afterwards its input is freed. */
void prepare_request(struct prepare *prepare, struct request *request);

#endif
