/* Reading the configuration again while the service runs (SIGHUP, systemctl reload).
 *
 * All or nothing: a wrong file, or a model that is none, changes nothing and is named in the
 * journal. What can change in a running service does; what cannot is named as needing a restart. */
#ifndef QUERN_SVC_RELOAD_H
#define QUERN_SVC_RELOAD_H

#include "svc/options.h"
#include "svc/policy.h"

/* Reads what argv and the configuration say now and takes the live rows over into *options, saying
 * each change in the journal; the policy with them, whose file is read again. Other models are only named:
 * *ret_models (whose strings belong to *options), or none where they stay. 0, or -EINVAL with one sentence: nothing was changed. */
int reload_options(struct options *options, struct policy *policy, int argc, char **argv,
                   struct options_models *ret_models, char *why, size_t why_size);

#endif
