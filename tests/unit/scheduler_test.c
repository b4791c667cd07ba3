/* The scheduler in virtual time, with simulated costs and no model: a thousand clients for days of
 * load, its promises checked at every step. */
#include "svc/scheduler.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    USERS = 20,
    ENTRIES = 1000,
    PAGE = 64,
    PAGES = 400,
    RUNNING = 16,
    STEP_FIXED_US = 20000, /* simulated: 50 steps a second … */
    STEP_ROW_US = 3000,    /* … and 333 prefill rows a second */
    GAP_US = 100000,
};

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % n;
}

static struct sched *new_sched(uint32_t n_pages, uint32_t n_running, uint32_t n_waiting)
{
    struct sched *s;
    struct sched_options o = {.n_pages = n_pages,
                              .page_len = PAGE,
                              .n_running = n_running,
                              .n_waiting = n_waiting,
                              .chunk_max = 512,
                              .token_gap_us = GAP_US};
    assert_int_equal(sched_new(&s, &o), 0);
    return s;
}

/* ---- days of load -------------------------------------------------------------------------- */

struct load {
    struct sched *sched;
    struct sched_entry entries[ENTRIES];
    struct sched_user users[USERS];
    uint32_t prompts[ENTRIES];
    uint64_t now_us;
    uint64_t longest_wait_us;
    uint64_t n_ended, n_set_back;
};

static void submit(struct load *l, uint32_t i)
{
    struct sched_entry *e = &l->entries[i];
    l->prompts[i] = random_below(10) ? 1 + random_below(300) : 1 + random_below(6000);
    *e = (struct sched_entry){.user = &l->users[random_below(USERS)],
                              .class_ = (enum sched_class)random_below(3),
                              .arrival_us = l->now_us,
                              .n_known = l->prompts[i],
                              .n_total = l->prompts[i] + 1 + random_below(200)};
    assert_int_equal(sched_add(l->sched, e), 0);
}

static void admit(struct load *l)
{
    struct sched_entry *e, *victim;
    while ((e = sched_admit(l->sched, l->now_us, &victim)) || victim) {
        if (victim) {
            assert_int_equal(victim->state, SCHED_RUNNING);
            victim->n_done = 0;
            sched_set_back(l->sched, victim);
            l->n_set_back++;
            continue;
        }
        if (l->now_us - e->arrival_us > l->longest_wait_us)
            l->longest_wait_us = l->now_us - e->arrival_us;
    }
}

/* Plans a step, checks it, and lets its time pass. False: nothing to do. */
static bool step(struct load *l)
{
    const struct sched_item *items;
    size_t n = sched_plan(l->sched, &items);
    uint32_t n_decode = 0, n_prefill = 0, pages = 0, rows = 0;
    if (n == 0)
        return false;
    for (uint32_t i = 0; i < sched_n_running(l->sched); i++) {
        const struct sched_entry *e = sched_running(l->sched, i);
        pages += (e->n_total + PAGE - 1) / PAGE;
        n_decode += !e->parked && e->n_known - e->n_done == 1;
    }
    assert_true(pages <= PAGES); /* never over budget */
    assert_int_equal(pages, sched_pages_reserved(l->sched));
    assert_true(sched_n_running(l->sched) <= RUNNING);
    for (size_t i = 0; i < n; i++) {
        struct sched_entry *e = items[i].entry;
        assert_true(items[i].n_rows >= 1 && items[i].n_rows <= e->n_known - e->n_done);
        assert_false(e->parked);
        if (e->n_known - e->n_done == 1)
            n_decode--;
        else
            n_prefill += items[i].n_rows;
        rows += items[i].n_rows;
    }
    assert_int_equal(n_decode, 0); /* everyone who decodes has a row */
    assert_true(rows <= 512 + RUNNING);
    uint64_t cost = STEP_FIXED_US + (uint64_t)STEP_ROW_US * n_prefill;
    l->now_us += cost;
    struct sched_item planned[RUNNING];
    memcpy(planned, items, n * sizeof *items);
    sched_step_done(l->sched, cost, true);
    for (size_t i = 0; i < n; i++) {
        struct sched_entry *e = planned[i].entry;
        e->n_done += planned[i].n_rows;
        if (e->n_done < e->n_known)
            continue;
        if (e->n_known == e->n_total) {
            sched_remove(l->sched, e);
            l->n_ended++;
        } else {
            e->n_known++;
        }
    }
    return true;
}

