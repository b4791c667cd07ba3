/* quernd: one of the verbs that look at a model and end, or the service. */
#include "svc/cmd/cmd.h"
#include "svc/journal.h"
#include "svc/options.h"
#include "svc/service.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *verb;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"bench", cmd_bench},       {"logits", cmd_logits},         {"inspect", cmd_inspect},
    {"quantize", cmd_quantize}, {"perplexity", cmd_perplexity},
};

int main(int argc, char **argv)
{
    struct options options;
    char why[256];

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
    journal_init(options.verbose > 1 ? JOURNAL_DEBUG
                 : options.verbose   ? JOURNAL_INFO
                                     : JOURNAL_NOTICE);
    return service_run(&options);
}
