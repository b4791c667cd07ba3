/* A start of the service as far as weights go: loads a small model as it would be loaded, runs a few
 * tokens through it, and keeps what was said and the logits. */
#ifndef QUERN_TESTS_SUPPORT_LOADING_H
#define QUERN_TESTS_SUPPORT_LOADING_H

#include "svc/model/model.h"

#define LOADING_TOKENS    24
#define LOADING_CONTEXT   256
#define LOADING_VOCAB_MAX 512

struct loading {
    int result; /* of the load, else of the run */
    bool warm;
    char notes[2048], image_notes[1024], why[512];
    uint32_t n_vocab;
    float logits[LOADING_TOKENS * LOADING_VOCAB_MAX];
};

/* Everything above. `wait_for_image`: until the image is written, where one is. Asserts nothing, so
 * that a forked child may use it. */
void loading_run(const char *file, const struct model_options *options, bool wait_for_image,
                 struct loading *ret);

/* Whether `got` loaded, with the logits of `want`, and its notes have `word` (or NULL); else prints
 * why not. */
bool loading_same(const struct loading *got, const struct loading *want, const char *word);

/* make-model with these options writes `file`. Its exit status. */
int loading_make_model(const char *options, const char *file);

#endif
