/* Requests out: from a quern_request to a record and its bytes in the request region. */
#include "client/lib/handle.h"
#include "ipc/request.h"
#include "ipc/socket.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)QUERN_OP_STATUS == IPC_OP_STATUS && (int)QUERN_OP_UNPIN == IPC_OP_UNPIN &&
                   QUERN_KEEP == IPC_FLAG_KEEP && (int)QUERN_OP_SCORE == IPC_OP_SCORE &&
                   (int)QUERN_INPUT_TEXTS == IPC_INPUT_TEXTS &&
                   (int)QUERN_SEGMENT_TOKEN == IPC_SEGMENT_TOKEN &&
                   (int)QUERN_ROLE_TOOL == IPC_ROLE_TOOL && QUERN_ECHO == IPC_FLAG_ECHO &&
                   (int)QUERN_PRIORITY_BATCH == IPC_PRIORITY_BATCH &&
                   QUERN_RAW_CHAT == IPC_FLAG_RAW_CHAT &&
                   QUERN_GIVEN_MIN_TOKENS == IPC_GIVEN_MIN_TOKENS &&
                   sizeof(struct quern_bias) == sizeof(struct ipc_bias),
               "quern.h and layout.h use the same numbers");

QUERN_API void quern_request_init_size(struct quern_request *r, size_t size)
{
    memset(r, 0, size);
    r->size = size;
    r->op = QUERN_OP_GENERATE;
    r->kind = QUERN_INPUT_TEXT;
}

/* ---- The span: input, stop list, model name, biases, stop ids, end to end --------------------- */

struct span {
    uint8_t *bytes; /* NULL on the first walk, which only adds up */
    size_t size;
    size_t max;
    bool too_long;
};

static void span_add(struct span *span, const void *bytes, size_t n)
{
    if (span->too_long || n > span->max - span->size) {
        span->too_long = true;
        return;
    }
    if (span->bytes != NULL && n > 0)
        memcpy(span->bytes + span->size, bytes, n);
    span->size += n;
}

/* The form that chats, segments and texts share: a count, the entries, the texts. */
static void add_parts(struct span *span, const struct quern_request *r)
{
    bool chat = r->kind == QUERN_INPUT_CHAT;
    size_t n = chat ? r->n_messages : r->n_segments;
    uint32_t count = (uint32_t)n;

    if (n > IPC_CHAT_MESSAGES_MAX)
        n = count = IPC_CHAT_MESSAGES_MAX + 1; /* the check will say so */
    span_add(span, &count, sizeof(count));
    for (size_t i = 0; i < n; i++) {
        size_t size = chat ? r->messages[i].text_size : r->segments[i].text_size;
        struct ipc_chat_entry entry = {
            chat ? (uint32_t)r->messages[i].role : (uint32_t)r->segments[i].kind, (uint32_t)size};

        if (size > span->max)
            span->too_long = true;
        span_add(span, &entry, sizeof(entry));
    }
    for (size_t i = 0; i < n; i++) {
        if (chat)
            span_add(span, r->messages[i].text, r->messages[i].text_size);
        else
            span_add(span, r->segments[i].text, r->segments[i].text_size);
    }
}

static int by_token(const void *a, const void *b)
{
    struct ipc_bias x, y; /* the span is not aligned */

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x.token < y.token ? -1 : x.token > y.token;
}

/* The biases in rising order of tokens, which are sorted in the span itself. */
static void add_biases(struct span *span, const struct quern_request *r)
{
    size_t n = r->n_biases, start = span->size;

    if (n > IPC_BIASES_MAX)
        n = IPC_BIASES_MAX + 1; /* the check will say so */
    span_add(span, r->biases, n * sizeof(struct ipc_bias));
    if (span->bytes != NULL && !span->too_long && n > 0)
        qsort(span->bytes + start, n, sizeof(struct ipc_bias), by_token);
}

