/* The split pattern of Qwen2: text to the pieces that byte-pair merges stay inside.
 *
 * The pattern, as the model's own tokenizer.json has it:
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *   |\s*[\r\n]+|\s+(?!\S)|\s+
 * by a scanner of our own that reads every byte at most twice. Unicode 14.0.0, as the reference's
 * engine; (?i:) folds as it does there, so that U+017F (long s) is an s. */
#ifndef QUERN_SVC_TEXT_SPLIT_H
#define QUERN_SVC_TEXT_SPLIT_H

#include <stddef.h>

/* The length of the piece that begins at s, of n ≥ 1 bytes of valid UTF-8; at least 1, at most n.
 * s is the start of the text or the end of the piece before. */
size_t text_split_next(const char *s, size_t n);

#endif
