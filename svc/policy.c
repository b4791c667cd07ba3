/* Who may talk, and how much (see policy.h). */
#include "svc/policy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define LOG_EVERY_US UINT64_C(60000000)

enum { OVERFLOW_UID = 65534, GROUPS_MAX = 1024 };

const struct policy_limits policy_limits_default = {
    .connect = true,
    .best_priority = IPC_PRIORITY_INTERACTIVE,
    .connections = 256,
    .requests = 512,
    .kv_percent = 100,
    .weight = 1,
    .region_bytes = UINT64_C(1) << 30,
    .queued_tokens = UINT64_C(1) << 20,
};

void policy_done(struct policy *policy)
{
    while (policy->accounts) {
        struct account *next = policy->accounts->next;
        free(policy->accounts);
        policy->accounts = next;
    }
    while (policy->rules) {
        struct policy_rule *next = policy->rules->next;
        free(policy->rules);
        policy->rules = next;
    }
}

__attribute__((format(printf, 5, 6))) static int refuse(struct policy_refusal *ret, int error,
                                                        enum policy_cause cause, enum ipc_code code,
                                                        const char *format, ...)
{
    va_list args;
    ret->cause = cause;
    ret->code = code;
    va_start(args, format);
    vsnprintf(ret->sentence, sizeof ret->sentence, format, args);
    va_end(args);
    return error;
}

/* ---- accounts ------------------------------------------------------------------------------ */

static bool is_member(const struct ipc_peer *peer, const gid_t *groups, int n_groups, gid_t gid)
{
    for (int i = 0; i < n_groups; i++)
        if (groups[i] == gid)
            return true;
    return peer->gid == gid;
}

static struct policy_limits limits_of(const struct policy *policy, const struct ipc_peer *peer)
{
    gid_t groups[GROUPS_MAX];
    int n_groups = -1; /* not asked for yet */
    for (const struct policy_rule *r = policy->rules; r; r = r->next)
        if (!r->is_group && r->id == peer->uid)
            return r->limits;
    for (const struct policy_rule *r = policy->rules; r; r = r->next) {
        if (!r->is_group)
            continue;
        if (n_groups < 0)
            n_groups = ipc_peer_groups(peer, groups, GROUPS_MAX);
        if (is_member(peer, groups, n_groups, r->id))
            return r->limits;
    }
    return policy->preset;
}

struct account *policy_account(struct policy *policy, const struct ipc_peer *peer)
{
    struct account *a = policy->accounts;
    while (a && a->uid != peer->uid)
        a = a->next;
    if (!a) {
        a = calloc(1, sizeof *a);
        if (!a)
            return NULL;
        a->uid = peer->uid;
        a->next = policy->accounts;
        policy->accounts = a;
    }
    a->limits = limits_of(policy, peer);
    for (uint32_t i = 0; i < OPTIONS_MODELS_MAX; i++)
        a->users[i].weight = a->limits.weight;
    return a;
}

/* ---- limits -------------------------------------------------------------------------------- */

int policy_connect(struct policy *policy, struct account *account, struct policy_refusal *ret)
{
    const unsigned uid = (unsigned)account->uid;
    if (uid == OVERFLOW_UID)
        return refuse(ret, -EACCES, POLICY_OVERFLOW_UID, IPC_CODE_DENIED,
                      "User 65534 stands for users unknown to this user namespace and is refused; "
                      "map the client's user.");
    if (!account->limits.connect)
        return refuse(ret, -EACCES, POLICY_DENIED, IPC_CODE_DENIED,
                      "User %u may not use this service; ask its administrator.", uid);
    if (policy->n_connections >= policy->connections_max)
        return refuse(ret, -EBUSY, POLICY_SERVICE_CONNECTIONS, IPC_CODE_BUSY,
                      "The service has %u connections, as many as it takes; try later.",
                      policy->n_connections);
    if (account->n_connections >= account->limits.connections)
        return refuse(ret, -EBUSY, POLICY_CONNECTIONS, IPC_CODE_BUSY,
                      "User %u has %u connections, as many as one user may; close some.", uid,
                      account->n_connections);
    policy->n_connections++;
    account->n_connections++;
    return 0;
}

int policy_regions(struct policy *policy, struct account *account, uint64_t n_bytes,
                   struct policy_refusal *ret)
{
    (void)policy;
    if (n_bytes > account->limits.region_bytes ||
        account->region_bytes > account->limits.region_bytes - n_bytes)
        return refuse(ret, -EBUSY, POLICY_REGION_BYTES, IPC_CODE_BUSY,
                      "User %u has %llu KiB of shared memory, this connection wants %llu more, and "
                      "%llu are allowed; close some.",
                      (unsigned)account->uid, (unsigned long long)account->region_bytes >> 10,
                      (unsigned long long)n_bytes >> 10,
                      (unsigned long long)account->limits.region_bytes >> 10);
    account->region_bytes += n_bytes;
    return 0;
}

void policy_disconnect(struct policy *policy, struct account *account, uint64_t n_region_bytes)
{
    policy->n_connections--;
    account->n_connections--;
    account->region_bytes -= n_region_bytes;
}