/* One walk for size and, with span->bytes, for content; the lengths go to the record. */
static void fill_span(struct span *span, const struct quern_request *r,
                      struct ipc_request_record *record)
{
    span->size = 0;
    if (record->input == IPC_INPUT_TEXT)
        span_add(span, r->input, r->input_size);
    else if (record->input == IPC_INPUT_CHAT || record->input == IPC_INPUT_SEGMENTS ||
             record->input == IPC_INPUT_TEXTS)
        add_parts(span, r);
    else if (record->input == IPC_INPUT_IDS && r->n_ids <= span->max / sizeof(uint32_t))
        span_add(span, r->ids, r->n_ids * sizeof(uint32_t));
    else if (record->input == IPC_INPUT_IDS)
        span->too_long = true;
    record->input_bytes = (uint32_t)span->size;
    for (size_t i = 0; i < r->n_stops; i++) {
        size_t length = strnlen(r->stops[i], span->max + 1);
        uint32_t n = (uint32_t)length;

        span_add(span, &n, sizeof(n));
        span_add(span, r->stops[i], length);
    }
    record->stop_bytes = (uint32_t)(span->size - record->input_bytes);
    if (r->model != NULL)
        span_add(span, r->model, strnlen(r->model, span->max + 1));
    record->model_bytes = (uint32_t)(span->size - record->input_bytes - record->stop_bytes);
    size_t before = span->size;
    add_biases(span, r);
    record->bias_bytes = (uint32_t)(span->size - before);
    before = span->size;
    span_add(span, r->stop_ids, r->n_stop_ids * sizeof(uint32_t));
    record->stop_id_bytes = (uint32_t)(span->size - before);
}

/* A parameter that is not marked as given is zero on the wire, whatever the caller left in it. */
static float given_or_zero(const struct quern_request *r, uint32_t bit, float value)
{
    return (r->given & bit) != 0 ? value : 0;
}

static void fill_record(struct ipc_request_record *record, const struct quern_request *r)
{
    bool no_input = r->op == QUERN_OP_INFO || r->op == QUERN_OP_STATUS || r->op == QUERN_OP_UNPIN;

    *record = (struct ipc_request_record){
        .op = (uint16_t)r->op,
        .input = (uint16_t)(no_input ? IPC_INPUT_NONE : (unsigned)r->kind),
        .flags = r->flags,
        .given = r->given,
        .max_tokens = (r->given & QUERN_GIVEN_MAX_TOKENS) != 0 ? r->max_tokens : 0,
        .temperature = given_or_zero(r, QUERN_GIVEN_TEMPERATURE, r->temperature),
        .top_k = (r->given & QUERN_GIVEN_TOP_K) != 0 ? r->top_k : 0,
        .top_p = given_or_zero(r, QUERN_GIVEN_TOP_P, r->top_p),
        .min_p = given_or_zero(r, QUERN_GIVEN_MIN_P, r->min_p),
        .repetition = given_or_zero(r, QUERN_GIVEN_REPETITION, r->repetition),
        .presence = given_or_zero(r, QUERN_GIVEN_PRESENCE, r->presence),
        .frequency = given_or_zero(r, QUERN_GIVEN_FREQUENCY, r->frequency),
        .seed = (r->given & QUERN_GIVEN_SEED) != 0 ? r->seed : 0,
        .n_logprobs = r->n_logprobs,
        .deadline_ms = r->deadline_ms,
        .priority = (uint16_t)r->priority,
        .samples = r->samples > UINT16_MAX ? UINT16_MAX : (uint16_t)r->samples,
        .min_tokens = (r->given & QUERN_GIVEN_MIN_TOKENS) != 0 ? r->min_tokens : 0,
        .prefix = r->prefix,
    };
}

/* Checks r and makes the record and its bytes; *ret_span is the caller's to free. */
static int encode(const quern *q, const struct quern_request *r, struct ipc_request_record *record,
                  struct span *ret_span)
{
    struct span span = {.max = q->layout.request_bytes};
    char why[IPC_SENTENCE_MAX];

    if (r->size != sizeof(*r))
        return quern_fail(q, -EINVAL, "The request was not made by quern_request_init.");
    if (r->reserved != 0)
        return quern_fail(q, -EINVAL, "Reserved fields of the request are not zero.");
    if ((unsigned)r->op == IPC_OP_CANCEL)
        return quern_fail(q, -EINVAL, "Requests are cancelled by quern_cancel.");
    fill_record(record, r);
    fill_span(&span, r, record);
    if (span.too_long)
        return quern_fail(q, -EMSGSIZE,
                          "The request has more than the %u bytes that this connection carries.",
                          q->layout.request_bytes);
    span.bytes = malloc(span.size + 1);
    if (span.bytes == NULL)
        return quern_fail(q, -ENOMEM, "Out of memory.");
    fill_span(&span, r, record);
    if (ipc_request_check(record, span.bytes, why, sizeof(why)) < 0) {
        free(span.bytes);
        return quern_fail(q, -EINVAL, "%s", why);
    }
    *ret_span = span;
    return 0;
}

/* ---- Request bytes ---------------------------------------------------------------------------------- */

/* Where n contiguous bytes are free, or -1. Bytes are handed out in the order of submissions and
 * come back in the same order, when the service has taken the submission that they belong to. */
