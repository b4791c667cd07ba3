/* The texts of status and info: lines of key=value, one fact each. */
#ifndef QUERN_SVC_STATUS_H
#define QUERN_SVC_STATUS_H

#include "svc/engines.h"

/* The service and its counters, then each model, from a line "model" on; works while models are
 * loading. malloc'd, NULL: no memory. */
char *status_text(const struct engines *engines, size_t *ret_n);

/* The model: shape, context, defaults. */
char *status_info_text(const struct engine *engine, size_t *ret_n);

#endif
