/* Who may talk, and how much (see policy.h). The overflow uid never gets here: ipc_accept refuses
 * it. */
#include "svc/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct account *policy_account(struct policy *policy, uid_t uid)
{
    for (struct account *a = policy->accounts; a; a = a->next)
        if (a->uid == uid)
            return a;
    struct account *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->uid = uid;
    a->user.weight = 1;
    a->next = policy->accounts;
    policy->accounts = a;
    return a;
}

int policy_connect(struct policy *policy, struct account *account, char *why, size_t why_size)
{
    if (policy->n_connections >= policy->connections_max) {
        snprintf(why, why_size, "The service has %u connections, as many as it takes; try later.",
                 policy->n_connections);
        return -EBUSY;
    }
    if (account->n_connections >= policy->connections_per_user_max) {
        snprintf(why, why_size, "User %u has %u connections, as many as one user may; close some.",
                 (unsigned)account->uid, account->n_connections);
        return -EBUSY;
    }
    policy->n_connections++;
    account->n_connections++;
    return 0;
}

void policy_disconnect(struct policy *policy, struct account *account)
{
    policy->n_connections--;
    account->n_connections--;
}

int policy_request(const struct policy *policy, struct account *account, char *why, size_t why_size)
{
    if (account->n_requests >= policy->requests_per_user_max) {
        snprintf(why, why_size, "User %u has %u requests here, as many as one user may; try later.",
                 (unsigned)account->uid, account->n_requests);
        return -EBUSY;
    }
    account->n_requests++;
    return 0;
}

void policy_done(struct policy *policy)
{
    while (policy->accounts) {
        struct account *next = policy->accounts->next;
        free(policy->accounts);
        policy->accounts = next;
    }
}
