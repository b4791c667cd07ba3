/* One connected program: its session, its account and its requests. */
#ifndef QUERN_SVC_CLIENT_H
#define QUERN_SVC_CLIENT_H

#include "ipc/session.h"
#include "svc/journal.h"
#include "svc/policy.h"

struct request;

struct client;

/* All clients, and among them those that a step has to look at. A client that neither submits nor
 * waits for an answer is not busy, and costs the step loop nothing. */
struct client_list {
    struct client *all;
    struct client *busy;
    struct client *leaving; /* closed, and the undertaker had no hand free yet */
    struct client *buried;  /* no session any more, but perhaps memory */
    uint32_t n;             /* in all */
};

struct client {
    struct client_list *list;
    struct client *next, *prev;           /* list->all, leaving or buried */
    struct client *next_busy, *prev_busy; /* list->busy, while is_busy */
    struct ipc_session *session;
    uint64_t number; /* as the journal names it */
    struct account *account;
    struct request *requests; /* in flight */
    uint32_t n_requests;
    uint32_t empty_polls; /* in a row */
    bool is_leaving;      /* in list->leaving */
    bool leave;           /* what was posted may be read after the end (ipc_session_leave) */
    struct policy_refusal refusal; /* for its hello, where it was not counted */
    bool counted;                  /* policy_connect was done */
    bool violated;                 /* broken, by what no client of the protocol does */
    uint64_t region_bytes;         /* as counted by policy_regions */
    bool is_busy;                  /* awake, with requests in flight, or broken */
    bool awake;                    /* its ring is polled between steps */
    bool rung;                     /* a packet waits in its socket until its ring was looked at */
    bool broken;   /* gone or lying: to be closed by the service, nothing is posted any more */
    char why[160]; /* of broken */
};

/* Puts a new one in the list. Takes over peer's descriptors, also on failure. -ENOMEM. */
int client_new(struct client **ret, struct client_list *list, const struct ipc_peer *peer,
               uint64_t number, struct account *account);
/* It has no requests any more, and has left epoll: out of list->all, and its session goes to the
 * undertaker. What is left counts its memory until that is given back: until the undertaker says the
 * client's address. -EAGAIN: the undertaker has its hands full; it is in list->leaving, and this is to
 * be called again. Any other -errno: there is none, and all was done at once. Then it is freed. */
int client_bury(struct client *client, const struct ipc_undertaker *undertaker);
void client_free(struct client *client); /* was buried */

/* To be looked at in every step, until client_rest finds that there is nothing to look at. */
void client_wake(struct client *client);
void client_rest(struct client *client);

struct journal_context client_context(const struct client *client, uint64_t request);

/* Marks a client broken after a call of its session failed with `error`. */
void client_fail(struct client *client, int error);

#endif
