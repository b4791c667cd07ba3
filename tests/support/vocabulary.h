/* Vocabularies for generated models: one of bytes alone, or that of a compact file (vocab.h). */
#ifndef QUERN_TESTS_SUPPORT_VOCABULARY_H
#define QUERN_TESTS_SUPPORT_VOCABULARY_H

#include "svc/model/gguf_write.h"
#include "tests/support/vocab.h"

struct vocabulary {
    struct vocab_file file;     /* empty: bytes */
    struct gguf_string *tokens; /* (n_tokens) */
    int32_t *types;             /* (n_tokens) */
    uint32_t n_tokens;
    char *made; /* memory of the tokens that no file holds */
};

/* Reads the compact file at `path` with its first n_merges merges (0: all), or makes the 256 bytes
 * and three control tokens of Qwen2 (path NULL), and pads with unused tokens to *n_vocab; 0 there
 * takes the number of tokens, rounded up to a multiple of 64. Returns 0 or -errno with a sentence. */
int vocabulary_read(struct vocabulary *ret, const char *path, size_t n_merges, uint32_t *n_vocab,
                    char *why, size_t why_size);
void vocabulary_done(struct vocabulary *vocabulary);

/* Writes the tokenizer's keys. */
void vocabulary_write(const struct vocabulary *vocabulary, struct gguf_writer *writer);

#endif
