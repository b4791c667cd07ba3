/* Stop strings against a search in the whole text, for every way of cutting it into pieces. */
#include "svc/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t make_list(uint8_t *list, const char *const *strings, size_t n)
{
    uint32_t used = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t length = (uint32_t)strlen(strings[i]);
        memcpy(list + used, &length, 4);
        memcpy(list + used + 4, strings[i], length);
        used += 4 + length;
    }
    return used;
}

/* Feeds text in pieces of the given lengths (the last repeats) and returns what came out. */
static bool run(const char *const *strings, size_t n, const char *text, const size_t *pieces,
                size_t n_pieces, char *out)
{
    uint8_t list[512];
    struct stop *stop;
    assert_int_equal(stop_new(&stop, list, make_list(list, strings, n)), 0);
    size_t at = 0, length = strlen(text), n_out = 0;
    bool stopped = false;
    const char *certain;
    size_t n_certain;
    for (size_t i = 0; at < length && !stopped; i++) {
        size_t piece = pieces[i < n_pieces ? i : n_pieces - 1];
        if (piece > length - at)
            piece = length - at;
        assert_int_equal(stop_push(stop, text + at, piece, &certain, &n_certain, &stopped), 0);
        memcpy(out + n_out, certain, n_certain);
        n_out += n_certain;
        at += piece;
    }
    if (!stopped) {
        stop_finish(stop, &certain, &n_certain);
        memcpy(out + n_out, certain, n_certain);
        n_out += n_certain;
    }
    out[n_out] = 0;
    stop_free(stop);
    return stopped;
}

/* The definition: the stop string that ends first, among these the longest. */
static bool expect(const char *const *strings, size_t n, const char *text, char *out)
{
    for (size_t end = 1; end <= strlen(text); end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n; i++) {
            size_t length = strlen(strings[i]);
            if (length <= end && length > longest &&
                !memcmp(text + end - length, strings[i], length))
                longest = length;
        }
        if (longest) {
            memcpy(out, text, end - longest);
            out[end - longest] = 0;
            return true;
        }
    }
    strcpy(out, text);
    return false;
}

static void equals_a_search_in_the_whole_text(void **state)
{
    (void)state;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        char strings_of[3][8], text[40], mine[64], theirs[64];
        const char *strings[3];
        size_t n = 1 + (size_t)(rand() % 3);
        for (size_t i = 0; i < n; i++) {
            size_t length = 1 + (size_t)(rand() % 5);
            for (size_t j = 0; j < length; j++)
                strings_of[i][j] = (char)('a' + rand() % 2);
            strings_of[i][length] = 0;
            strings[i] = strings_of[i];
        }
        size_t length = (size_t)(rand() % 39);
        for (size_t j = 0; j < length; j++)
            text[j] = "aab c"[rand() % 5];
        text[length] = 0;
        size_t pieces[8];
        for (size_t i = 0; i < 8; i++)
            pieces[i] = 1 + (size_t)(rand() % 6);
        bool stopped = run(strings, n, text, pieces, 8, mine);
        assert_int_equal(stopped, expect(strings, n, text, theirs));
        assert_string_equal(mine, theirs);
    }
}

static void nothing_is_held_that_cannot_match(void **state)
{
    (void)state;
    uint8_t list[64];
    const char *strings[] = {"\n\nUser:"};
    struct stop *stop;
    const char *out;
    size_t n;
    bool stopped;
    assert_int_equal(stop_new(&stop, list, make_list(list, strings, 1)), 0);
    assert_int_equal(stop_push(stop, "ab\n", 3, &out, &n, &stopped), 0);
    assert_int_equal(n, 2);
    assert_int_equal(stop_push(stop, "c", 1, &out, &n, &stopped), 0);
    assert_int_equal(n, 2);
    assert_memory_equal(out, "\nc", 2);
    stop_free(stop);
}

static void without_strings_all_comes_through(void **state)
{
    (void)state;
    char out[64];
    size_t piece = 3;
    assert_false(run(NULL, 0, "hello world", &piece, 1, out));
    assert_string_equal(out, "hello world");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_a_search_in_the_whole_text),
        cmocka_unit_test(nothing_is_held_that_cannot_match),
        cmocka_unit_test(without_strings_all_comes_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
