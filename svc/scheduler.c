/* What runs in the next step (see scheduler.h for the promises). */
#include "svc/scheduler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_FIRST = 64, /* before any cost is known */
    CHUNK_MIN = 8,
    /* Fewer rows than this take about as long as reading the weights once: their time says what a
     * row costs only beside a plain step. */
    LEARN_ROWS = 32,
    /* With nobody decoding a step may take this many gaps: a larger chunk is cheaper a row, and
     * newcomers and cancels still get in soon. */
    ALONE_GAPS = 3,
    /* Up to here the positions before a row cost next to nothing: what its matrices cost is learned
     * there, and what each position before it adds, deeper. */
    SHALLOW = 1024,
};

struct rank {
    uint64_t class_; /* with aging */
    uint64_t served;
    uint64_t arrival_us;
    struct sched_entry *entry;
};

struct sched {
    struct sched_options o;
    struct sched_entry **waiting; /* (n_waiting + n_running) in order once sorted */
    struct rank *ranks;           /* (n_waiting + n_running) scratch of sorting */
    uint32_t n_waiting;
    struct sched_entry **running; /* (n_running) in order of admission */
    uint32_t n_running;
    uint32_t pages_reserved, pages_pinned;
    uint64_t sorted_us; /* 0: the order must be made again */
    struct sched_item *items;
    size_t n_items;
    uint32_t turn; /* whose share is rounded up: rotates */
    /* Measured, exponentially weighted; 0: not yet. */
    double plain_us;    /* a step of decoding rows alone */
    double per_row_us;  /* what a prefill row adds where nothing stands before it */
    double per_key_us;  /* and what each position before it adds to that */
    double interval_us; /* between two admissions while somebody waited */
    uint64_t last_admission_us;
};

static const double LEARN = 0.2;
/* Of the token gap: what a step aims at. Nearly all gaps are to be within the target, and a row costs
 * more the deeper it stands. */
static const double AIM = 2.0 / 3;
/* Beside a short prompt a step takes at most so many times what that would take alone: it has waited for
 * the layer that was being computed, and its first token is to come within three times. */
static const double SHORT_TIMES = 1.5;
static const uint64_t RESORT_US = 200000; /* aging moves slowly */