int policy_request(struct policy *policy, struct account *account, struct policy_refusal *ret)
{
    (void)policy;
    if (account->n_requests >= account->limits.requests)
        return refuse(ret, -EBUSY, POLICY_REQUESTS, IPC_CODE_BUSY,
                      "User %u has %u requests here, as many as one user may; try later.",
                      (unsigned)account->uid, account->n_requests);
    account->n_requests++;
    return 0;
}

void policy_request_done(struct account *account)
{
    account->n_requests--;
}

int policy_queue(struct policy *policy, struct account *account, uint64_t n_tokens,
                 struct policy_refusal *ret)
{
    (void)policy;
    if (n_tokens > account->limits.queued_tokens ||
        account->queued_tokens > account->limits.queued_tokens - n_tokens)
        return refuse(ret, -EBUSY, POLICY_QUEUED_TOKENS, IPC_CODE_BUSY,
                      "User %u has %llu prompt tokens waiting, this request has %llu, and %llu may "
                      "wait; try later.",
                      (unsigned)account->uid, (unsigned long long)account->queued_tokens,
                      (unsigned long long)n_tokens,
                      (unsigned long long)account->limits.queued_tokens);
    account->queued_tokens += n_tokens;
    return 0;
}

void policy_unqueue(struct account *account, uint64_t *n_tokens)
{
    account->queued_tokens -= *n_tokens;
    *n_tokens = 0;
}

int policy_priority(struct policy *policy, const struct account *account, uint16_t priority,
                    enum sched_class *ret_class, struct policy_refusal *ret)
{
    static const char *const names[] = {"normal", "interactive", "batch"};
    const uint16_t best = account->limits.best_priority;
    (void)policy;
    if (priority == IPC_PRIORITY_INTERACTIVE && best != IPC_PRIORITY_INTERACTIVE)
        return refuse(ret, -EACCES, POLICY_PRIORITY, IPC_CODE_DENIED,
                      "Priority %u (interactive) is above what user %u may ask for: %u (%s).",
                      priority, (unsigned)account->uid, best, names[best]);
    *ret_class = priority == IPC_PRIORITY_INTERACTIVE                           ? SCHED_INTERACTIVE
                 : priority == IPC_PRIORITY_BATCH || best == IPC_PRIORITY_BATCH ? SCHED_BATCH
                                                                                : SCHED_NORMAL;
    return 0;
}

int policy_kv_share(struct policy *policy, struct account *account, uint32_t slot, uint32_t n_pages,
                    uint32_t n_needed, uint32_t page_len, struct policy_refusal *ret)
{
    uint32_t share = (uint32_t)((uint64_t)n_pages * account->limits.kv_percent / 100);
    (void)policy;
    if (share == 0)
        share = 1;
    account->users[slot].n_pages_max = account->limits.kv_percent < 100 ? share : 0;
    if (n_needed > share)
        return refuse(ret, -EACCES, POLICY_KV_SHARE, IPC_CODE_DENIED,
                      "The sequence may need %u positions of the cache, but user %u may hold %u "
                      "(%u %% of it); ask for fewer tokens.",
                      n_needed * page_len, (unsigned)account->uid, share * page_len,
                      account->limits.kv_percent);
    return 0;
}

/* ---- the journal --------------------------------------------------------------------------- */

void policy_log(struct policy *policy, enum policy_cause cause, const char *sentence,
                const struct journal_context *context, uint64_t now_us)
{
    char more[80] = "";
    policy->refused[cause].n++;
    if (now_us < policy->refused[cause].next_log_us) {
        policy->refused[cause].n_unsaid++;
        return;
    }
    if (policy->refused[cause].n_unsaid)
        snprintf(more, sizeof more, " (and %llu more of this kind before)",
                 (unsigned long long)policy->refused[cause].n_unsaid);
    policy->refused[cause].n_unsaid = 0;
    policy->refused[cause].next_log_us = now_us + LOG_EVERY_US;
    journal_event(cause == POLICY_VIOLATION ? JOURNAL_VIOLATION : JOURNAL_REFUSED, JOURNAL_WARNING,
                  context, "refused (%s): %s%s", policy_cause_name(cause), sentence, more);
}

const char *policy_cause_name(enum policy_cause cause)
{
    static const char *const names[POLICY_N_CAUSES] = {
        [POLICY_OVERFLOW_UID] = "overflow_uid",
        [POLICY_DENIED] = "denied",
        [POLICY_SERVICE_CONNECTIONS] = "service_connections",
        [POLICY_CONNECTIONS] = "connections",
        [POLICY_REGION_BYTES] = "region_bytes",
        [POLICY_REQUESTS] = "requests",
        [POLICY_QUEUED_TOKENS] = "queued_tokens",
        [POLICY_KV_SHARE] = "kv_share",
        [POLICY_PRIORITY] = "priority",
        [POLICY_VIOLATION] = "violation",
        [POLICY_DESCRIPTORS] = "descriptors",
    };
    return names[cause];
}
