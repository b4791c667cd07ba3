/* quern.conf: INI (read by libinih), sections and keys as options_table names them.
 *
 * A section [model NAME] is of one model: its file, and values for it alone.
 *
 * FILE is read first, then FILE.d/ in the order of their names (those that end in .conf); later values count. A key that
 * is unknown, misplaced, given twice in one file or has a value out of its range is a problem, named
 * with file and line, and with the nearest name where there is one. */
#ifndef QUERN_SVC_CONFIG_H
#define QUERN_SVC_CONFIG_H

#include "svc/options.h"

/* Called with each problem: "FILE:LINE: sentence". */
typedef void config_problem_fn(void *arg, const char *problem);

/* Sets what the file and its drop-ins say. 0; -EINVAL with the first problem (and how many more
 * there are) in `why`: *options is then of no use; -errno where the file cannot be read. `fn` may be
 * NULL. A line may have 190 bytes. */
int config_read(struct options *options, const char *path, config_problem_fn *fn, void *arg,
                char *why, size_t why_size);

#endif