static void days_of_load_keep_the_promises(void **state)
{
    (void)state;
    static struct load l;
    l = (struct load){.sched = new_sched(PAGES, RUNNING, ENTRIES)};
    for (int i = 0; i < USERS; i++)
        l.users[i].weight = 1 + (uint32_t)i % 4;
    const uint64_t end = UINT64_C(2) * 86400 * 1000000;
    while (l.now_us < end) {
        /* A load that the service can bear on average, in bursts. */
        uint32_t burst = random_below(500) ? 0 : 1 + random_below(60);
        for (; burst > 0; burst--) {
            uint32_t i = random_below(ENTRIES);
            if (l.entries[i].state == SCHED_NONE)
                submit(&l, i);
        }
        struct sched_entry *some = &l.entries[random_below(ENTRIES)];
        if (random_below(200) == 0)
            sched_remove(l.sched, some); /* cancelled, waiting or running */
        if (random_below(100) == 0)
            some->parked = !some->parked;
        if (random_below(100) == 0) /* clients read on sooner or later */
            for (int i = 0; i < ENTRIES; i++)
                l.entries[i].parked = false;
        admit(&l);
        if (!step(&l))
            l.now_us += 100000;
    }
    for (int i = 0; i < ENTRIES; i++)
        l.entries[i].parked = false;
    for (int i = 0; i < 200000 && (sched_n_running(l.sched) || sched_n_waiting(l.sched)); i++) {
        admit(&l);
        if (!step(&l))
            l.now_us += 100000;
    }
    assert_int_equal(sched_n_running(l.sched), 0);
    assert_int_equal(sched_n_waiting(l.sched), 0);
    assert_int_equal(sched_pages_reserved(l.sched), 0);
    assert_true(l.n_ended > 10000);
    assert_true(l.n_set_back > 0);
    assert_true(l.longest_wait_us < UINT64_C(3600) * 1000000); /* of two days */
    for (int i = 0; i < USERS; i++)
        assert_int_equal(l.users[i].n_entries, 0);
    sched_free(l.sched);
}

/* ---- promises one by one ------------------------------------------------------------------- */

static struct sched_entry entry_of(struct sched_user *user, enum sched_class class_,
                                   uint64_t arrival_us, uint32_t n_prompt)
{
    return (struct sched_entry){.user = user,
                                .class_ = class_,
                                .arrival_us = arrival_us,
                                .n_known = n_prompt,
                                .n_total = n_prompt + 64};
}

static void batch_is_not_starved(void **state)
{
    (void)state;
    struct sched *s = new_sched(1000, 1, 100);
    struct sched_user user = {.weight = 1}, flood = {.weight = 1};
    struct sched_entry batch = entry_of(&user, SCHED_BATCH, 0, 10), *victim, *got = NULL;
    struct sched_entry others[100];
    assert_int_equal(sched_add(s, &batch), 0);
    uint64_t now = 0;
    for (int i = 0; i < 100 && got != &batch; i++) {
        now += 1000000; /* one interactive request a second, each takes a second */
        others[i] = entry_of(&flood, SCHED_INTERACTIVE, now, 10);
        assert_int_equal(sched_add(s, &others[i]), 0);
        got = sched_admit(s, now, &victim);
        assert_non_null(got);
        sched_remove(s, got);
    }
    assert_ptr_equal(got, &batch);
    assert_true(now <= 4 * SCHED_AGING_US);
    sched_free(s);
}

static void users_share_by_weight(void **state)
{
    (void)state;
    struct sched *s = new_sched(1000, 1, 100);
    struct sched_user users[2] = {{.weight = 1}, {.weight = 3}};
    struct sched_entry entries[2][8], *victim;
    uint64_t now = 1, rows[2] = {0};
    const struct sched_item *items;
    for (int u = 0; u < 2; u++)
        for (int i = 0; i < 8; i++) {
            entries[u][i] = entry_of(&users[u], SCHED_NORMAL, now, 64);
            assert_int_equal(sched_add(s, &entries[u][i]), 0);
        }
    for (int round = 0; round < 4000; round++) {
        struct sched_entry *e = sched_admit(s, now, &victim);
        assert_non_null(e);
        assert_int_equal(sched_plan(s, &items), 1);
        int u = e->user == &users[1];
        rows[u] += items[0].n_rows;
        now += 1000;
        sched_step_done(s, 1000, true);
        sched_remove(s, e);
        *e = entry_of(&users[u], SCHED_NORMAL, now, 64);
        assert_int_equal(sched_add(s, e), 0);
    }
    double share = (double)rows[1] / (double)(rows[0] + rows[1]);
    assert_true(share > 0.72 && share < 0.78);
    sched_free(s);
}

