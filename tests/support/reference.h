/* Qwen2 and Qwen2-MoE in double precision: clear and slow, the judge of the real forward pass.
 * Nothing is shared with it but the reading of the file's tables. */
#ifndef QUERN_TESTS_SUPPORT_REFERENCE_H
#define QUERN_TESTS_SUPPORT_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

struct reference;

/* Opens a GGUF file that make-model or the yardstick wrote. Ends the program with a sentence where
 * that fails: it is a test's own file. */
struct reference *reference_new(const char *path);
void reference_free(struct reference *reference);

uint32_t reference_n_vocab(const struct reference *reference);

/* Logits of every position of n tokens from position 0: (n, n_vocab). */
void reference_logits(const struct reference *reference, const uint32_t *tokens, size_t n,
                      double *logits);

/* ‖a − b‖ / ‖b‖ over n values. */
double reference_error(const float *a, const double *b, size_t n);

#endif
