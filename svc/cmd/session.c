/* Owns: options common to the verbs, and a model with one sequence. */
#include "svc/cmd/session.h"

#include "ops/isa.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- options ------------------------------------------------------------------------------ */

int cmd_number(const char *verb, const char *option, const char *text, uint64_t min, uint64_t max,
               uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < min || value > max) {
        fprintf(stderr,
                "quernd %s: --%s is \"%s\"; a whole number from %" PRIu64 " to %" PRIu64
                " is possible\n",
                verb, option, text, min, max);
        return CMD_USAGE;
    }
    *ret = value;
    return 0;
}

/* One of `names`, to its index. */
static int take_name(const char *verb, const char *option, const char *text,
                     const char *const *names, unsigned n, unsigned *ret)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = i;
            return 0;
        }
    fprintf(stderr, "quernd %s: --%s is \"%s\"; possible:", verb, option, text);
    for (unsigned i = 0; i < n; i++)
        fprintf(stderr, " %s", names[i]);
    fputc('\n', stderr);
    return CMD_USAGE;
}

int cmd_take_option(struct cmd_options *options, const char *verb, int c, const char *argument)
{
    static const char *const kv_names[] = {"f32", "f16", "q8_0"};
    static const char *const huge_names[] = {"prefer", "require", "off"};
    static const char *const rope_names[] = {"none", "linear", "yarn"};
    uint64_t number = 0;
    unsigned index = 0;
    int r;
    switch (c) {
    case CMD_OPT_MODEL:
        options->model = argument;
        return 0;
    case CMD_OPT_THREADS:
        r = cmd_number(verb, "threads", argument, 1, 1024, &number);
        options->n_threads = (unsigned)number;
        return r;
    case CMD_OPT_KV:
        r = take_name(verb, "kv", argument, kv_names, 3, &index);
        options->kv_type = (enum ops_kv_type)index;
        return r;
    case CMD_OPT_CHUNK:
        r = cmd_number(verb, "chunk", argument, 1, 1u << 16, &number);
        options->chunk = (uint32_t)number;
        return r;
    case CMD_OPT_HUGE_PAGES:
        r = take_name(verb, "huge-pages", argument, huge_names, 3, &index);
        options->huge_pages = (enum mm_huge_policy)index;
        return r;
    case CMD_OPT_JSON:
        options->json = true;
        return 0;
    case CMD_OPT_ROPE_SCALING:
        r = take_name(verb, "rope-scaling", argument, rope_names, 3, &index);
        options->rope_override = true;
        options->rope.scaling = (enum ops_rope_scaling)index;
        return r;
    case CMD_OPT_ROPE_FACTOR: {
        char *end;
        options->rope.factor = strtod(argument, &end);
        if (*end || end == argument ||
            !(options->rope.factor >= 1 && options->rope.factor <= 1024)) {
            fprintf(stderr, "quernd %s: --rope-factor is \"%s\"; 1 to 1024 are possible\n", verb,
                    argument);
            return CMD_USAGE;
        }
        return 0;
    }
    case CMD_OPT_ROPE_ORIGINAL:
        r = cmd_number(verb, "rope-original", argument, 1, 1u << 24, &number);
        options->rope.original_context = (uint32_t)number;
        return r;
    default:
        fprintf(stderr, "quernd %s: see quernd %s --help\n", verb, verb);
        return CMD_USAGE;
    }
}

int cmd_exit_of(int error)
{
    switch (error) {
    case -EBADMSG:
    case -ENOTSUP:
    case -EINVAL:
    case -ENODATA:
        return CMD_BAD_DATA;
    case -ENOENT:
    case -EACCES:
    case -EISDIR:
    case -ENOTDIR:
    case -EPERM:
        return CMD_NO_INPUT;
    default:
        return CMD_OURS;
    }
}

/* ---- the session -------------------------------------------------------------------------- */

static int fail(const char *verb, int error, const char *why)
{
    fprintf(stderr, "quernd %s: %s\n", verb, *why ? why : strerror(-error));
    return cmd_exit_of(error);
}

