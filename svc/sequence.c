/* One sequence of tokens (see sequence.h). */
#include "svc/sequence.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int sequence_new(struct sequence **ret, struct request *request, uint32_t sample,
                 const uint32_t *ids, uint32_t n_prompt, uint32_t n_total, uint32_t page_len)
{
    struct sequence *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->request = request;
    s->sample = sample;
    s->n_prompt = n_prompt;
    s->n_total = n_total;
    s->tokens = malloc((size_t)n_total * sizeof *s->tokens);
    s->pages = malloc(((size_t)n_total / page_len + 1) * sizeof *s->pages);
    if (!s->tokens || !s->pages) {
        sequence_free(s);
        return -ENOMEM;
    }
    memcpy(s->tokens, ids, (size_t)n_prompt * sizeof *ids);
    s->sched.n_known = n_prompt;
    s->sched.n_total = n_total;
    *ret = s;
    return 0;
}

void sequence_free(struct sequence *sequence)
{
    if (!sequence)
        return;
    sampler_history_free(sequence->history);
    stop_free(sequence->stop);
    free(sequence->tokens);
    free(sequence->pages);
    free(sequence->scores);
    free(sequence->biases);
    free(sequence->ends);
    free(sequence->hidden);
    free(sequence->sum);
    free(sequence);
}

uint32_t sequence_n_output(const struct sequence *sequence)
{
    return sequence->sched.n_known - sequence->n_prompt;
}

static void append(char *out, size_t *n, const char *text, size_t n_text)
{
    if (n_text)
        memcpy(out + *n, text, n_text);
    *n += n_text;
}

static bool is_stop_id(const struct sequence *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->n_stop_ids; i++)
        if (s->ends[i] == id)
            return true;
    return false;
}

/* The text that became certain with this token, into out; a stop id's own is left out. `last` turns
 * true at a stop string. */
static size_t certain_text(struct sequence *s, bool *last, enum ipc_reason *reason, char *out)
{
    char fresh[TEXT_STREAM_ROOM(TEXT_TOKEN_BYTES_MAX)];
    const char *text;
    size_t n_fresh = 0, n_text, n = 0;
    bool stopped = false, textless = *last && *reason == IPC_REASON_STOP;

    if (!textless && text_stream_push(&s->stream, s->drawn, fresh, sizeof fresh, &n_fresh) < 0)
        n_fresh = 0; /* a padding row or an id of no text */
    if (*last) {
        size_t n_end = 0;
        if (text_stream_finish(&s->stream, fresh + n_fresh, sizeof fresh - n_fresh, &n_end) == 0)
            n_fresh += n_end;
    }
    if (stop_push(s->stop, fresh, n_fresh, &text, &n_text, &stopped) < 0)
        return 0;
    append(out, &n, text, n_text);
    if (stopped) {
        *last = true;
        *reason = IPC_REASON_STOP;
    } else if (*last) {
        stop_finish(s->stop, &text, &n_text);
        append(out, &n, text, n_text);
    }
    return n;
}

bool sequence_take_drawn(struct sequence *sequence, const struct text_tokenizer *tokenizer,
                         const struct ipc_score *top, size_t n_top, enum ipc_reason *ret_reason)
{
    struct sequence *s = sequence;
    char text[TEXT_STREAM_ROOM(TEXT_TOKEN_BYTES_MAX) + IPC_STOP_BYTES_MAX];
    size_t n_text = 0, n_sent;
    uint32_t index = sequence_n_output(s);
    bool last = false;

    s->tokens[s->sched.n_known++] = s->drawn;
    if (s->history)
        sampler_history_add(s->history, s->drawn, 1);
    if (tokenizer && !(s->request->r.flags & IPC_FLAG_IGNORE_EOS) &&
        text_is_eos(tokenizer, s->drawn)) {
        last = true;
        *ret_reason = IPC_REASON_EOS;
    } else if (is_stop_id(s, s->drawn)) {
        last = true;
        *ret_reason = IPC_REASON_STOP;
    } else if (s->sched.n_known == s->n_total) {
        last = true;
        *ret_reason = IPC_REASON_LENGTH;
    }
    if (tokenizer)
        n_text = certain_text(s, &last, ret_reason, text);

    struct ipc_event_record e = {.type = IPC_EVENT_TOKEN, .sample = (uint16_t)s->sample};
    e.u.token.token = s->drawn;
    e.u.token.logprob = s->logprob;
    e.u.token.index = index;
    e.u.token.gap_us = s->gap_us;
    n_sent = n_text < IPC_DATA_MAX ? n_text : IPC_DATA_MAX;
    while (n_sent < n_text && n_sent > 0 && ((unsigned char)text[n_sent] & 0xc0) == 0x80)
        n_sent--; /* whole characters only */
    request_post(s->request, &e, text, (uint32_t)n_sent);
    while (n_sent < n_text) { /* a token of kilobytes: the rest follows as text */
        size_t n = n_text - n_sent < IPC_DATA_MAX ? n_text - n_sent : IPC_DATA_MAX;
        struct ipc_event_record more = {.type = IPC_EVENT_DATA, .sample = (uint16_t)s->sample};
        more.u.data.kind = IPC_DATA_TEXT;
        request_post(s->request, &more, text + n_sent, (uint32_t)n);
        n_sent += n;
    }
    if (n_top) {
        struct ipc_event_record scores = {.type = IPC_EVENT_DATA, .sample = (uint16_t)s->sample};
        scores.u.data.kind = IPC_DATA_LOGPROBS;
        scores.u.data.total = n_top * sizeof *top;
        request_post(s->request, &scores, top, (uint32_t)(n_top * sizeof *top));
    }
    s->request->final.u.final.generated++;
    return last;
}
