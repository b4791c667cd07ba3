/* Normalization form C, which Qwen2's tokenizer applies before anything else.
 *
 * Nearly all text is in it already, and a quick check says so at the cost of reading it. Only where
 * the check is in doubt, that stretch, from one character that nothing composes across to the next,
 * is composed anew: by utf8proc, but for the ordering of marks, which there takes quadratic time. */
#ifndef QUERN_SVC_TEXT_NORMALIZE_H
#define QUERN_SVC_TEXT_NORMALIZE_H

#include <stddef.h>

/* Normalizes n bytes of valid UTF-8. *ret is NULL if they are in form C as they stand; else malloc'd
 * memory for the caller to free, and *ret_n its length (at most 3 n). 0 or -ENOMEM. */
int text_normalize(const char *s, size_t n, char **ret, size_t *ret_n);

#endif