int sched_new(struct sched **ret, const struct sched_options *options)
{
    struct sched *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->o = *options;
    const size_t n_waiting_max = (size_t)options->n_waiting + options->n_running;
    s->waiting = calloc(n_waiting_max, sizeof *s->waiting);
    s->ranks = calloc(n_waiting_max, sizeof *s->ranks);
    s->running = calloc(options->n_running, sizeof *s->running);
    s->items = calloc(options->n_running, sizeof *s->items);
    if (!s->waiting || !s->ranks || !s->running || !s->items) {
        sched_free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

void sched_free(struct sched *sched)
{
    if (!sched)
        return;
    free(sched->waiting);
    free(sched->ranks);
    free(sched->running);
    free(sched->items);
    free(sched);
}

/* ---- costs --------------------------------------------------------------------------------- */

/* Of n rows from a position on. */
static double prefill_us(const struct sched *s, double position, double n)
{
    return n * (s->per_row_us + s->per_key_us * (position + n / 2));
}

/* A step of few rows, be they decoded or of a prompt: what reading the weights takes. */
static double few_rows_us(const struct sched *s)
{
    return s->plain_us > 0 ? s->plain_us : prefill_us(s, 0, LEARN_ROWS);
}

static double learned(double old, double seen)
{
    return old > 0 ? old + LEARN * (seen - old) : seen;
}

/* n rows with `position` positions before them on the average took us. A row deep in a long prompt
 * costs many times what one of a short prompt does, so the two are kept apart. */
static void learn_prefill(struct sched *s, double us, double n, double position)
{
    const double per_row = us / n, shallow = per_row - s->per_key_us * position;
    if (position < SHALLOW || !(s->per_row_us > 0))
        s->per_row_us = learned(s->per_row_us, shallow > per_row / 2 ? shallow : per_row / 2);
    else
        s->per_key_us = learned(s->per_key_us,
                                per_row > s->per_row_us ? (per_row - s->per_row_us) / position : 0);
}

/* ---- users --------------------------------------------------------------------------------- */

/* A user who comes back after a rest starts level with the least served of those who are here:
 * rest earns no credit. */
static void user_enter(struct sched *s, struct sched_user *user)
{
    if (user->n_entries++ > 0)
        return;
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < s->n_waiting + s->n_running; i++) {
        const struct sched_entry *e =
            i < s->n_waiting ? s->waiting[i] : s->running[i - s->n_waiting];
        if (e->user != user && e->user->served < least)
            least = e->user->served;
    }
    if (least != UINT64_MAX && user->served < least)
        user->served = least;
}

/* ---- the queue ----------------------------------------------------------------------------- */

static uint32_t pages_needed(const struct sched *s, const struct sched_entry *e)
{
    return (uint32_t)(((uint64_t)e->n_total + s->o.page_len - 1) / s->o.page_len);
}

int sched_add(struct sched *sched, struct sched_entry *entry)
{
    if (pages_needed(sched, entry) > sched->o.n_pages)
        return -E2BIG;
    if (sched->n_waiting >= sched->o.n_waiting)
        return -ENOBUFS;
    user_enter(sched, entry->user);
    entry->state = SCHED_WAITING;
    entry->n_pages = 0;
    entry->position = sched->n_waiting;
    sched->waiting[sched->n_waiting++] = entry;
    sched->sorted_us = 0;
    return 0;
}

static void take_out(struct sched_entry **list, uint32_t *n, const struct sched_entry *entry)
{
    uint32_t i = 0;
    while (i < *n && list[i] != entry)
        i++;
    if (i == *n)
        return;
    memmove(list + i, list + i + 1, (*n - i - 1) * sizeof *list);
    --*n;
}

static void give_pages(struct sched *s, struct sched_entry *entry)
{
    s->pages_reserved -= entry->n_pages;
    entry->user->n_pages -= entry->n_pages;
    entry->n_pages = 0;
}

void sched_remove(struct sched *sched, struct sched_entry *entry)
{
    if (entry->state == SCHED_NONE)
        return;
    if (entry->state == SCHED_WAITING) {
        take_out(sched->waiting, &sched->n_waiting, entry);
        sched->sorted_us = 0;
    } else {
        take_out(sched->running, &sched->n_running, entry);
        give_pages(sched, entry);
    }
    entry->state = SCHED_NONE;
    entry->user->n_entries--;
}

void sched_set_back(struct sched *sched, struct sched_entry *entry)
{
    take_out(sched->running, &sched->n_running, entry);
    give_pages(sched, entry);
    /* It is owed its end: the bound of the queue does not apply, the array has room for it. */
    entry->state = SCHED_WAITING;
    sched->waiting[sched->n_waiting++] = entry;
    sched->sorted_us = 0;
}

/* ---- admission ----------------------------------------------------------------------------- */

static int by_rank(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->class_ != y->class_)
        return x->class_ < y->class_ ? -1 : 1;
    if (x->served != y->served)
        return x->served < y->served ? -1 : 1;
    return x->arrival_us < y->arrival_us ? -1 : x->arrival_us > y->arrival_us;
}

static struct rank rank_of(struct sched_entry *e, uint64_t now_us)
{
    uint64_t waited = now_us > e->arrival_us ? now_us - e->arrival_us : 0;
    uint64_t better = waited / SCHED_AGING_US;
    uint64_t class_ = (uint64_t)e->class_;
    /* From the best class on, waiting longer counts before the user's share does: the bound on
     * starvation. */
    return (struct rank){.class_ = better > class_ ? 0 : class_ - better,
                         .served = better > class_ + 1 ? 0 : e->user->served,
                         .arrival_us = e->arrival_us,
                         .entry = e};
}

static void sort_queue(struct sched *s, uint64_t now_us)
{
    if (s->sorted_us && now_us - s->sorted_us < RESORT_US)
        return;
    for (uint32_t i = 0; i < s->n_waiting; i++)
        s->ranks[i] = rank_of(s->waiting[i], now_us);
    qsort(s->ranks, s->n_waiting, sizeof *s->ranks, by_rank);
    for (uint32_t i = 0; i < s->n_waiting; i++) {
        s->waiting[i] = s->ranks[i].entry;
        s->waiting[i]->position = i;
    }
    s->sorted_us = now_us ? now_us : 1;
}

