/* What the verbs share: their options, and a model with one sequence to run through it. */
#ifndef QUERN_SVC_CMD_SESSION_H
#define QUERN_SVC_CMD_SESSION_H

#include "svc/cmd/cmd.h"
#include "svc/model/forward.h"

#include <getopt.h>

struct cmd_options {
    const char *model;
    unsigned n_threads; /* 0: as many as the process may use */
    enum ops_kv_type kv_type;
    uint32_t n_context; /* of the sequence; a verb may set it */
    uint32_t chunk;     /* rows of a step; 0: FORWARD_CHUNK */
    enum mm_huge_policy huge_pages;
    bool json;
    bool rope_override;
    struct ops_rope_options rope;
};

/* Long options that every verb takes; CMD_OPTIONS goes into its own table. Values from CMD_OPT_OWN
 * on are the verb's. */
enum {
    CMD_OPT_MODEL = 1,
    CMD_OPT_THREADS,
    CMD_OPT_KV,
    CMD_OPT_CHUNK,
    CMD_OPT_HUGE_PAGES,
    CMD_OPT_JSON,
    CMD_OPT_ROPE_SCALING,
    CMD_OPT_ROPE_FACTOR,
    CMD_OPT_ROPE_ORIGINAL,
    CMD_OPT_OWN,
};
#define CMD_OPTIONS                                                                                \
    {"model", required_argument, NULL, CMD_OPT_MODEL},                                             \
        {"threads", required_argument, NULL, CMD_OPT_THREADS},                                     \
        {"kv", required_argument, NULL, CMD_OPT_KV},                                               \
        {"chunk", required_argument, NULL, CMD_OPT_CHUNK},                                         \
        {"huge-pages", required_argument, NULL, CMD_OPT_HUGE_PAGES},                               \
        {"json", no_argument, NULL, CMD_OPT_JSON},                                                 \
        {"rope-scaling", required_argument, NULL, CMD_OPT_ROPE_SCALING},                           \
        {"rope-factor", required_argument, NULL, CMD_OPT_ROPE_FACTOR},                             \
    {                                                                                              \
        "rope-original", required_argument, NULL, CMD_OPT_ROPE_ORIGINAL                            \
    }
#define CMD_OPTIONS_HELP                                                                           \
    "  --model FILE       the GGUF file (the first of a split set)\n"                              \
    "  --threads N        default: as many as this process may use\n"                              \
    "  --kv f32|f16|q8_0  type of the cache (f16)\n"                                               \
    "  --chunk N          rows of a step (512)\n"                                                  \
    "  --huge-pages prefer|require|off\n"                                                          \
    "  --rope-scaling none|linear|yarn --rope-factor F --rope-original N\n"

/* Takes option `c` (of getopt_long) with its argument. 0, or CMD_USAGE after saying why. */
int cmd_take_option(struct cmd_options *options, const char *verb, int c, const char *argument);

/* A whole number within [min, max]; says why not and returns CMD_USAGE. */
int cmd_number(const char *verb, const char *option, const char *text, uint64_t min, uint64_t max,
               uint64_t *ret);

/* The exit code for a failed load or open. */
int cmd_exit_of(int error);

struct cmd_session {
    struct ops_pool *pool;
    struct model *model;
    struct mm_kv *kv;
    struct forward *forward;
    uint32_t *pages; /* of the one sequence */
    uint32_t n_context, chunk;
    double load_s;
};

/* Loads the model and makes one sequence of n_context positions (0: the model's own). Says why not
 * and returns an exit code. Honours QUERN_ISA. */
int cmd_session_open(struct cmd_session *ret, const char *verb, const struct cmd_options *options);
void cmd_session_close(struct cmd_session *session);

/* Runs n tokens from `position` on, in chunks; the logits of the last n_logits go to `logits`.
 * 0 or an exit code after saying why. */
int cmd_session_run(struct cmd_session *session, const char *verb, const uint32_t *tokens,
                    uint32_t n, uint32_t position, uint32_t n_logits, float *logits);

double cmd_now_s(void); /* monotonic */

/* Sorts and returns the middle one. */
double cmd_median(double *values, size_t n);

#endif
