/* The guard of "memory is taken at start": once a model is warm, its forward pass allocates nothing
 * on the thread that drives it. Counted by jemalloc, which the test preloads for itself. */
#define _GNU_SOURCE /* asprintf */
#include "mm/stats.h"
#include "svc/model/forward.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define N_ROWS      64
#define CONTEXT     256
#define N_VOCAB_MAX 1024

static char file[] = "/tmp/quern-allocation-test-XXXXXX";

static int make_model(const char *shape)
{
    const char *build = getenv("BUILD");
    char *command;
    if (asprintf(&command, "'%s/tests/tools/make-model' --shape %s --type q8_0 '%s'",
                 build ? build : "build", shape, file) < 0)
        return -1;
    int r = system(command);
    free(command);
    return r;
}

/* A prompt in one span, then single tokens; 0, or a line that is wrong. */
static int run_steps(struct forward *forward, struct mm_kv *kv, float *logits)
{
    uint32_t tokens[N_ROWS], pages[CONTEXT / OPS_KV_PAGE];
    for (uint32_t i = 0; i < N_ROWS; i++)
        tokens[i] = i;
    for (uint32_t i = 0; i < CONTEXT / OPS_KV_PAGE; i++)
        pages[i] = mm_kv_take(kv);
    uint64_t before, after;
    for (uint32_t step = 0; step < 8; step++) {
        struct forward_span span = {.tokens = tokens,
                                    .n_tokens = step == 0 ? N_ROWS : 1,
                                    .first_position = step == 0 ? 0 : N_ROWS + step - 1,
                                    .pages = pages,
                                    .n_logits = 1,
                                    .logits = logits};
        if (mm_stats_thread_allocated(&before) < 0 || forward_run(forward, &span, 1, NULL) < 0 ||
            span.error < 0 || mm_stats_thread_allocated(&after) < 0)
            return __LINE__;
        if (after != before) {
            printf("step %u allocated %llu bytes\n", step, (unsigned long long)(after - before));
            return __LINE__;
        }
    }
    for (uint32_t i = 0; i < CONTEXT / OPS_KV_PAGE; i++)
        mm_kv_drop(kv, pages[i]);
    return 0;
}

static int check_shape(const char *shape)
{
    static float logits[N_VOCAB_MAX];
    char why[512] = "";
    struct ops_pool *pool = NULL;
    struct model *model = NULL;
    struct mm_kv *kv = NULL;
    struct forward *forward = NULL;
    struct model_options options = {.huge_pages = MM_HUGE_OFF, .n_context = CONTEXT};
    int wrong = __LINE__;
    if (make_model(shape) == 0 &&
        ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = 2}) == 0 &&
        model_load(&model, file, &options, pool, why, sizeof why) == 0 &&
        model_shape(model)->n_vocab <= N_VOCAB_MAX &&
        mm_kv_new(&kv, CONTEXT / OPS_KV_PAGE, model_shape(model)->n_layers,
                  forward_kv_slice_bytes(model, options.kv_type), MM_HUGE_OFF, NULL, 0) == 0 &&
        forward_new(&forward, model, pool, kv, options.kv_type, N_ROWS, CONTEXT) == 0)
        wrong = run_steps(forward, kv, logits);
    if (wrong)
        printf("%s: line %d %s\n", shape, wrong, why);
    forward_free(forward);
    mm_kv_free(kv);
    model_free(model);
    ops_pool_free(pool);
    return wrong;
}

int main(int argc, char **argv)
{
    uint64_t bytes;
#ifdef QUERN_SANITIZE
    puts("a sanitizer's allocator does not go together with jemalloc, which counts");
    return 77;
#endif
    if (argc == 1) { /* once more, with jemalloc in front */
        setenv("LD_PRELOAD", "libjemalloc.so.2", 1);
        execl("/proc/self/exe", argv[0], "--counted", (char *)NULL);
        return 1;
    }
    if (mm_stats_thread_allocated(&bytes) == -ENOSYS) {
        puts("jemalloc (libjemalloc.so.2) could not be preloaded");
        return 77;
    }
    unsetenv("LD_PRELOAD"); /* not for the tool that makes models */
    int fd = mkstemp(file);
    if (fd < 0)
        return 1;
    close(fd);
    int wrong = check_shape("tiny") || check_shape("tiny-moe");
    unlink(file);
    return wrong ? 1 : 0;
}
