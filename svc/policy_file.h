/* The policy file: who may talk to the service, and how much.
 *
 *     [default]                  ; all who have no section of their own
 *     priority = normal
 *     [user backup]              ; name or number
 *     priority = batch
 *     [group editors]            ; primary or supplementary
 *     kv-share = 50
 *     [user www-data]
 *     connect = no
 *
 * Keys: connect (yes, no), connections, requests, region-bytes and queued-tokens (K, M, G),
 * kv-share (percent), priority (interactive, normal, batch), weight. What a section leaves out is
 * as in [default], which stands first where it is given. */
#ifndef QUERN_SVC_POLICY_FILE_H
#define QUERN_SVC_POLICY_FILE_H

#include "svc/policy.h"

#define POLICY_FILE_DEFAULT "/etc/quern/policy.conf"

/* Reads the rules of *policy anew: from path, from POLICY_FILE_DEFAULT if it is there ("auto"), or
 * none (NULL). They count for every connection from then on. 0, or -errno with one sentence that
 * names file and line; *policy is as it was then. */
int policy_reload(struct policy *policy, const char *path, char *why, size_t why_size);

#endif
