/*
 * What a valid request is: one set of checks and one set of sentences for both sides. The service
 * runs them on its private copy of what a stranger wrote; the client library runs them first, so
 * that a caller learns of a mistake before anything is sent.
 */
#ifndef QUERN_IPC_REQUEST_H
#define QUERN_IPC_REQUEST_H

#include "ipc/layout.h"
#include <stddef.h>
#include <stdint.h>

/* Checks one record and the bytes it speaks of (record->input_bytes of input, then stop_bytes,
 * then model_bytes, then bias_bytes, then stop_id_bytes at span; private memory, not shared). Does not check id and offset, which
 * belong to the ring. 0, or -EINVAL with one sentence in why. */
int ipc_request_check(const struct ipc_request_record *record, const uint8_t *span, char *why,
                      size_t why_size);

/* One part of a chat, of segments or texts, or of a stop list, in the caller's buffer. */
struct ipc_part {
    const uint8_t *bytes;
    uint32_t length;
    uint32_t role; /* enum ipc_role or ipc_segment; of a stop string 0 */
};

struct ipc_chat_cursor {
    uint32_t index;  /* of the next message */
    uint32_t offset; /* of its text */
};

/* One chat of two valid ones, the second's messages after the first's: malloc'd, *ret_bytes long, for
 * the caller to free. NULL: no memory. Whether so many messages may be in a chat is the caller's to see. */
uint8_t *ipc_chat_join(const uint8_t *first, uint32_t first_bytes, const uint8_t *second,
                       uint32_t second_bytes, uint32_t *ret_bytes);

/* Walk a chat input (segments and texts have its form) or a stop list: the cursor starts at zero; 1 and the next part in *ret, or 0 at
 * the end; -EINVAL where the form is broken, which does not happen after ipc_request_check. */
int ipc_chat_next(const uint8_t *input, uint32_t input_bytes, struct ipc_chat_cursor *cursor,
                  struct ipc_part *ret);
int ipc_stop_next(const uint8_t *stops, uint32_t stop_bytes, uint32_t *cursor,
                  struct ipc_part *ret);

/* The number of messages of a chat input that passed ipc_request_check. */
uint32_t ipc_chat_count(const uint8_t *input, uint32_t input_bytes);

/* A short English name for each value ("end of sequence", "prompt too long"); never NULL. */
const char *ipc_reason_name(unsigned reason);
const char *ipc_code_name(unsigned code);

#endif
