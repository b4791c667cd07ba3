/* What models need of the memory that there is: added up, and refused in numbers, before the first
 * weight is read. */
#ifndef QUERN_SVC_MODEL_BUDGET_H
#define QUERN_SVC_MODEL_BUDGET_H

#include "mm/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model_need {            /* bytes */
    const char *name;          /* the model's */
    uint64_t weights, scratch; /* the tokenizer's tables with the weights */
    uint64_t kv;               /* of n_positions, all sequences together */
    uint64_t n_positions;
    bool is_there; /* the weights: kept from the process before */
};

/* Memory that is still to be had for arenas, huge pages and others together. 0 or -errno with a
 * sentence. */
int model_room(uint64_t *ret, char *why, size_t why_size);

/* Whether all these fit together. -ENOMEM with a sentence that has the numbers of each. */
int model_fit(const struct model_need *needs, size_t n, enum mm_huge_policy huge_pages,
              uint64_t limit_bytes, char *why, size_t why_size);

#endif
