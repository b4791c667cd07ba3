/* Vocabularies for generated models: one of bytes alone, or that of another GGUF file. */
#ifndef QUERN_TESTS_SUPPORT_VOCABULARY_H
#define QUERN_TESTS_SUPPORT_VOCABULARY_H

#include "svc/model/gguf_write.h"

struct vocabulary {
    struct gguf *source;        /* whose tokenizer keys are copied, or NULL: bytes */
    struct gguf_string *tokens; /* (n_tokens) */
    int32_t *types;             /* (n_tokens) */
    uint32_t n_tokens;
    char *made; /* memory of the tokens that no source holds */
};

/* Reads the GGUF at `path`, or makes the 256 bytes and three control tokens of Qwen2 (path NULL),
 * and pads it with unused tokens to *n_vocab; 0 there takes the number of tokens, rounded up to a
 * multiple of 64. Returns 0 or -errno with a sentence. */
int vocabulary_read(struct vocabulary *ret, const char *path, uint32_t *n_vocab, char *why,
                    size_t why_size);
void vocabulary_done(struct vocabulary *vocabulary);

/* Writes the tokenizer's keys. */
void vocabulary_write(const struct vocabulary *vocabulary, struct gguf_writer *writer);

#endif
