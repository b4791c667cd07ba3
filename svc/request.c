/* One request of a client (see request.h). */
#include "svc/request.h"

#include "svc/client.h"
#include "svc/sequence.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pending_event {
    struct pending_event *next;
    struct ipc_event_record event;
    uint32_t n;
    uint8_t data[];
};

int request_new(struct request **ret, struct client *client, const struct ipc_request *taken,
                uint64_t now_us)
{
    struct request *q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->r = taken->r;
    size_t before_biases =
        (size_t)taken->r.input_bytes + taken->r.stop_bytes + taken->r.model_bytes;
    size_t n = before_biases + taken->r.bias_bytes + taken->r.stop_id_bytes;
    q->input = malloc(n ? n : 1);
    if (!q->input) {
        free(q);
        return -ENOMEM;
    }
    if (taken->r.input_bytes)
        memcpy(q->input, taken->input, taken->r.input_bytes);
    if (taken->r.stop_bytes)
        memcpy(q->input + taken->r.input_bytes, taken->stops, taken->r.stop_bytes);
    if (taken->r.model_bytes)
        memcpy(q->input + taken->r.input_bytes + taken->r.stop_bytes, taken->model,
               taken->r.model_bytes);
    if (taken->r.bias_bytes)
        memcpy(q->input + before_biases, taken->biases, taken->r.bias_bytes);
    if (taken->r.stop_id_bytes)
        memcpy(q->input + n - taken->r.stop_id_bytes, taken->stop_ids, taken->r.stop_id_bytes);
    q->pending_end = &q->pending;
    q->final.id = q->r.id;
    q->final.type = IPC_EVENT_FINAL;
    q->taken_us = now_us;
    if (q->r.deadline_ms)
        q->deadline_us = now_us + (uint64_t)q->r.deadline_ms * 1000;
    q->queue_position = UINT32_MAX;
    q->client = client;
    q->next = client->requests;
    if (q->next)
        q->next->prev = q;
    client->requests = q;
    client->n_requests++;
    client_wake(client);
    *ret = q;
    return 0;
}

void request_free(struct request *request)
{
    if (!request)
        return;
    if (request->prev)
        request->prev->next = request->next;
    else
        request->client->requests = request->next;
    if (request->next)
        request->next->prev = request->prev;
    request->client->n_requests--;
    request_drop_pending(request);
    free(request->sequences);
    free(request->input);
    free(request->chat);
    free(request->result);
    free(request);
}

bool request_is_parked(const struct request *request)
{
    return request->pending != NULL;
}

/* Posts at once. 0, -EAGAIN, or the client is broken and it does not matter any more: 0. */
static int post_now(struct request *q, const struct ipc_event_record *event, const void *data,
                    uint32_t n)
{
    if (q->client->broken)
        return 0;
    int r = ipc_session_post(q->client->session, event, data, n);
    if (r < 0 && r != -EAGAIN) {
        client_fail(q->client, r);
        return 0;
    }
    return r;
}

static void set_parked(struct request *q, bool parked)
{
    for (uint32_t i = 0; i < q->n_sequences; i++)
        if (q->sequences[i])
            q->sequences[i]->sched.parked = parked;
}

void request_post(struct request *request, const struct ipc_event_record *event, const void *data,
                  uint32_t n)
{
    struct ipc_event_record e = *event;
    e.id = request->r.id;
    if (!request->pending && post_now(request, &e, data, n) == 0)
        return;
    struct pending_event *p = malloc(sizeof *p + n);
    if (!p) {
        client_fail(request->client, -ENOMEM);
        return;
    }
    p->next = NULL;
    p->event = e;
    p->n = n;
    if (n)
        memcpy(p->data, data, n);
    *request->pending_end = p;
    request->pending_end = &p->next;
    set_parked(request, true);
}

void request_post_news(struct request *request, const struct ipc_event_record *event)
{
    if (request->pending || request->client->broken)
        return;
    int room = ipc_session_has_room(request->client->session, 1, 0);
    if (room < 0)
        client_fail(request->client, room);
    else if (room)
        request_post(request, event, NULL, 0);
}

static bool pump_pending(struct request *q)
{
    while (q->pending) {
        struct pending_event *p = q->pending;
        if (post_now(q, &p->event, p->data, p->n) == -EAGAIN)
            return false;
        q->pending = p->next;
        free(p);
    }
    q->pending_end = &q->pending;
    set_parked(q, false);
    return true;
}

static bool pump_result(struct request *q)
{
    while (q->result_sent < q->result_bytes && !q->client->broken) {
        size_t n = q->result_bytes - q->result_sent;
        if (n > IPC_DATA_MAX)
            n = IPC_DATA_MAX;
        struct ipc_event_record e = {.id = q->r.id, .type = IPC_EVENT_DATA};
        e.u.data.kind = q->result_kind;
        e.u.data.index = q->result_sent;
        e.u.data.total = q->result_bytes;
        if (post_now(q, &e, q->result + q->result_sent, (uint32_t)n) == -EAGAIN)
            return false;
        q->result_sent += n;
    }
    return true;
}

bool request_pump(struct request *request, uint64_t now_us)
{
    struct request *q = request;
    if (!pump_pending(q) || !q->is_done || q->n_live > 0 || !pump_result(q))
        return false;
    if (q->client->broken)
        return true;
    uint64_t started = q->started_us ? q->started_us : now_us;
    uint64_t first = q->first_token_us ? q->first_token_us : now_us;
    q->final.u.final.queue_us = started - q->taken_us;
    q->final.u.final.prefill_us = first - started;
    q->final.u.final.decode_us = now_us - first;
    int r = ipc_session_finish(q->client->session, &q->final,
                               q->final.u.final.code ? q->sentence : NULL);
    if (r < 0)
        client_fail(q->client, r);
    return true;
}

void request_end(struct request *request, enum ipc_reason reason, enum ipc_code code,
                 const char *format, ...)
{
    if (request->is_done)
        return;
    request->is_done = true;
    request->final.u.final.reason = (uint16_t)reason;
    request->final.u.final.code = (uint16_t)code;
    if (code != IPC_CODE_OK) {
        va_list args;
        va_start(args, format);
        vsnprintf(request->sentence, sizeof request->sentence, format, args);
        va_end(args);
        request->result_bytes = request->result_sent; /* no half results */
    }
}

void request_set_result(struct request *request, enum ipc_data kind, void *bytes, size_t n)
{
    if (request->result != bytes)
        free(request->result);
    request->result = bytes;
    request->result_bytes = n;
    request->result_sent = 0;
    request->result_kind = kind;
}

bool request_is_look(const struct ipc_request_record *record)
{
    return record->op == IPC_OP_STATUS || record->op == IPC_OP_INFO;
}

void request_end_with_text(struct request *request, char *text, size_t n)
{
    request_set_result(request, IPC_DATA_TEXT, text, text ? n : 0);
    if (text)
        request_end(request, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
    else
        request_end(request, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY, "No memory was left.");
}

void request_drop_pending(struct request *request)
{
    while (request->pending) {
        struct pending_event *next = request->pending->next;
        free(request->pending);
        request->pending = next;
    }
    request->pending_end = &request->pending;
}
