/* The prefix cache: exact tokens, apart by owner, oldest given up first, no page lost. */
#include "svc/prefix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = 64, PAGES = 8 };

static struct mm_kv *kv;
static struct prefix *prefix;

static int set_up(void **state)
{
    (void)state;
    char why[200];
    assert_int_equal(mm_kv_new(&kv, PAGES, 1, 4096, MM_HUGE_OFF, why, sizeof why), 0);
    assert_int_equal(prefix_new(&prefix, kv, PAGE), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    prefix_free(prefix);
    assert_int_equal(mm_kv_n_free(kv), PAGES); /* all references were given back */
    mm_kv_free(kv);
    return 0;
}

static const uint32_t *block(uint32_t salt)
{
    static uint32_t tokens[PAGE];
    for (uint32_t i = 0; i < PAGE; i++)
        tokens[i] = salt * 1000 + i;
    return tokens;
}

/* A page computed for this block and given to the cache; its own reference is given up. */
static uint32_t add(uint32_t owner, uint32_t parent, uint32_t salt)
{
    uint32_t page = prefix_take_page(prefix);
    assert_int_not_equal(page, MM_KV_NONE);
    assert_int_equal(prefix_add(prefix, owner, parent, block(salt), page), page);
    mm_kv_drop(kv, page);
    return page;
}

static bool has(uint32_t owner, uint32_t parent, uint32_t salt)
{
    uint32_t page = prefix_find(prefix, owner, parent, block(salt));
    if (page == PREFIX_NONE)
        return false;
    mm_kv_drop(kv, page);
    return true;
}

static void finds_exact_tokens_after_the_same_block(void **state)
{
    (void)state;
    uint32_t a = add(1, PREFIX_NONE, 10), b = add(1, a, 11);
    assert_int_equal(prefix_find(prefix, 1, PREFIX_NONE, block(10)), a);
    mm_kv_drop(kv, a);
    assert_int_equal(prefix_find(prefix, 1, a, block(11)), b);
    mm_kv_drop(kv, b);
    assert_false(has(1, PREFIX_NONE, 11)); /* the same tokens, but not at the start */
    assert_false(has(1, b, 11));
    assert_false(has(2, PREFIX_NONE, 10)); /* somebody else's */
    uint32_t tokens[PAGE];
    memcpy(tokens, block(10), sizeof tokens);
    tokens[PAGE - 1]++;
    assert_int_equal(prefix_find(prefix, 1, PREFIX_NONE, tokens), PREFIX_NONE);
}

static void the_first_page_of_a_block_stands_for_it(void **state)
{
    (void)state;
    uint32_t a = add(1, PREFIX_NONE, 10);
    uint32_t second = prefix_take_page(prefix);
    assert_int_equal(prefix_add(prefix, 1, PREFIX_NONE, block(10), second), a);
    mm_kv_drop(kv, second);
    assert_int_equal(prefix_n_cached(prefix), 1);
}

static void gives_up_the_oldest_that_nobody_holds(void **state)
{
    (void)state;
    uint32_t pages[PAGES];
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = add(1, PREFIX_NONE, i);
    assert_int_equal(prefix_n_idle(prefix), PAGES);
    mm_kv_ref(kv, pages[0]);        /* held */
    prefix_touch(prefix, pages[1]); /* used again */
    uint32_t taken = prefix_take_page(prefix);
    assert_int_equal(taken, pages[2]);
    assert_false(has(1, PREFIX_NONE, 2));
    assert_true(has(1, PREFIX_NONE, 0));
    assert_true(has(1, PREFIX_NONE, 1));
    mm_kv_drop(kv, taken);
    mm_kv_drop(kv, pages[0]);
}

static void chains_are_given_up_from_their_ends(void **state)
{
    (void)state;
    uint32_t parent = PREFIX_NONE;
    for (uint32_t i = 0; i < PAGES; i++)
        parent = add(1, parent, i);
    uint32_t taken = prefix_take_page(prefix);
    assert_int_equal(taken, parent); /* the last block, so that the others still can be found */
    mm_kv_drop(kv, taken);
}

static void says_when_all_pages_are_held(void **state)
{
    (void)state;
    uint32_t pages[PAGES];
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = prefix_take_page(prefix);
    assert_int_equal(prefix_take_page(prefix), MM_KV_NONE);
    for (uint32_t i = 0; i < PAGES; i++)
        mm_kv_drop(kv, pages[i]);
}

static void random_use_loses_no_page(void **state)
{
    (void)state;
    srand(3);
    for (int round = 0; round < 20000; round++) {
        uint32_t parent = PREFIX_NONE, held[PAGES], n = 0;
        uint32_t depth = 1 + (uint32_t)rand() % 5, salt = (uint32_t)rand() % 3;
        for (uint32_t i = 0; i < depth; i++, salt = salt * 3 + (uint32_t)rand() % 2) {
            uint32_t page = prefix_find(prefix, 1, parent, block(salt));
            if (page == PREFIX_NONE) {
                page = prefix_take_page(prefix);
                assert_int_not_equal(page, MM_KV_NONE);
                assert_int_equal(prefix_add(prefix, 1, parent, block(salt), page), page);
            }
            held[n++] = parent = page;
        }
        while (n > 0)
            mm_kv_drop(kv, held[--n]);
        assert_int_equal(prefix_n_idle(prefix) + mm_kv_n_free(kv), PAGES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(finds_exact_tokens_after_the_same_block, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_page_of_a_block_stands_for_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gives_up_the_oldest_that_nobody_holds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chains_are_given_up_from_their_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_when_all_pages_are_held, set_up, tear_down),
        cmocka_unit_test_setup_teardown(random_use_loses_no_page, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
