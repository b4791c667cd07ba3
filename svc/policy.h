/* Who may talk, and how much: one account for each uid, with the limits that the administrator set
 * for it (policy_file.h reads them). The identity is the kernel's word (SO_PEERCRED); nothing that
 * a client says counts.
 *
 * A limit that is reached is a refusal: a code and a sentence with the numbers, which the client
 * gets as an event or in place of a welcome. Each is counted by its cause; the journal gets the
 * first of a cause, and then at most one a minute that says how many were left out. */
#ifndef QUERN_SVC_POLICY_H
#define QUERN_SVC_POLICY_H

#include "ipc/session.h"
#include "svc/journal.h"
#include "svc/options.h"
#include "svc/scheduler.h"

#include <sys/types.h>

struct policy_limits {
    bool connect;           /* may talk to the service at all */
    uint16_t best_priority; /* enum ipc_priority: the best that may be asked for */
    uint32_t connections;   /* at once */
    uint32_t requests;      /* waiting or running */
    uint32_t kv_percent;    /* of the KV cache, running sequences together: 1 … 100 */
    uint32_t weight;        /* of its share of the computing time: 1 … 1,024 */
    uint64_t region_bytes;  /* shared memory of its connections together */
    uint64_t queued_tokens; /* prompt tokens of its requests that wait for their turn */
};

struct policy_rule { /* a section of the policy file */
    struct policy_rule *next;
    bool is_group;
    id_t id; /* uid or gid */
    struct policy_limits limits;
};

enum policy_cause {
    POLICY_OVERFLOW_UID,
    POLICY_DENIED,
    POLICY_SERVICE_CONNECTIONS, /* the service's own limit */
    POLICY_CONNECTIONS,
    POLICY_REGION_BYTES,
    POLICY_REQUESTS,
    POLICY_QUEUED_TOKENS,
    POLICY_KV_SHARE,
    POLICY_PRIORITY,
    POLICY_VIOLATION,   /* of the protocol */
    POLICY_DESCRIPTORS, /* none left to accept with */
    POLICY_N_CAUSES,
};

struct policy_refusal {
    enum policy_cause cause;
    enum ipc_code code; /* IPC_CODE_DENIED, or IPC_CODE_BUSY for what may be tried later */
    char sentence[IPC_SENTENCE_MAX];
};

struct account {
    struct account *next;
    uid_t uid;
    struct policy_limits limits;
    struct sched_user users[OPTIONS_MODELS_MAX]; /* of each model (engine.slot) */
    uint32_t n_connections;
    uint32_t n_requests; /* waiting or running */
    uint64_t region_bytes;
    uint64_t queued_tokens;
    uint32_t n_pins;                             /* pins.h */
    uint32_t n_pinned_pages[OPTIONS_MODELS_MAX]; /* of each model */
};

struct policy {
    uint32_t connections_max;    /* of the service */
    struct policy_limits base;   /* defaults and options of the command line */
    struct policy_limits preset; /* for those without a section: base, and [default] over it */
    struct policy_rule *rules;   /* in the order of the file */
    uint32_t n_connections;
    struct account *accounts; /* one for each uid that ever came; kept for its fair share */
    struct {
        uint64_t n, n_unsaid;
        uint64_t next_log_us; /* 0: none was logged yet */
    } refused[POLICY_N_CAUSES];
};

/* What those get who have no section, where nothing was said. */
extern const struct policy_limits policy_limits_default;

void policy_done(struct policy *policy);

/* The account of a peer, made where there is none yet. Its limits are looked up anew for each peer:
 * the section of its uid, else the first of a group that it is in, else the preset. NULL: no
 * memory. */
struct account *policy_account(struct policy *policy, const struct ipc_peer *peer);

/* Each of these counts something for an account, or returns -EBUSY or -EACCES with the refusal. */
int policy_connect(struct policy *policy, struct account *account, struct policy_refusal *ret);
int policy_regions(struct policy *policy, struct account *account, uint64_t n_bytes,
                   struct policy_refusal *ret);
int policy_request(struct policy *policy, struct account *account, struct policy_refusal *ret);
int policy_queue(struct policy *policy, struct account *account, uint64_t n_tokens,
                 struct policy_refusal *ret);

/* And the way back. */
void policy_disconnect(struct policy *policy, struct account *account, uint64_t n_region_bytes);
void policy_request_done(struct account *account);
void policy_unqueue(struct account *account, uint64_t *n_tokens); /* sets it to 0 */

/* The class of a priority that was asked for. "Normal" is what a client asks for that says nothing:
 * it becomes batch where the policy allows no better. -EACCES with the refusal. */
int policy_priority(struct policy *policy, const struct account *account, uint16_t priority,
                    enum sched_class *ret_class, struct policy_refusal *ret);

/* Pages of a cache of n_pages, that of the model in this slot, that the account may hold: at least
 * one. A sequence that needs more by itself is refused here. */
int policy_kv_share(struct policy *policy, struct account *account, uint32_t slot, uint32_t n_pages,
                    uint32_t n_needed, uint32_t page_len, struct policy_refusal *ret);

/* Counts and, where it is due, logs a refusal. */
void policy_log(struct policy *policy, enum policy_cause cause, const char *sentence,
                const struct journal_context *context, uint64_t now_us);

const char *policy_cause_name(enum policy_cause cause); /* as status has it: "queued_tokens" */

#endif
