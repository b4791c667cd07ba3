/* What runs in the next step: admission, order, fairness and the size of prefill chunks.
 *
 * Pure logic: it owns no memory of requests, calls no clock and knows no model, so that a test can
 * run days of load through it in virtual time. The engine embeds a sched_entry in each sequence.
 *
 * Promises:
 *   - An admitted entry has all the pages that it may ever need reserved: it can always end.
 *   - Order of admission: class, one class better for each SCHED_AGING_US of waiting; then the user
 *     who was served least (weighted); then who came first. The first in that order is never passed
 *     over for a smaller one, so nobody starves.
 *   - Where the first has a better class than what runs (and would have a better place in the queue)
 *     and its pages or a slot are taken, the worst of what runs is set back to the queue
 *     (sched_set_back) and computed again later. Entries whose client does not read (parked) are
 *     set back for anybody.
 *   - Every runnable entry that has one token to compute gets its row in every step. The others
 *     share a chunk, short prompts whole, then equal parts, so that none is held up by a long one.
 *     The chunk is as large as lets a step end within the token gap, by the measured cost of a row
 *     at its depth;
 *     beside a short prompt, whose first token comes with the step, it is a small one. */
#ifndef QUERN_SVC_SCHEDULER_H
#define QUERN_SVC_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHED_AGING_US UINT64_C(10000000)

/* A prompt of so many rows left is short: it takes about as long as reading the weights once. */
#define SCHED_SHORT_ROWS 64u

enum sched_class { SCHED_INTERACTIVE, SCHED_NORMAL, SCHED_BATCH };
enum sched_state { SCHED_NONE, SCHED_WAITING, SCHED_RUNNING };

/* What a user (uid) has consumed; owned by the caller, who keeps one for each user. */
struct sched_user {
    uint64_t served;      /* rows computed, divided by weight, in 1/1,024 */
    uint32_t weight;      /* 1 … 1,024; the share of a user grows with it */
    uint32_t n_entries;   /* waiting or running */
    uint32_t n_pages;     /* reserved by what runs */
    uint32_t n_pages_max; /* set by the owner; 0: no limit. Who would be over it waits, and is
                             passed over by other users' entries meanwhile */
};

struct sched_entry {
    /* Set by the owner before sched_add. */
    struct sched_user *user;
    enum sched_class class_;
    uint64_t arrival_us;
    uint32_t n_total;  /* positions it may need at most, the prompt's included */
    uint32_t rows_max; /* rows a step at most; 0: no bound of its own */
    /* Kept up to date by the owner. */
    uint32_t n_known; /* tokens known; n_known - n_done are to be computed */
    uint32_t n_done;  /* positions computed */
    bool parked;      /* its client does not read: not to be planned */
    bool held;        /* another one computes the same prefix: not to be planned for now */
    /* The scheduler's. */
    enum sched_state state;
    uint32_t n_pages; /* reserved */
    uint64_t admitted_us;
    uint32_t position; /* while waiting: entries before it, as of the last sched_admit */
};

struct sched_options {
    uint32_t n_pages;      /* of the pool */
    uint32_t page_len;     /* positions in a page */
    uint32_t n_running;    /* entries that run at once */
    uint32_t n_waiting;    /* entries that wait at most */
    uint32_t chunk_max;    /* prefill rows a step at most */
    uint64_t token_gap_us; /* the target */
    bool has_company;      /* see sched_set_token_gap */
};

struct sched_item {
    struct sched_entry *entry;
    uint32_t n_rows;
};

struct sched;

int sched_new(struct sched **ret, const struct sched_options *options);
void sched_free(struct sched *sched);

/* Puts an entry in the queue. 0; -ENOBUFS: the queue is full; -E2BIG: it needs more pages than the
 * pool has. */
int sched_add(struct sched *sched, struct sched_entry *entry);

/* Takes an entry out, waiting or running (ended, cancelled); fine for one that is in neither. */
void sched_remove(struct sched *sched, struct sched_entry *entry);

/* Moves a running entry back to the queue: its owner gives up its pages and sets n_done to 0. */
void sched_set_back(struct sched *sched, struct sched_entry *entry);

/* The next entry to be admitted, now running, or NULL. Where room must be made first, *ret_victim
 * is a running entry that the caller is to set back (with sched_set_back) before it calls again,
 * and the result is NULL. */
struct sched_entry *sched_admit(struct sched *sched, uint64_t now_us,
                                struct sched_entry **ret_victim);

/* The next step: *ret_items, valid until the next call. The result is their number. */
size_t sched_plan(struct sched *sched, const struct sched_item **ret_items);

/* The step that was planned last took step_us. Charges users and, where all of it was computed,
 * learns costs. */
void sched_step_done(struct sched *sched, uint64_t step_us, bool complete);

/* Whether the next to be admitted fits beside what runs and has a short prompt: it is worth giving
 * up a long chunk for (see SCHED_SHORT_ROWS). */
bool sched_short_waits(struct sched *sched, uint64_t now_us);

/* Whether an entry has more left than a short prompt: its rows of a step, however few where they stand
 * deep, are what makes way. */
bool sched_is_long(const struct sched_entry *entry);

/* What the step that was planned last should take, in µs; 0 before anything was measured. */
uint64_t sched_estimate_step(const struct sched *sched);

/* Another target from the next step on. `alone`: no other scheduler has steps between its own. */
void sched_set_token_gap(struct sched *sched, uint64_t token_gap_us, bool alone);

/* Pages that are pinned, and so not to be promised: at most what leaves room for the largest entry
 * that may come. Whoever grows them gives up a reservation of as many first. */
void sched_set_pinned(struct sched *sched, uint32_t n_pages);

uint32_t sched_n_running(const struct sched *sched);
uint32_t sched_n_waiting(const struct sched *sched);
uint32_t sched_pages_reserved(const struct sched *sched);

/* A running entry, in order of admission. */
struct sched_entry *sched_running(const struct sched *sched, uint32_t index);

/* Whether a waiting entry waits for its own user's limit of pages, not for its turn. */
bool sched_waits_for_share(const struct sched *sched, const struct sched_entry *entry);

/* The waiting entry at a position, in the order of the last sched_admit. */
struct sched_entry *sched_waiting(const struct sched *sched, uint32_t position);

/* Estimates from measured costs, in µs; 0 before anything was measured. */
uint64_t sched_estimate_prefill(const struct sched *sched, uint32_t n_tokens);
uint64_t sched_estimate_short(const struct sched *sched); /* a step for a short prompt alone */
uint64_t sched_estimate_wait(const struct sched *sched, uint32_t position);

#endif
