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

/* What a model that stays has for itself stays, too. */
static void keep_values(struct options_model *now, const struct options_model *before)
{
    for (const struct option_row *row = options_table; row->name; row++) {
        if (!row->each || options_equal_of(now, before, row))
            continue;
        journal_event(JOURNAL_NEEDS_RESTART, JOURNAL_WARNING, NULL,
                      "reload: %s changed, which needs a restart (systemctl restart quern)%s%s",
                      row->name, now->name ? ": model " : "", now->name ? now->name : "");
        options_copy_of(now, before, row);
    }
}

static const struct options_model *same_model(const struct options *o,
                                              const struct options_model *model)
{
    for (uint32_t i = 0; i < o->models.n; i++)
        if (options_same_model(&o->models.all[i], model))
            return &o->models.all[i];
    return NULL;
}

int reload_options(struct options *options, struct policy *policy, int argc, char **argv,
                   struct options_models *ret_models, char *why, size_t why_size)
{
    struct options now;
    int r = options_parse(&now, argc, argv, why, why_size);
    if (r < 0)
        return -EINVAL;
    for (uint32_t i = 0; i < now.models.n && r == 0; i++)
        if (!same_model(options, &now.models.all[i]))
            r = check_model(now.models.all[i].path, why, why_size);
    if (r < 0 || reload_policy(policy, &now, why, why_size) < 0) {
        options_done(&now);
        return -EINVAL;
    }
    for (uint32_t i = 0; i < now.models.n; i++) {
        const struct options_model *before = same_model(options, &now.models.all[i]);
        if (before)
            keep_values(&now.models.all[i], before);
    }
    const struct options_models before = options->models;
    const bool other_models = !options_equal(options, &now, options_find("model"));
    for (const struct option_row *row = options_table; row->name; row++) {
        if (!row->section || row->each || options_equal(options, &now, row))
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
    options_done(&now);
    *ret_models = other_models ? options->models : (struct options_models){0};
    options->models = before; /* until the others are loaded */
    return 0;
}