static uint32_t pages_free(const struct sched *s)
{
    return s->o.n_pages - s->pages_reserved - s->pages_pinned;
}

static bool fits(const struct sched *s, const struct sched_entry *e)
{
    return s->n_running < s->o.n_running && pages_needed(s, e) <= pages_free(s);
}

/* A better class, and a better place in the queue as well: with aging the one set back might come
 * before `first` again, and the two would take turns for ever. */
static bool may_displace(struct sched_entry *first, struct sched_entry *running, uint64_t now_us)
{
    struct rank ours = rank_of(first, now_us), theirs = rank_of(running, now_us);
    return running->parked || (running->class_ > first->class_ && by_rank(&ours, &theirs) < 0);
}

/* Whom to set back so that `first` fits: parked before others, then the worst class, then the
 * youngest. NULL where not even all of them together would do. */
static struct sched_entry *choose_victim(const struct sched *s, struct sched_entry *first,
                                         uint64_t now_us)
{
    struct sched_entry *victim = NULL;
    uint32_t pages = pages_free(s), slots = s->o.n_running - s->n_running;
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct sched_entry *e = s->running[i];
        if (!may_displace(first, e, now_us))
            continue;
        pages += e->n_pages;
        slots++;
        if (!victim || e->parked > victim->parked ||
            (e->parked == victim->parked && e->class_ >= victim->class_))
            victim = e;
    }
    return slots > 0 && pages >= pages_needed(s, first) ? victim : NULL;
}

bool sched_waits_for_share(const struct sched *sched, const struct sched_entry *entry)
{
    const struct sched_user *user = entry->user;
    return user->n_pages_max && user->n_pages + pages_needed(sched, entry) > user->n_pages_max;
}

/* What runs of the same user, whose client does not read: it is not to hold the user's share. */
static struct sched_entry *parked_of(const struct sched *s, const struct sched_user *user)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->running[i]->user == user && s->running[i]->parked)
            return s->running[i];
    return NULL;
}

bool sched_short_waits(struct sched *sched, uint64_t now_us)
{
    struct sched *s = sched;
    sort_queue(s, now_us);
    for (uint32_t i = 0; i < s->n_waiting; i++) {
        const struct sched_entry *e = s->waiting[i];
        if (!e->parked && !sched_waits_for_share(s, e))
            return fits(s, e) && e->n_known - e->n_done <= SCHED_SHORT_ROWS;
    }
    return false;
}

struct sched_entry *sched_admit(struct sched *sched, uint64_t now_us,
                                struct sched_entry **ret_victim)
{
    struct sched *s = sched;
    *ret_victim = NULL;
    if (s->n_waiting == 0)
        return NULL;
    sort_queue(s, now_us);
    struct sched_entry *first = NULL;
    for (uint32_t i = 0; i < s->n_waiting && !first; i++) {
        struct sched_entry *e = s->waiting[i];
        if (e->parked) /* set back, and its client still does not read */
            continue;
        if (!sched_waits_for_share(s, e))
            first = e;
        else if ((*ret_victim = parked_of(s, e->user)))
            return NULL;
    }
    if (!first)
        return NULL;
    if (!fits(s, first)) {
        *ret_victim = choose_victim(s, first, now_us);
        return NULL;
    }
    take_out(s->waiting, &s->n_waiting, first);
    for (uint32_t i = 0; i < s->n_waiting; i++)
        s->waiting[i]->position = i;
    first->state = SCHED_RUNNING;
    first->n_pages = pages_needed(s, first);
    first->admitted_us = now_us;
    s->pages_reserved += first->n_pages;
    first->user->n_pages += first->n_pages;
    s->running[s->n_running++] = first;
    if (s->n_waiting && s->last_admission_us && now_us > s->last_admission_us) {
        s->interval_us = learned(s->interval_us, (double)(now_us - s->last_admission_us));
    }
    s->last_admission_us = now_us;
    return first;
}

/* ---- the step ------------------------------------------------------------------------------ */

