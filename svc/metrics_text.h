/* The metrics page as text. */
#ifndef QUERN_SVC_METRICS_TEXT_H
#define QUERN_SVC_METRICS_TEXT_H

#include "svc/metrics.h"

#include <stdbool.h>
#include <stddef.h>

/* malloc'd, NULL: no memory. OpenMetrics 1.0, or the Prometheus text format 0.0.4: they differ in how
 * a counter's name is declared, and in the end. */
char *metrics_text(const struct metrics_snapshot *snapshot, bool open_metrics, size_t *ret_n);

#endif