static int64_t reserve_bytes(quern *q, size_t n)
{
    uint64_t size = q->layout.request_bytes;
    uint64_t at;

    if (q->submit.consumed > 0)
        q->span_head = q->span_end[(q->submit.consumed - 1) & (uint64_t)(q->submit.entries - 1)];
    if (q->submit.consumed == q->submit.written) /* all free: begin at the beginning */
        q->span_head = q->span_tail = (q->span_tail + size - 1) / size * size;
    at = q->span_tail % size;
    if (n > size - at) /* would run over the end: leave the rest of this round unused */
        at = size;
    uint64_t pos = q->span_tail / size * size + at;
    if (pos + n - q->span_head > size)
        return -1;
    q->span_tail = pos;
    return (int64_t)(pos % size);
}

/* One try, with the lock held. -EAGAIN when there is no room. */
static int try_put(quern *q, struct ipc_request_record *record, const struct span *span)
{
    int r = ipc_out_has_room(&q->submit, 1);
    int64_t at = r > 0 ? reserve_bytes(q, span->size) : -1;

    if (r > 0 && at < 0) {
        /* Slots there are, but bytes only as far as we last looked. */
        r = ipc_out_has_room(&q->submit, (uint64_t)q->submit.entries + 1);
        at = r < 0 ? -1 : reserve_bytes(q, span->size);
    }
    if (r < 0)
        return q->broken = -EPROTO;
    if (at < 0)
        return -EAGAIN;
    record->offset = (uint32_t)at;
    ipc_copy_to_shared(q->request.base + q->layout.request_offset + at, span->bytes, span->size);
    q->span_tail += span->size;
    q->span_end[q->submit.written & (uint64_t)(q->submit.entries - 1)] = q->span_tail;
    ipc_out_put(&q->submit, record, sizeof(*record));
    ipc_out_publish(&q->submit);
    ipc_bell_moved(&q->bell, IPC_WANT_RECORDS);
    quern_ring(q);
    return 0;
}

/* Puts one record, or arms the wish for room, so that the fd becomes readable when there is some. */
static int put(quern *q, struct ipc_request_record *record, const struct span *span)
{
    if (q->broken == 0 && q->hung_up)
        return quern_fail(q, -ECONNRESET, "The service is gone.");
    if (q->broken != 0)
        return quern_fail(q, q->broken, "The connection to the service is broken.");
    int r = try_put(q, record, span);
    if (r == -EAGAIN) {
        q->wants_room = true;
        quern_arm(q);
        r = try_put(q, record, span); /* look again: the other half is the service's fence B */
    }
    if (r == 0)
        q->wants_room = false;
    if (r == -EPROTO)
        return quern_fail(q, r, "The service says it took requests that were never made.");
    if (r == -EAGAIN)
        return quern_fail(q, r, "The service has not taken earlier requests yet; read events.");
    return r;
}

static int submit(quern *q, const struct quern_request *r, bool wait, uint64_t *ret_id)
{
    struct ipc_request_record record;
    struct pending *pending;
    struct span span;
    int result = quern_usable(q);

    if (result == 0)
        result = encode(q, r, &record, &span);
    if (result < 0)
        return result;
    pending = calloc(1, sizeof(*pending));
    if (pending == NULL) {
        free(span.bytes);
        return quern_fail(q, -ENOMEM, "Out of memory.");
    }
    pending->last = &pending->first;

    pthread_mutex_lock(&q->lock);
    int waited = 0;
    do {
        record.id = pending->id = q->last_id + 1;
        result = put(q, &record, &span);
        if (result == -EAGAIN && wait)
            waited = quern_wait_room(q);
    } while (result == -EAGAIN && wait && waited == 0);
    if (waited < 0)
        result = waited;
    if (result == 0) {
        q->last_id = record.id;
        pending->next = q->pending;
        q->pending = pending;
        *ret_id = record.id;
    }
    pthread_mutex_unlock(&q->lock);
    if (result < 0)
        free(pending);
    free(span.bytes);
    return result;
}

QUERN_API int quern_submit(quern *q, const struct quern_request *r, uint64_t *ret_id)
{
    return submit(q, r, false, ret_id);
}

int quern_submit_waiting(quern *q, const struct quern_request *r, uint64_t *ret_id)
{
    return submit(q, r, true, ret_id);
}

QUERN_API int quern_cancel(quern *q, uint64_t id)
{
    struct ipc_request_record record = {.op = IPC_OP_CANCEL, .target = id};
    const struct span none = {NULL, 0, 0, false};
    int r = quern_usable(q);

    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    struct pending *pending = quern_find(q, id);
    if (pending == NULL)
        r = quern_fail(q, -ENOENT, "Request %llu is not in flight.", (unsigned long long)id);
    else if (!pending->ended)
        r = put(q, &record, &none);
    pthread_mutex_unlock(&q->lock);
    return r;
}