static uint32_t rows_left(const struct sched_entry *e)
{
    return e->parked || e->held || e->n_known <= e->n_done ? 0 : e->n_known - e->n_done;
}

bool sched_is_long(const struct sched_entry *entry)
{
    return rows_left(entry) > SCHED_SHORT_ROWS;
}

/* Prefill rows that let the step end within the target: the token gap, or twice a plain step where
 * that is more. `position`: how many positions stand before a row of the long ones, on the
 * average. */
static uint32_t chunk_rows(const struct sched *s, bool alone, uint32_t n_short_rows,
                           double position)
{
    if (!(s->per_row_us > 0))
        return CHUNK_FIRST < s->o.chunk_max ? CHUNK_FIRST : s->o.chunk_max;
    double gap = (double)s->o.token_gap_us * AIM;
    if (gap < 2 * s->plain_us)
        gap = 2 * s->plain_us;
    const double short_us = prefill_us(s, 0, n_short_rows);
    double base_us = s->plain_us + short_us;
    if (alone && n_short_rows > 0)
        base_us = short_us > few_rows_us(s) ? short_us : few_rows_us(s);
    if (n_short_rows > 0 && gap > SHORT_TIMES * base_us)
        gap = SHORT_TIMES * base_us;
    else if (alone)
        gap *= ALONE_GAPS;
    const double left_us = gap - base_us;
    double rows = left_us > 0 ? n_short_rows + left_us / (s->per_row_us + s->per_key_us * position)
                              : (gap - s->plain_us) / s->per_row_us;
    if (rows >= s->o.chunk_max)
        return s->o.chunk_max;
    return rows > CHUNK_MIN ? (uint32_t)rows : CHUNK_MIN;
}

/* Short prompts are there whole in their first step, as far as the chunk goes. The rows left of it. */
static uint32_t serve_short(struct sched *s, size_t first, uint32_t chunk)
{
    for (size_t i = first; i < s->n_items; i++) {
        struct sched_item *item = &s->items[i];
        const uint32_t left = rows_left(item->entry), max = item->entry->rows_max;
        if (left > SCHED_SHORT_ROWS || left > chunk || (max && max < left))
            continue;
        item->n_rows = left;
        chunk -= left;
    }
    return chunk;
}

/* Shares `chunk` rows among the planned prefills: equal parts, and what the short ones leave goes
 * to the others. Rounding favours another one each step. */
static void share_chunk(struct sched *s, size_t first, uint32_t chunk)
{
    size_t n = s->n_items - first;
    bool gave = true;
    while (chunk > 0 && gave) {
        size_t hungry = 0;
        gave = false;
        for (size_t i = first; i < s->n_items; i++) {
            uint32_t left = rows_left(s->items[i].entry), max = s->items[i].entry->rows_max;
            hungry += s->items[i].n_rows < (max && max < left ? max : left);
        }
        if (hungry == 0)
            return;
        uint32_t part = chunk / (uint32_t)hungry ? chunk / (uint32_t)hungry : 1;
        for (size_t k = 0; k < n && chunk > 0; k++) {
            struct sched_item *item = &s->items[first + (k + s->turn) % n];
            uint32_t left = rows_left(item->entry), max = item->entry->rows_max;
            uint32_t want = (max && max < left ? max : left) - item->n_rows;
            uint32_t take = want < part ? want : part;
            if (take > chunk)
                take = chunk;
            item->n_rows += take;
            chunk -= take;
            gave = gave || take > 0;
        }
    }
}

