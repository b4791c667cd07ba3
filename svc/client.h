/* One connected program: its session, its account and its requests. */
#ifndef QUERN_SVC_CLIENT_H
#define QUERN_SVC_CLIENT_H

#include "ipc/session.h"
#include "svc/journal.h"
#include "svc/policy.h"

struct request;

struct client {
    struct client *next, *prev; /* the service's list */
    struct ipc_session *session;
    uint64_t number; /* as the journal names it */
    struct account *account;
    struct request *requests; /* in flight */
    uint32_t n_requests;
    uint32_t empty_polls; /* in a row */
    bool leave;           /* what was posted may be read after the end (ipc_session_leave) */
    char refusal[160];    /* for its hello, where it is over a limit: not counted then */
    bool counted;         /* policy_connect was done */
    bool awake;           /* its ring is polled between steps */
    bool broken;   /* gone or lying: to be closed by the service, nothing is posted any more */
    char why[160]; /* of broken */
};

/* Takes over peer's descriptors, also on failure. -ENOMEM. */
int client_new(struct client **ret, const struct ipc_peer *peer, uint64_t number,
               struct account *account);
void client_free(struct client *client); /* has no requests any more */

struct journal_context client_context(const struct client *client, uint64_t request);

/* Marks a client broken after a call of its session failed with `error`. */
void client_fail(struct client *client, int error);

#endif
