/* Stop strings: text is let through only as far as no stop string can begin in it.
 *
 * Pieces of text come in as tokens become characters; what could still become a stop string is held
 * back. When one is complete, the text before it is let through and nothing after it. With several
 * possible matches the one that ends first counts, and among these the longest. */
#ifndef QUERN_SVC_STOP_H
#define QUERN_SVC_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stop;

/* `list` is a stop list of the protocol (u32 length, then bytes, for each), already checked; it is
 * copied. An empty list lets everything through. 0 or -ENOMEM. */
int stop_new(struct stop **ret, const uint8_t *list, uint32_t list_bytes);
void stop_free(struct stop *stop);

/* Takes n bytes and hands out what is certain: *ret_text, valid until the next call. *ret_stopped
 * turns true when a stop string was completed: no further text comes. 0 or -ENOMEM. */
int stop_push(struct stop *stop, const char *text, size_t n, const char **ret_text, size_t *ret_n,
              bool *ret_stopped);

/* What was held back, when the text ends without a stop string. */
void stop_finish(struct stop *stop, const char **ret_text, size_t *ret_n);

#endif