size_t sched_plan(struct sched *sched, const struct sched_item **ret_items)
{
    struct sched *s = sched;
    s->n_items = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        if (rows_left(s->running[i]) == 1)
            s->items[s->n_items++] = (struct sched_item){.entry = s->running[i], .n_rows = 1};
    size_t n_plain = s->n_items;
    uint32_t n_short_rows = 0, n_long = 0;
    double positions = 0; /* before the long ones' rows */
    for (uint32_t i = 0; i < s->n_running; i++) {
        const uint32_t left = rows_left(s->running[i]);
        if (left <= 1)
            continue;
        s->items[s->n_items++] = (struct sched_item){.entry = s->running[i]};
        if (sched_is_long(s->running[i])) {
            n_long++;
            positions += s->running[i]->n_done;
        } else {
            n_short_rows += left;
        }
    }
    if (s->n_items > n_plain) {
        const bool alone = n_plain == 0 && !s->o.has_company;
        const uint32_t chunk = n_long ? chunk_rows(s, alone, n_short_rows, positions / n_long)
                                      : chunk_rows(s, alone, 0, 0);
        share_chunk(s, n_plain, serve_short(s, n_plain, chunk));
        s->turn++;
        size_t n = n_plain;
        for (size_t i = n_plain; i < s->n_items; i++)
            if (s->items[i].n_rows > 0)
                s->items[n++] = s->items[i];
        s->n_items = n;
    }
    *ret_items = s->items;
    return s->n_items;
}

uint64_t sched_estimate_step(const struct sched *sched)
{
    double us = sched->plain_us;
    for (size_t i = 0; i < sched->n_items; i++)
        if (sched->items[i].n_rows > 1)
            us += prefill_us(sched, sched->items[i].entry->n_done, sched->items[i].n_rows);
    return (uint64_t)us;
}

void sched_step_done(struct sched *sched, uint64_t step_us, bool complete)
{
    struct sched *s = sched;
    uint32_t n_plain = 0, n_prefill = 0;
    double positions = 0; /* before the rows of the prefill, added up */
    for (size_t i = 0; i < s->n_items; i++) {
        struct sched_user *user = s->items[i].entry->user;
        uint32_t rows = s->items[i].n_rows;
        user->served += (uint64_t)rows * 1024 / (user->weight ? user->weight : 1);
        if (rows == 1) {
            n_plain++;
        } else {
            n_prefill += rows;
            positions += rows * (s->items[i].entry->n_done + rows / 2.0);
        }
    }
    s->n_items = 0;
    if (!complete)
        return;
    double us = (double)step_us;
    if (n_prefill == 0 && n_plain > 0) {
        s->plain_us = learned(s->plain_us, us);
    } else if (n_prefill >= LEARN_ROWS || (n_prefill > 0 && !(s->per_row_us > 0)) ||
               (n_prefill >= CHUNK_MIN && n_plain > 0)) {
        /* What the rows add: without a plain step to compare with, all of it. Where the whole was
         * quicker than a plain step is thought to be, that is what was learned: few rows that are
         * taken to cost as much as all of it would keep the chunks small for ever. */
        if (n_plain > 0 && us <= s->plain_us)
            s->plain_us = learned(s->plain_us, us);
        else
            learn_prefill(s, us - (n_plain ? s->plain_us : 0), n_prefill, positions / n_prefill);
    }
}

/* ---- figures ------------------------------------------------------------------------------- */

void sched_set_token_gap(struct sched *sched, uint64_t token_gap_us, bool alone)
{
    sched->o.token_gap_us = token_gap_us;
    sched->o.has_company = !alone;
}

void sched_set_pinned(struct sched *sched, uint32_t n_pages)
{
    sched->pages_pinned = n_pages;
}

uint32_t sched_n_running(const struct sched *sched)
{
    return sched->n_running;
}

uint32_t sched_n_waiting(const struct sched *sched)
{
    return sched->n_waiting;
}

uint32_t sched_pages_reserved(const struct sched *sched)
{
    return sched->pages_reserved;
}

struct sched_entry *sched_running(const struct sched *sched, uint32_t index)
{
    return index < sched->n_running ? sched->running[index] : NULL;
}

struct sched_entry *sched_waiting(const struct sched *sched, uint32_t position)
{
    return position < sched->n_waiting ? sched->waiting[position] : NULL;
}

uint64_t sched_estimate_prefill(const struct sched *sched, uint32_t n_tokens)
{
    return (uint64_t)prefill_us(sched, 0, n_tokens);
}

uint64_t sched_estimate_short(const struct sched *sched)
{
    return (uint64_t)few_rows_us(sched);
}

uint64_t sched_estimate_wait(const struct sched *sched, uint32_t position)
{
    return (uint64_t)(sched->interval_us * ((double)position + 1));
}
