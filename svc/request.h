/* One request of a client, from the moment it is taken to its final event.
 *
 * It owns the sequences that compute it (one for each parallel sample) and the events that its
 * client has no room for yet. While such events wait, its sequences are parked. Exactly one final
 * event ends it: request_finish is the only place that posts one. */
#ifndef QUERN_SVC_REQUEST_H
#define QUERN_SVC_REQUEST_H

#include "ipc/session.h"
#include "svc/scheduler.h"

struct client;
struct engine;
struct figures_counters;
struct sequence;
struct pending_event;

struct request {
    struct request *next, *prev; /* of the client */
    struct client *client;
    struct engine *engine;           /* of its model; NULL: that is not loaded yet, or gone */
    struct figures_counters *totals; /* that it counts in */
    struct ipc_request_record r;
    uint8_t *input; /* own copy of the span: input, stop list …; freed once prepared */
    uint8_t *chat;  /* pin, where a program renders chats: what goes to the pin; else NULL */
    uint32_t chat_bytes;
    bool prepared;
    bool is_done; /* the result is complete; what is left is to hand it out */

    struct sequence **sequences; /* (n_sequences), NULL where ended */
    uint32_t n_sequences, n_live;

    struct pending_event *pending, **pending_end; /* waits for room, in order */
    uint8_t *result;                              /* what DATA events hand out after these */
    size_t result_bytes, result_sent;
    enum ipc_data result_kind;

    enum sched_class class_;
    uint64_t queued_tokens; /* counted by policy_queue, until its first admission */

    /* An end that came from outside while a step was computing: it takes effect with the step. */
    bool is_ending;
    enum ipc_reason ending_reason;
    enum ipc_code ending_code;
    const char *ending_sentence;
    struct request *next_ending; /* of the engine's list */

    struct ipc_event_record final; /* u.final is filled in as things become known */
    char sentence[IPC_SENTENCE_MAX];
    uint64_t taken_us, started_us, first_token_us, deadline_us; /* 0: not yet, none */
    uint32_t queue_position, queue_reason;                      /* as told to the client last */
};

/* Makes a request of what ipc_session_take returned, and puts it in the client's list. The input is
 * copied. -ENOMEM. */
int request_new(struct request **ret, struct client *client, const struct ipc_request *taken,
                uint64_t now_us);
void request_free(struct request *request); /* its sequences are gone already */

/* Posts an event, or keeps it until there is room. `event`: type, sample, u. */
void request_post(struct request *request, const struct ipc_event_record *event, const void *data,
                  uint32_t n);

/* The same for news that may be left out where there is no room now: progress, queue position. */
void request_post_news(struct request *request, const struct ipc_event_record *event);

/* Whether it waits for its client to read. */
bool request_is_parked(const struct request *request);

/* Hands out what there is room for: pending events, then the result, then the final event once
 * is_done. True when the final event was posted (or the client is gone): free it. */
bool request_pump(struct request *request, uint64_t now_us);

/* The result or the reason is known: the rest is request_pump's. A sentence goes with a code. */
void request_end(struct request *request, enum ipc_reason reason, enum ipc_code code,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Forgets what the client has not made room for: the service is stopping. */
void request_drop_pending(struct request *request);

/* Requests that only look at the service: they are not counted, so that watching it changes nothing. */
bool request_is_look(const struct ipc_request_record *record);

/* Ends a request whose result is a text, which is taken over; NULL: there was no memory for it. */
void request_end_with_text(struct request *request, char *text, size_t n);

/* Sets the result of an operation other than generate; takes over `bytes` (malloc'd;
 * may be request->result itself, made before the result was complete). */
void request_set_result(struct request *request, enum ipc_data kind, void *bytes, size_t n);

#endif
