/* What quernd was asked to do: command line, configuration and environment, checked once.
 *
 * One table (options.c) names every option; the command line, quern.conf (config.h), --check-config
 * and a reload (reload.h) all read it, so that none of them knows an option that another does not. */
#ifndef QUERN_SVC_OPTIONS_H
#define QUERN_SVC_OPTIONS_H

#include "mm/arena.h"
#include "ops/attention.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum options_rope { OPTIONS_ROPE_FILE, OPTIONS_ROPE_NONE, OPTIONS_ROPE_LINEAR, OPTIONS_ROPE_YARN };
#define OPTIONS_POOL_OFF       UINT64_MAX
#define OPTIONS_MODELS_MAX     8u
#define OPTIONS_MODEL_NAME_MAX 40u /* bytes of a name that is given: letters, digits and . _ - : */

struct option_text; /* a string that belongs to the options it was set in */

/* A model, and the values that each may have for itself. */
struct options_model {
    const char *name; /* as it was given; NULL: the file's own */
    const char *path; /* NULL: not given yet */
    bool is_default;  /* "model" of the section [service] */
    uint64_t given;   /* bit of each row of the table that was given for it alone */
    uint32_t context; /* positions a sequence may have; 0: the smaller of the model's and 8,192 */
    enum ops_kv_type kv_type;
    enum options_rope rope_scaling; /* in place of what the model file says */
    double rope_factor;             /* 0: not given */
    uint32_t rope_original;         /* trained length; 0: the file's context */
    uint64_t kv_bytes;              /* of the KV pool; 0: four contexts, a quarter of the memory */
    uint32_t sequences;             /* that run at once */
};

struct options_models {
    struct options_model all[OPTIONS_MODELS_MAX];
    uint32_t n;
};

struct options {
    bool help, version, check_config, drop_weights; /* do that and end */
    const char *config;                             /* the file that was read, or NULL: none */
    uint32_t verbose;
    struct options_models models; /* the first is the default */
    struct options_model each;    /* what a model has that was given no value of its own */
    const char *socket;           /* path; NULL: the default, see options_default_socket */
    const char *isa;              /* QUERN_ISA, or NULL for the best */
    uint32_t threads;             /* 0: as many as affinity and cgroup allow */
    enum mm_huge_policy huge_pages;
    const char *numa;              /* "interleave", a node's number, or NULL: as the kernel likes */
    const char *image;             /* packed image: "auto", a path, or NULL: none */
    const char *cache_folder;      /* for images that cannot lie beside the model; or NULL */
    const char *store;             /* warm restarts: "auto", "hugetlbfs", a folder, or NULL: none */
    uint64_t memory_limit_bytes;   /* 0: what the machine has */
    uint64_t huge_page_pool;       /* bytes; 0: as many as the model needs; OPTIONS_POOL_OFF */
    uint32_t token_gap_ms;         /* what a prefill may add between two tokens of others */
    uint32_t queue;                /* requests that may wait, all clients together */
    uint32_t connections;          /* clients, all together */
    uint32_t connections_per_user; /* clients of one uid */
    uint32_t requests_per_user;    /* requests of one uid, waiting or running */
    const char *policy;            /* path of the policy file, "auto": the standard one if it is
                                      there, or NULL: none */
    uint32_t drain_s;              /* SIGTERM: how long running requests may go on */
    uint32_t exit_on_idle_s;       /* without a client; 0: never */
    const char *metrics;       /* where the page is served, besides systemd's sockets; or NULL */
    bool share_prefixes;       /* the prefix cache is shared by all uids */
    struct option_text *texts; /* options_done frees them */
};

/* One row of the table. */
struct option_row {
    const char *name;    /* "--name" on the command line, "name = value" in the file */
    const char *section; /* of the file; NULL: command line only */
    enum option_kind {
        OPTION_TEXT,   /* const char * */
        OPTION_OFF,    /* const char *, "off" is NULL */
        OPTION_NUMBER, /* uint32_t, low … high */
        OPTION_REAL,   /* double, low … high */
        OPTION_SIZE,   /* uint64_t, bytes, or the value of one of `words` */
        OPTION_WORD,   /* an enum, one of `words` */
        OPTION_FLAG,   /* bool: yes or no; without a value on the command line */
        OPTION_MODEL,  /* [NAME=]FILE, the default model; on the command line a further one */
    } kind;
    bool live; /* a reload changes it in a running service */
    bool each; /* a model may have its own: offset is that in `each` */
    uint32_t low, high;
    size_t offset; /* in struct options */
    const struct option_word {
        const char *word;
        int value; /* of a size: −1 is UINT64_MAX */
    } * words;     /* ends with a NULL word */
};

extern const struct option_row options_table[]; /* ends with a NULL name */

/* The row of a name, or NULL. */
const struct option_row *options_find(const char *name);

/* The name in the table that is nearest to a misspelt one (restricted to a section where that is not
 * NULL), or NULL where none is near. */
const char *options_nearest(const char *name, const char *section);

/* Sets one option from its text, which is copied. 0, or -EINVAL with the rest of a sentence that
 * begins with the option's name; -ENOMEM. */
int options_set(struct options *options, const struct option_row *row, const char *text, char *why,
                size_t why_size);

/* The same for the model of a name alone, which is added where there is none; row NULL: its file. */
int options_set_of(struct options *options, const char *name, const struct option_row *row,
                   const char *text, char *why, size_t why_size);

/* Whether two sets of options agree in a row that is not one of each model's. */
bool options_equal(const struct options *a, const struct options *b, const struct option_row *row);

/* Takes a row's value over from `from` to `to`. 0 or -ENOMEM. Models: with all that is theirs. */
int options_copy(struct options *to, const struct options *from, const struct option_row *row);

/* Whether two models are the same file under the same name; whether they agree in a row of `each`. */
bool options_same_model(const struct options_model *a, const struct options_model *b);
bool options_equal_of(const struct options_model *a, const struct options_model *b,
                      const struct option_row *row);
void options_copy_of(struct options_model *to, const struct options_model *from,
                     const struct option_row *row);

/* Fills *ret: defaults, then the configuration file, then the command line. A file is read where
 * --config names one; else ~/.config/quern/quern.conf or /etc/quern/quern.conf, where neither --config nor --model was given (and
 * none with --check-config: that is the caller's to do). 0,
 * or -EINVAL with one sentence that names the option (or file and line) and what it may be. What
 * was filled is freed by options_done. */
int options_parse(struct options *ret, int argc, char **argv, char *why, size_t why_size);
void options_done(struct options *options);

/* What options_parse does last, for options that were read otherwise: gives each model the values that
 * it has none of its own for. 0, or -EINVAL with a sentence: a model without a file, or values that do
 * not go together. */
int options_complete(struct options *options, char *why, size_t why_size);

/* Where the service listens when nothing was said: $QUERN_SOCKET, else quern.sock in
 * $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/quern, else in /run/quern. 0 or -ENAMETOOLONG. */
int options_default_socket(char *ret, size_t size);

extern const char options_help[]; /* the text of --help */

#endif
