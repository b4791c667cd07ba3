/* The compact vocabulary file (tests/golden/qwen2-vocab.bin), as the arrays that a GGUF file has. */
#ifndef QUERN_TESTS_SUPPORT_VOCAB_H
#define QUERN_TESTS_SUPPORT_VOCAB_H

#include "svc/text/tokenizer.h"

#define VOCAB_FILE_QWEN2 "tests/golden/qwen2-vocab.bin"

struct vocab_file {
    struct text_vocab_source source; /* complete: also pre, ids and Qwen2's chat template */
    void *memory;                    /* all that source points to */
};

/* Reads a file of tests/tools/vocab-from-gguf.py with its first n_merges merges (0: all). Ids are
 * 256 bytes, the merges in order, the special tokens; the end of text is eos as for a chat model:
 * <|im_end|>. 0, -errno, -EINVAL. */
int vocab_file_load(struct vocab_file *ret, const char *path, size_t n_merges);
void vocab_file_done(struct vocab_file *file);

/* The tokenizer of VOCAB_FILE_QWEN2; ends the program where that fails. */
struct text_tokenizer *vocab_tokenizer(void);

#endif