static int select_isa(const char *verb)
{
    const char *name = getenv("QUERN_ISA");
    int r = ops_isa_select(name && *name ? name : NULL);
    if (r == 0)
        return 0;
    fprintf(stderr, "quernd %s: QUERN_ISA is \"%s\", %s\n", verb, name,
            r == -ENOTSUP ? "which this machine cannot run"
                          : "which is none of scalar, avx2, avx512, avx512vnni and amx");
    return CMD_USAGE;
}

static int open_model(struct cmd_session *session, const struct cmd_options *options, char *why,
                      size_t why_size)
{
    struct model_options load = {
        .huge_pages = options->huge_pages,
        .n_context = options->n_context,
        .kv_type = options->kv_type,
        .rope_override = options->rope_override,
        .rope = options->rope,
    };
    double start = cmd_now_s();
    int r = model_load(&session->model, options->model, &load, session->pool, why, why_size);
    session->load_s = cmd_now_s() - start;
    return r;
}

static int open_sequence(struct cmd_session *session, const struct cmd_options *options, char *why,
                         size_t why_size)
{
    const struct model_shape *shape = model_shape(session->model);
    session->n_context = options->n_context ? options->n_context : shape->context_length;
    session->chunk = options->chunk ? options->chunk : FORWARD_CHUNK;
    uint32_t n_pages = (session->n_context + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    int r = mm_kv_new(&session->kv, n_pages, shape->n_layers,
                      forward_kv_slice_bytes(session->model, options->kv_type), options->huge_pages,
                      why, why_size);
    if (r < 0)
        return r;
    why[0] = 0; /* steps down to smaller pages are no failure */
    session->pages = calloc(n_pages, sizeof *session->pages);
    if (!session->pages)
        return -ENOMEM;
    for (uint32_t i = 0; i < n_pages; i++)
        session->pages[i] = mm_kv_take(session->kv);
    return forward_new(&session->forward, session->model, session->pool, session->kv,
                       options->kv_type, session->chunk, session->n_context);
}

int cmd_session_open(struct cmd_session *ret, const char *verb, const struct cmd_options *options)
{
    char why[512] = "";
    struct cmd_session session = {0};
    if (!options->model) {
        fprintf(stderr, "quernd %s: --model FILE is missing\n", verb);
        return CMD_USAGE;
    }
    if (options->rope_override && options->rope.scaling != OPS_ROPE_NONE &&
        !(options->rope.factor >= 1)) {
        fprintf(stderr, "quernd %s: --rope-scaling needs --rope-factor\n", verb);
        return CMD_USAGE;
    }
    int exit_code = select_isa(verb);
    if (exit_code)
        return exit_code;
    int r =
        ops_pool_new(&session.pool, &(struct ops_pool_options){.n_threads = options->n_threads});
    if (r == 0)
        r = open_model(&session, options, why, sizeof why);
    if (r == 0)
        r = open_sequence(&session, options, why, sizeof why);
    if (r < 0) {
        cmd_session_close(&session);
        return fail(verb, r, why);
    }
    *ret = session;
    return 0;
}

void cmd_session_close(struct cmd_session *session)
{
    forward_free(session->forward);
    mm_kv_free(session->kv);
    model_free(session->model);
    ops_pool_free(session->pool);
    free(session->pages);
}

int cmd_session_run(struct cmd_session *session, const char *verb, const uint32_t *tokens,
                    uint32_t n, uint32_t position, uint32_t n_logits, float *logits)
{
    uint32_t n_vocab = model_shape(session->model)->n_vocab, first_logits = n - n_logits;
    for (uint32_t done = 0; done < n;) {
        uint32_t step = n - done < session->chunk ? n - done : session->chunk, end = done + step;
        struct forward_span span = {
            .tokens = tokens + done,
            .n_tokens = step,
            .first_position = position + done,
            .pages = session->pages,
            .n_logits = end <= first_logits ? 0 : end - (done > first_logits ? done : first_logits),
        };
        if (span.n_logits)
            span.logits = logits + (size_t)(end - span.n_logits - first_logits) * n_vocab;
        forward_run(session->forward, &span, 1, NULL);
        if (span.error) {
            fprintf(stderr,
                    "quernd %s: NaN or infinity arose in the model after token %" PRIu32 "\n", verb,
                    position + done);
            return CMD_BAD_DATA;
        }
        done = end;
    }
    return 0;
}

double cmd_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cmd_median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return values[n / 2];
}
