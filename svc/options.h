/* What quernd was asked to do: command line and environment, checked once. */
#ifndef QUERN_SVC_OPTIONS_H
#define QUERN_SVC_OPTIONS_H

#include "mm/arena.h"
#include "ops/attention.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct options {
    bool help, version; /* print that and end */
    unsigned verbose;
    const char *model;  /* path; NULL where not given */
    const char *socket; /* path; NULL: the default, see options_default_socket */
    const char *isa;    /* QUERN_ISA, or NULL for the best */
    unsigned threads;   /* 0: as many as affinity and cgroup allow */
    uint32_t context;   /* positions a sequence may have; 0: the smaller of the model's and 8,192 */
    enum ops_kv_type kv_type;
    enum mm_huge_policy huge_pages;
    const char *image;             /* packed image: "auto", a path, or NULL: none */
    const char *cache_folder;      /* for images that cannot lie beside the model; or NULL */
    const char *store;             /* warm restarts: "auto", "hugetlbfs", a folder, or NULL: none */
    uint64_t memory_limit_bytes;   /* 0: what the machine has */
    uint64_t kv_bytes;             /* of the KV pool; 0: four contexts, a quarter of the memory */
    uint32_t sequences;            /* that run at once */
    uint32_t token_gap_ms;         /* what a prefill may add between two tokens of others */
    uint32_t queue;                /* requests that may wait, all clients together */
    uint32_t connections;          /* clients, all together */
    uint32_t connections_per_user; /* clients of one uid */
    uint32_t requests_per_user;    /* requests of one uid, waiting or running */
    bool share_prefixes;           /* the prefix cache is shared by all uids */
};

/* Fills *ret. 0, or -EINVAL with one sentence that names the option and what it may be. The strings
 * in *ret belong to argv and the environment. */
int options_parse(struct options *ret, int argc, char **argv, char *why, size_t why_size);

/* Where the service listens when nothing was said: $QUERN_SOCKET, else quern.sock in
 * $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/quern, else in /run/quern. 0 or -ENAMETOOLONG. */
int options_default_socket(char *ret, size_t size);

extern const char options_help[]; /* the text of --help */

#endif
