/* Reading the configuration again (see reload.h). */
#include "svc/reload.h"

#include "svc/journal.h"
#include "svc/model/gguf.h"
#include "svc/model/shape.h"
#include "svc/policy_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Whether a file can be a model: its metadata, not its weights. */
static int check_model(const char *path, char *why, size_t why_size)
{
    struct gguf *gguf;
    struct model_shape shape;
    int r = gguf_open(&gguf, path, why, why_size);
    if (r < 0)
        return r;
    r = model_shape_read(&shape, gguf, why, why_size);
    gguf_free(gguf);
    return r;
}

static int reload_policy(struct policy *policy, const struct options *now, char *why,
                         size_t why_size)
{
    const struct policy_limits before = policy->base;
    policy->base.connections = now->connections_per_user;
    policy->base.requests = now->requests_per_user;
    int r = policy_reload(policy, now->policy, why, why_size);
    if (r < 0)
        policy->base = before;
    else
        policy->connections_max = now->connections;
    return r;
}

int reload_options(struct options *options, struct policy *policy, int argc, char **argv,
                   const char **ret_model, char *why, size_t why_size)
{
    struct options now;
    int r = options_parse(&now, argc, argv, why, why_size);
    if (r < 0)
        return -EINVAL;
    const struct option_row *model = options_find("model");
    const bool other_model = !options_equal(options, &now, model);
    const char *before = options->model;
    *ret_model = NULL;
    if ((other_model && check_model(now.model, why, why_size) < 0) ||
        reload_policy(policy, &now, why, why_size) < 0) {
        options_done(&now);
        return -EINVAL;
    }
    for (const struct option_row *row = options_table; row->name; row++) {
        if (!row->section || options_equal(options, &now, row))
            continue;
        if (!row->live)
            journal_event(JOURNAL_NEEDS_RESTART, JOURNAL_WARNING, NULL,
                          "reload: %s changed, which needs a restart (systemctl restart quern)",
                          row->name);
        else if (options_copy(options, &now, row) < 0)
            journal_log(JOURNAL_ERROR, NULL, "reload: no memory was left for %s", row->name);
        else
            journal_event(JOURNAL_RELOADED, JOURNAL_NOTICE, NULL, "reload: %s changed", row->name);
    }
    if (other_model) {
        *ret_model = options->model;
        options->model = before; /* until the other one is loaded */
    }
    options_done(&now);
    return 0;
}
