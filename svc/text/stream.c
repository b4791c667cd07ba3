/* The streaming decoder: bytes wait until they are a character, or can be none any more. */
#include "svc/text/stream.h"

#include "svc/text/unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char replacement[3] = {(char)0xEF, (char)0xBF, (char)0xBD}; /* U+FFFD */

void text_stream_init(struct text_stream *stream, const struct text_tokenizer *tokenizer,
                      bool show_control)
{
    *stream = (struct text_stream){.tokenizer = tokenizer, .show_control = show_control};
}

int text_stream_push(struct text_stream *stream, uint32_t id, char *out, size_t room,
                     size_t *ret_len)
{
    const char *token;
    size_t n_token, used = 0, part;
    uint8_t pending[sizeof stream->pending];
    size_t n_pending = stream->n_pending;
    int r = text_token_bytes(stream->tokenizer, id, &token, &n_token);

    if (r < 0)
        return r;
    if (text_is_control(stream->tokenizer, id) && !stream->show_control)
        n_token = 0;
    memcpy(pending, stream->pending, sizeof pending);
    for (size_t i = 0; i < n_token; i++) {
        pending[n_pending++] = (uint8_t)token[i];
        /* One byte may settle two parts: the one that it ends by not fitting, and its own. */
        for (;;) {
            enum unicode_part kind =
                n_pending > 0 ? unicode_part_at((char *)pending, n_pending, &part) : UNICODE_CUT;
            if (kind == UNICODE_CUT)
                break;
            size_t n = kind == UNICODE_WHOLE ? part : sizeof replacement;
            if (n > room - used)
                return -ENOSPC;
            memcpy(out + used, kind == UNICODE_WHOLE ? (char *)pending : replacement, n);
            used += n;
            n_pending -= part;
            memmove(pending, pending + part, n_pending);
        }
    }
    memcpy(stream->pending, pending, sizeof pending);
    stream->n_pending = (uint8_t)n_pending;
    *ret_len = used;
    return 0;
}

int text_stream_finish(struct text_stream *stream, char *out, size_t room, size_t *ret_len)
{
    size_t n = stream->n_pending > 0 ? sizeof replacement : 0;

    if (n > room)
        return -ENOSPC;
    memcpy(out, replacement, n);
    stream->n_pending = 0;
    *ret_len = n;
    return 0;
}

int text_decode(const struct text_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                bool show_control, char **ret, size_t *ret_len)
{
    struct text_stream stream;
    size_t room = TEXT_STREAM_ROOM(0), used = 0, len;
    const char *token;
    char *out;
    int r;

    for (size_t i = 0; i < n; i++) {
        r = text_token_bytes(tokenizer, ids[i], &token, &len);
        if (r < 0)
            return r;
        if (__builtin_add_overflow(room, TEXT_STREAM_ROOM(len), &room))
            return -ENOMEM;
    }
    out = malloc(room);
    if (!out)
        return -ENOMEM;
    text_stream_init(&stream, tokenizer, show_control);
    for (size_t i = 0; i < n; i++) {
        r = text_stream_push(&stream, ids[i], out + used, room - used, &len);
        if (r < 0)
            goto free_out;
        used += len;
    }
    r = text_stream_finish(&stream, out + used, room - used, &len);
    if (r < 0)
        goto free_out;
    used += len;
    out[used] = '\0';
    char *fit = realloc(out, used + 1);
    *ret = fit ? fit : out;
    *ret_len = used;
    return 0;

free_out:
    free(out);
    return r;
}
