/* Who may talk, and how much: one account for each uid. */
#ifndef QUERN_SVC_POLICY_H
#define QUERN_SVC_POLICY_H

#include "svc/scheduler.h"

#include <sys/types.h>

struct account {
    struct account *next;
    uid_t uid;
    struct sched_user user;
    uint32_t n_connections;
    uint32_t n_requests; /* waiting or running */
};

struct policy {
    uint32_t connections_max, connections_per_user_max, requests_per_user_max;
    uint32_t n_connections;
    struct account *accounts; /* one for each uid that ever came; kept for its fair share */
};

/* The account of a uid, made where there is none yet; NULL: no memory. */
struct account *policy_account(struct policy *policy, uid_t uid);

/* Counts a new connection. 0, or -EBUSY with a sentence for the client. */
int policy_connect(struct policy *policy, struct account *account, char *why, size_t why_size);
void policy_disconnect(struct policy *policy, struct account *account);

/* Counts a new request. 0, or -EBUSY with a sentence for the client. */
int policy_request(const struct policy *policy, struct account *account, char *why,
                   size_t why_size);

void policy_done(struct policy *policy);

#endif
