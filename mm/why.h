/* Sentences for a person: the library never prints, it fills `char *why, size_t why_size` of its
 * caller. Both functions take why == NULL (nobody wants to know) and cut what does not fit. */
#ifndef QUERN_MM_WHY_H
#define QUERN_MM_WHY_H

#include <stddef.h>

/* Replaces what is in `why`. */
void mm_why_set(char *why, size_t why_size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends another sentence, parted by a space from what is there. */
void mm_why_add(char *why, size_t why_size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
