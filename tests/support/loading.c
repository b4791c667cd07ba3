/* Loads, runs, compares (see loading.h). */
#define _GNU_SOURCE /* asprintf */
#include "tests/support/loading.h"

#include "svc/model/forward.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int run_model(const struct model *model, struct ops_pool *pool, struct loading *ret)
{
    struct mm_kv *kv = NULL;
    struct forward *forward = NULL;
    uint32_t tokens[LOADING_TOKENS], pages[LOADING_CONTEXT / OPS_KV_PAGE + 1];
    uint32_t n_pages = (LOADING_TOKENS + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    ret->n_vocab = model_shape(model)->n_vocab;
    if (ret->n_vocab > LOADING_VOCAB_MAX)
        return -ERANGE;
    int r = mm_kv_new(&kv, n_pages, model_shape(model)->n_layers,
                      forward_kv_slice_bytes(model, OPS_KV_F16), MM_HUGE_OFF, NULL, 0);
    if (r == 0)
        r = forward_new(&forward, model, pool, kv, OPS_KV_F16, LOADING_TOKENS, LOADING_CONTEXT);
    for (uint32_t i = 0; i < LOADING_TOKENS; i++)
        tokens[i] = i * 11 % ret->n_vocab;
    for (uint32_t i = 0; r == 0 && i < n_pages; i++)
        pages[i] = mm_kv_take(kv);
    struct forward_span span = {.tokens = tokens,
                                .n_tokens = LOADING_TOKENS,
                                .pages = pages,
                                .n_logits = LOADING_TOKENS,
                                .logits = ret->logits};
    if (r == 0)
        r = forward_run(forward, &span, 1, NULL);
    forward_free(forward);
    mm_kv_free(kv);
    return r < 0 ? r : span.error;
}

void loading_run(const char *file, const struct model_options *with, bool wait_for_image,
                 struct loading *ret)
{
    memset(ret, 0, sizeof *ret);
    struct model_options options = *with;
    options.n_context = LOADING_CONTEXT;
    options.kv_type = OPS_KV_F16;
    struct ops_pool_options threads = {.n_threads = 2};
    struct ops_pool *pool;
    struct model *model;
    ret->result = ops_pool_new(&pool, &threads);
    if (ret->result < 0)
        return;
    ret->result = model_load(&model, file, &options, pool, ret->why, sizeof ret->why);
    if (ret->result == 0) {
        snprintf(ret->notes, sizeof ret->notes, "%s", model_load_notes(model));
        ret->warm = model_is_warm(model);
        ret->result = run_model(model, pool, ret);
        if (wait_for_image)
            model_wait_for_image(model);
        if (model_image_notes(model))
            snprintf(ret->image_notes, sizeof ret->image_notes, "%s", model_image_notes(model));
        model_free(model);
    }
    ops_pool_free(pool);
}

bool loading_same(const struct loading *got, const struct loading *want, const char *word)
{
    bool same =
        got->result == 0 && (!word || strstr(got->notes, word)) && got->n_vocab == want->n_vocab &&
        memcmp(got->logits, want->logits, (size_t)LOADING_TOKENS * want->n_vocab * sizeof(float)) ==
            0;
    if (!same)
        printf("result %d, \"%s\", notes \"%s\", not \"%s\" or other logits\n", got->result,
               got->why, got->notes, word ? word : "");
    return same;
}

int loading_make_model(const char *options, const char *file)
{
    const char *build = getenv("BUILD");
    char *command;
    if (asprintf(&command, "'%s/tests/tools/make-model' %s '%s'", build ? build : "build", options,
                 file) < 0)
        return -1;
    int r = system(command);
    free(command);
    return r;
}
