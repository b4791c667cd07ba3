/* Ids to text, one at a time: whole UTF-8 characters only.
 *
 * A token may end inside a character: the rest waits for the next one. What all calls write, put
 * together, is what a decoder makes of all bytes put together: each maximal part of an invalid
 * sequence becomes one U+FFFD (Unicode 14, 3.9, "U+FFFD substitution of maximal subparts"), and no
 * sooner than the bytes after it (or the end) prove it invalid. */
#ifndef QUERN_SVC_TEXT_STREAM_H
#define QUERN_SVC_TEXT_STREAM_H

#include "svc/text/tokenizer.h"

/* Room that one push or finish may need for a token of n bytes: an invalid byte becomes three. */
#define TEXT_STREAM_ROOM(n) (3 * ((size_t)(n) + 4))

struct text_stream {
    const struct text_tokenizer *tokenizer;
    bool show_control;  /* control tokens are written as their text; else they write nothing */
    uint8_t pending[4]; /* the bytes of a character begun and not finished */
    uint8_t n_pending;
};

void text_stream_init(struct text_stream *stream, const struct text_tokenizer *tokenizer,
                      bool show_control);

/* Takes the next id and writes the characters that are whole now. 0 with *ret_len (perhaps 0);
 * -EINVAL: no such id; -ENOSPC: `room` is too small (TEXT_STREAM_ROOM of the token's bytes always
 * suffices). On failure nothing was taken or written. */
int text_stream_push(struct text_stream *stream, uint32_t id, char *out, size_t room,
                     size_t *ret_len);

/* Ends the text: a character that never got whole becomes U+FFFD (at most 3 bytes; `room` ≥ 3).
 * The stream is ready for another text then. */
int text_stream_finish(struct text_stream *stream, char *out, size_t room, size_t *ret_len);

/* All of n ids at once; the result is text_stream's, malloc'd and terminated, for the caller to
 * free. 0, -EINVAL, -ENOMEM. */
int text_decode(const struct text_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                bool show_control, char **ret, size_t *ret_len);

#endif
