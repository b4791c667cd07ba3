/* Toy models for tests, made by tests/tools/make-model, and one sequence or more to run in them. */
#ifndef QUERN_TESTS_SUPPORT_TOY_H
#define QUERN_TESTS_SUPPORT_TOY_H

#include "svc/model/forward.h"

#define TOY_PATH_MAX 256

/* Makes a model with these arguments of make-model ("--type f32 --untied") in a temporary file,
 * which is removed when the program ends. The same arguments give the same file once. Ends the
 * program where that fails. */
const char *toy_file(const char *arguments);

/* A file name of the test's own in the same folder. */
const char *toy_path(const char *name);

struct toy {
    struct ops_pool *pool;
    struct model *model;
    struct mm_kv *kv;
    struct forward *forward;
    uint32_t *pages; /* (n_sequences, pages_per_sequence) */
    uint32_t pages_per_sequence;
    uint32_t n_vocab;
};

/* Loads a model for n_sequences of up to n_context positions, in steps of up to `chunk` rows. */
void toy_open(struct toy *ret, const char *path, unsigned n_threads, enum ops_kv_type kv_type,
              uint32_t n_context, uint32_t n_sequences, uint32_t chunk);
void toy_close(struct toy *toy);

/* Runs n tokens of sequence `sequence` from position 0, `chunk` at a time; logits of all rows. */
void toy_run(struct toy *toy, uint32_t sequence, const uint32_t *tokens, uint32_t n, uint32_t chunk,
             float *logits);

/* n ids below n_vocab, the same for the same seed. */
void toy_tokens(uint32_t *tokens, uint32_t n, uint32_t n_vocab, uint32_t seed);

#endif