static void a_long_prompt_does_not_hold_up_a_short_one(void **state)
{
    (void)state;
    struct sched *s = new_sched(1000, 4, 10);
    struct sched_user user = {.weight = 1};
    struct sched_entry longest = entry_of(&user, SCHED_NORMAL, 0, 30000), *victim;
    struct sched_entry shortest = entry_of(&user, SCHED_NORMAL, 0, 10);
    const struct sched_item *items;
    assert_int_equal(sched_add(s, &longest), 0);
    assert_ptr_equal(sched_admit(s, 1, &victim), &longest);
    for (int i = 0; i < 20; i++) { /* costs become known */
        assert_int_equal(sched_plan(s, &items), 1);
        longest.n_done += items[0].n_rows;
        sched_step_done(s, STEP_FIXED_US + (uint64_t)items[0].n_rows * STEP_ROW_US, true);
    }
    assert_int_equal(sched_add(s, &shortest), 0);
    assert_ptr_equal(sched_admit(s, 2, &victim), &shortest);
    size_t n = sched_plan(s, &items);
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++)
        if (items[i].entry == &shortest)
            assert_int_equal(items[i].n_rows, 10); /* whole, in its first step */
        else
            assert_true(items[i].n_rows >= 8); /* and the long one goes on */
    sched_free(s);
}

/* A row at position 16,000 costs nine times what one at the beginning does: what is expected of a
 * step, and of a short prompt, knows both. */
static void costs_know_the_depth(void **state)
{
    (void)state;
    struct sched *s = new_sched(1000, 4, 10);
    struct sched_user user = {.weight = 1};
    struct sched_entry longest = entry_of(&user, SCHED_NORMAL, 0, 30000), *victim;
    const struct sched_item *items;
    assert_int_equal(sched_add(s, &longest), 0);
    assert_ptr_equal(sched_admit(s, 1, &victim), &longest);
    while (longest.n_done < 16000) {
        assert_int_equal(sched_plan(s, &items), 1);
        const uint32_t n = items[0].n_rows;
        const double cost = n * (1000.0 + (longest.n_done + n / 2.0) / 2);
        const double expected = (double)sched_estimate_step(s);
        if (longest.n_done > 4000) {
            assert_true(expected > 0.8 * cost && expected < 1.25 * cost);
            assert_true(cost < 3 * GAP_US * 11 / 10); /* alone it may take three gaps */
        }
        sched_step_done(s, (uint64_t)cost, true);
        longest.n_done += n;
    }
    /* So deep its chunks are as small as a short prompt: it is what makes way nevertheless. */
    assert_int_equal(sched_plan(s, &items), 1);
    assert_true(items[0].n_rows <= SCHED_SHORT_ROWS);
    assert_true(sched_is_long(&longest));
    const uint64_t short_us = sched_estimate_prefill(s, 10);
    assert_true(short_us > 8000 && short_us < 15000);
    sched_free(s);
}

static void a_chunk_keeps_the_token_gap(void **state)
{
    (void)state;
    struct sched *s = new_sched(1000, 4, 10);
    struct sched_user user = {.weight = 1};
    struct sched_entry decoding = entry_of(&user, SCHED_NORMAL, 0, 1), *victim;
    struct sched_entry prompt = entry_of(&user, SCHED_NORMAL, 0, 30000);
    const struct sched_item *items;
    decoding.n_total = 10000;
    assert_int_equal(sched_add(s, &decoding), 0);
    assert_int_equal(sched_add(s, &prompt), 0);
    assert_non_null(sched_admit(s, 1, &victim));
    for (int i = 0; i < 300; i++) {
        if (i == 20)
            assert_non_null(sched_admit(s, 2, &victim));
        size_t n = sched_plan(s, &items);
        uint64_t cost = STEP_FIXED_US;
        for (size_t k = 0; k < n; k++) {
            items[k].entry->n_done += items[k].n_rows;
            if (items[k].entry == &prompt)
                cost += (uint64_t)items[k].n_rows * STEP_ROW_US;
        }
        if (decoding.n_done == decoding.n_known)
            decoding.n_known++;
        sched_step_done(s, cost, true);
        if (i > 60) { /* after it has learned */
            assert_true(cost <= GAP_US * 11 / 10);
            assert_true(cost >= GAP_US / 2);
        }
    }
    sched_free(s);
}

