/* quernd: one of the verbs that look at a model and end, or the service. */
#include "mm/guard.h"
#include "mm/store.h"
#include "svc/cmd/cmd.h"
#include "svc/config.h"
#include "svc/journal.h"
#include "svc/options.h"
#include "svc/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *verb;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"bench", cmd_bench},           {"logits", cmd_logits},
    {"inspect", cmd_inspect},       {"quantize", cmd_quantize},
    {"perplexity", cmd_perplexity}, {"pack", cmd_pack},
    {"verify", cmd_verify},         {"pool", cmd_pool},
};

static void print_problem(void *arg, const char *problem)
{
    (void)arg;
    fprintf(stderr, "%s\n", problem);
}

/* Every problem of the configuration, and whether its models can be opened. */
static int check_config(struct options *options)
{
    char why[512];
    const char *path = options->config ? options->config : "the command line";
    int r = options->config
                ? config_read(options, options->config, print_problem, NULL, why, sizeof why)
                : 0;
    if (r < 0 && r != -EINVAL) /* the others were printed */
        fprintf(stderr, "%s\n", why);
    if (r == 0 && options_complete(options, why, sizeof why) < 0) {
        fprintf(stderr, "%s: %s\n", path, why);
        r = -EINVAL;
    }
    if (r == 0 && options->models.n == 0) {
        fprintf(stderr, "%s: no model is named; add \"model = FILE\" to [service].\n", path);
        r = -EINVAL;
    }
    for (uint32_t i = 0; i < options->models.n && r == 0; i++) {
        const char *model = options->models.all[i].path;
        if (access(model, R_OK) == 0)
            continue;
        fprintf(stderr, "%s: the model %s cannot be read: %s.\n", path, model, strerror(errno));
        r = -EINVAL;
    }
    return r == 0 ? printf("%s: no problem found\n", path), CMD_OK : CMD_CONFIG;
}

/* Lets go of the weights that wait for the next start. systemd's store opens to processes of the unit
 * alone: elsewhere, the way to it is said. */
static int drop_weights(const struct options *options)
{
    struct mm_store store;
    char why[512] = "";
    const char *where = options->store;
    const char *folder = !where || !strcmp(where, "auto") ? NULL
                         : !strcmp(where, "hugetlbfs")    ? ""
                                                          : where;
    int r = mm_store_init(&store, "none", folder, why, sizeof why);
    if (r < 0 || store.place == MM_STORE_NONE) {
        journal_log(JOURNAL_ERROR, NULL, "%s",
                    why[0]
                        ? why
                        : "There is no store here: what systemd keeps for quern.service goes with "
                          "`systemctl stop quern.service`; --store names a folder.");
        return CMD_NO_INPUT;
    }
    journal_log(JOURNAL_NOTICE, NULL, "kept weights dropped: %d", mm_store_drop(&store));
    return CMD_OK;
}

static bool wants_guard(void)
{
#ifdef QUERN_DEBUG
    return true;
#else
    const char *guard = getenv("QUERN_GUARD");
    return guard && *guard == '1';
#endif
}

int main(int argc, char **argv)
{
    struct options options;
    char why[512];

    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(argv[1], verbs[i].verb))
            return verbs[i].run(argc - 1, argv + 1);
    if (options_parse(&options, argc, argv, why, sizeof why) < 0) {
        journal_init(JOURNAL_NOTICE);
        journal_log(JOURNAL_ERROR, NULL, "%s", why);
        return CMD_USAGE;
    }
    if (options.help || options.version) {
        fputs(options.help ? options_help : "quernd " QUERN_VERSION "\n", stdout);
        return CMD_OK;
    }
    if (options.check_config) {
        int code = check_config(&options);
        options_done(&options);
        return code;
    }
    journal_init(journal_level_of(options.verbose));
    if (options.drop_weights) {
        int code = drop_weights(&options);
        options_done(&options);
        return code;
    }
    if (wants_guard() && mm_guard_turn_on() < 0)
        journal_log(JOURNAL_WARNING, NULL, "The guard against allocations needs jemalloc.");
    int code = service_run(&options, argc, argv);
    options_done(&options);
    return code;
}
