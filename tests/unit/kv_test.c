/* The KV pool: pages are handed out once, shared by count, and lie apart. */
#include "mm/kv.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_PAGES     37
#define N_LAYERS    3
#define SLICE_BYTES 192

static void pages_are_distinct_and_run_out(void **state)
{
    (void)state;
    struct mm_kv *kv;
    char why[512];
    assert_int_equal(mm_kv_new(&kv, N_PAGES, N_LAYERS, SLICE_BYTES, MM_HUGE_OFF, why, sizeof why),
                     0);
    assert_int_equal(mm_kv_n_pages(kv), N_PAGES);
    assert_true(mm_kv_arena(kv)->size >= (size_t)N_PAGES * N_LAYERS * SLICE_BYTES);

    int seen[N_PAGES] = {0};
    for (uint32_t i = 0; i < N_PAGES; i++) {
        assert_int_equal(mm_kv_n_free(kv), N_PAGES - i);
        uint32_t page = mm_kv_take(kv);
        assert_in_range(page, 0, N_PAGES - 1);
        assert_int_equal(seen[page]++, 0);
        for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
            uint8_t *slice = mm_kv_slice(kv, page, layer);
            assert_int_equal((uintptr_t)slice % 64, 0);
            memset(slice, (int)(page * N_LAYERS + layer), SLICE_BYTES);
        }
    }
    assert_int_equal(mm_kv_take(kv), MM_KV_NONE);
    for (uint32_t page = 0; page < N_PAGES; page++) {
        for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
            const uint8_t *slice = mm_kv_slice(kv, page, layer);
            for (size_t i = 0; i < SLICE_BYTES; i++)
                assert_int_equal(slice[i], page * N_LAYERS + layer);
        }
        if (page + 1 < N_PAGES) /* "slices, one a layer, lie slice_bytes apart" */
            assert_ptr_equal(mm_kv_slice(kv, page, 1), mm_kv_slice(kv, page, 0) + SLICE_BYTES);
    }
    mm_kv_free(kv);
}

static void a_shared_page_comes_back_with_its_last_holder(void **state)
{
    (void)state;
    struct mm_kv *kv;
    assert_int_equal(mm_kv_new(&kv, 2, 1, 64, MM_HUGE_OFF, NULL, 0), 0);
    uint32_t page = mm_kv_take(kv);
    assert_int_equal(mm_kv_refs(kv, page), 1);
    mm_kv_ref(kv, page);
    mm_kv_ref(kv, page);
    assert_int_equal(mm_kv_refs(kv, page), 3);
    mm_kv_drop(kv, page);
    mm_kv_drop(kv, page);
    assert_int_equal(mm_kv_n_free(kv), 1);
    mm_kv_drop(kv, page);
    assert_int_equal(mm_kv_refs(kv, page), 0);
    assert_int_equal(mm_kv_n_free(kv), 2);
    assert_int_equal(mm_kv_take(kv), page);
    mm_kv_free(kv);
}

/* Random takes, refs and drops against a count of our own. */
static void random_use_keeps_the_books(void **state)
{
    (void)state;
    struct mm_kv *kv;
    assert_int_equal(mm_kv_new(&kv, N_PAGES, 1, 64, MM_HUGE_OFF, NULL, 0), 0);
    uint32_t refs[N_PAGES] = {0}, n_free = N_PAGES;
    srand(7);
    for (int i = 0; i < 20000; i++) {
        uint32_t page = (uint32_t)rand() % N_PAGES;
        if (refs[page] == 0) {
            page = mm_kv_take(kv);
            assert_int_equal(refs[page], 0);
            refs[page] = 1;
            n_free--;
        } else if (rand() % 3 == 0) {
            mm_kv_ref(kv, page);
            refs[page]++;
        } else {
            mm_kv_drop(kv, page);
            n_free += --refs[page] == 0;
        }
        assert_int_equal(mm_kv_n_free(kv), n_free);
        assert_int_equal(mm_kv_refs(kv, page), refs[page]);
    }
    mm_kv_free(kv);
}

static void sizes_that_cannot_be_are_refused(void **state)
{
    (void)state;
    struct mm_kv *kv = NULL;
    char why[512];
    assert_int_equal(mm_kv_new(&kv, 0, 1, 64, MM_HUGE_OFF, why, sizeof why), -EINVAL);
    assert_int_equal(mm_kv_new(&kv, 1, 0, 64, MM_HUGE_OFF, why, sizeof why), -EINVAL);
    assert_int_equal(mm_kv_new(&kv, 1, 1, 0, MM_HUGE_OFF, why, sizeof why), -EINVAL);
    assert_int_equal(mm_kv_new(&kv, 1, 1, 65, MM_HUGE_OFF, why, sizeof why), -EINVAL);
    assert_int_equal(mm_kv_new(&kv, MM_KV_NONE, 1, 64, MM_HUGE_OFF, why, sizeof why), -EINVAL);
    assert_int_equal(mm_kv_new(&kv, 1u << 31, 1u << 31, 64, MM_HUGE_OFF, why, sizeof why), -ENOMEM);
    assert_non_null(strstr(why, "larger than memory"));
    /* 1 TiB: counted well, and not there. */
    assert_int_equal(mm_kv_new(&kv, 1024, 1024, 1 << 20, MM_HUGE_PREFER, why, sizeof why), -ENOMEM);
    assert_non_null(strstr(why, "1048576 MiB are needed"));
    assert_null(kv);
    mm_kv_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_distinct_and_run_out),
        cmocka_unit_test(a_shared_page_comes_back_with_its_last_holder),
        cmocka_unit_test(random_use_keeps_the_books),
        cmocka_unit_test(sizes_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