/* With nobody else a lone prompt takes several gaps a step; where another model's steps come between,
 * no more than the gap that is left to this one. */
static void a_lone_prompt_has_company_in_another_model(void **state)
{
    (void)state;
    struct sched *s = new_sched(1000, 4, 10);
    struct sched_user user = {.weight = 1};
    struct sched_entry prompt = entry_of(&user, SCHED_NORMAL, 0, 30000), *victim;
    const struct sched_item *items;
    assert_int_equal(sched_add(s, &prompt), 0);
    assert_non_null(sched_admit(s, 1, &victim));
    for (int i = 0; i < 60; i++) {
        const bool alone = i < 30;
        sched_set_token_gap(s, alone ? GAP_US : GAP_US / 2, alone);
        assert_int_equal(sched_plan(s, &items), 1);
        const uint64_t cost = (uint64_t)items[0].n_rows * STEP_ROW_US;
        prompt.n_done += items[0].n_rows;
        sched_step_done(s, cost, true);
        if (i == 29)
            assert_true(cost > GAP_US);
        if (i >= 30)
            assert_true(cost <= GAP_US / 2);
    }
    sched_free(s);
}

/* Who holds its share of the pages waits, others pass it by, and a client of the same user that does
 * not read cannot keep the share. */
static void a_user_keeps_to_its_share_of_the_pages(void **state)
{
    struct sched *s = new_sched(100, 8, 16);
    struct sched_user users[2] = {{.weight = 1, .n_pages_max = 30}, {.weight = 1}};
    struct sched_entry e[4] = {0}, *victim;
    (void)state;
    for (int i = 0; i < 4; i++) {
        e[i].user = &users[i == 3];
        e[i].class_ = SCHED_NORMAL;
        e[i].arrival_us = (uint64_t)i;
        e[i].n_total = 15 * PAGE;
        e[i].n_known = 10;
        assert_int_equal(sched_add(s, &e[i]), 0);
    }
    assert_ptr_equal(sched_admit(s, 10, &victim), &e[0]);
    assert_ptr_equal(sched_admit(s, 10, &victim), &e[1]);
    assert_true(sched_waits_for_share(s, &e[2]));
    assert_false(sched_waits_for_share(s, &e[3]));
    assert_ptr_equal(sched_admit(s, 10, &victim), &e[3]);
    assert_null(sched_admit(s, 10, &victim));
    assert_null(victim);
    e[1].parked = true;
    assert_null(sched_admit(s, 10, &victim));
    assert_ptr_equal(victim, &e[1]);
    sched_set_back(s, &e[1]);
    assert_ptr_equal(sched_admit(s, 10, &victim), &e[2]);
    assert_int_equal(users[0].n_pages, 30);
    e[1].parked = false;
    assert_null(sched_admit(s, 10, &victim));
    sched_remove(s, &e[0]);
    assert_ptr_equal(sched_admit(s, 10, &victim), &e[1]);
    for (int i = 0; i < 4; i++)
        sched_remove(s, &e[i]);
    assert_int_equal(users[0].n_pages + users[1].n_pages + sched_pages_reserved(s), 0);
    sched_free(s);
}

static void bounds_are_errors(void **state)
{
    (void)state;
    struct sched *s = new_sched(4, 1, 2);
    struct sched_user user = {.weight = 1};
    struct sched_entry large = entry_of(&user, SCHED_NORMAL, 0, 4 * PAGE), e[3];
    assert_int_equal(sched_add(s, &large), -E2BIG);
    for (int i = 0; i < 3; i++) {
        e[i] = entry_of(&user, SCHED_NORMAL, 0, 10);
        assert_int_equal(sched_add(s, &e[i]), i < 2 ? 0 : -ENOBUFS);
    }
    sched_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(days_of_load_keep_the_promises),
        cmocka_unit_test(batch_is_not_starved),
        cmocka_unit_test(users_share_by_weight),
        cmocka_unit_test(a_long_prompt_does_not_hold_up_a_short_one),
        cmocka_unit_test(costs_know_the_depth),
        cmocka_unit_test(a_chunk_keeps_the_token_gap),
        cmocka_unit_test(a_lone_prompt_has_company_in_another_model),
        cmocka_unit_test(a_user_keeps_to_its_share_of_the_pages),
        cmocka_unit_test(bounds_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
