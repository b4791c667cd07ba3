/* Tool calls in answers: what comes out, in every way of cutting an answer; nothing is lost. */
#define _GNU_SOURCE /* memmem */
#include "chat/calls.h"
#include "chat/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* Events as text: T(…) B(name) A(…) E(…) M(…) or MB(…) where it had begun; neighbouring pieces of
 * text, and of arguments, are put together. */
struct log {
    struct chat_text out;
    char last;
    size_t n_arguments; /* events */
};

static void note(void *arg, const struct chat_event *event)
{
    struct log *log = arg;
    char kind = "TBAEM"[event->type];

    log->n_arguments += kind == 'A';
    if ((kind == 'T' || kind == 'A') && log->last == kind) {
        log->out.n--;
    } else {
        chat_text_add(&log->out, &kind, 1);
        chat_text_puts(&log->out, kind == 'M' && event->begun ? "B(" : "(");
    }
    chat_text_add(&log->out, event->s, event->n);
    chat_text_puts(&log->out, ")");
    log->last = kind;
}

static void run(enum chat_call_form form, const char *answer, size_t n, size_t piece,
                struct log *log)
{
    struct chat_parser *parser;

    *log = (struct log){0};
    assert_int_equal(chat_parser_new(&parser, form, note, log), 0);
    for (int again = 0; again < 2; again++) { /* the parser serves a second answer */
        log->out.n = 0;
        log->last = 0;
        for (size_t at = 0; at < n; at += piece)
            assert_int_equal(chat_parser_push(parser, answer + at, n - at < piece ? n - at : piece),
                             0);
        assert_int_equal(chat_parser_finish(parser), 0);
    }
    chat_text_puts(&log->out, "");
    chat_parser_free(parser);
}

static void assert_events(enum chat_call_form form, const char *answer, const char *want)
{
    for (size_t piece = 1; piece <= strlen(answer) + 1; piece++) {
        struct log log;
        run(form, answer, strlen(answer), piece, &log);
        if (strcmp(log.out.s ? log.out.s : "", want))
            fail_msg("pieces of %zu of %s:\n want %s\n got  %s", piece, answer, want, log.out.s);
        chat_text_done(&log.out);
    }
}

static void tags(void **state)
{
    static const char *const cases[][2] = {
        {"", ""},
        {"Hello <tool", "T(Hello <tool)"},
        {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
         "B(f)A({\"a\": 1})E({\"a\": 1})"},
        {"I look.\n<tool_call>{\"arguments\":{ } ,\"name\":\"g\\u00e9\"}</tool_call>\nx",
         "T(I look.\n)B(gé)A({ })E({ })T(\nx)"},
        {"<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"</tool_call> "
         "}\\\"\",\"b\":[{}]}}</tool_call>"
         "<tool_call>{\"name\":\"h\",\"arguments\":{}}</tool_call>",
         "B(f)A({\"a\":\"</tool_call> }\\\"\",\"b\":[{}]})E({\"a\":\"</tool_call> "
         "}\\\"\",\"b\":[{}]})"
         "B(h)A({})E({})"},
        {"<tool_call>{\"id\": [1, {\"name\": 2}], \"name\": \"f\", \"arguments\": {}}</tool_call>",
         "B(f)A({})E({})"},
        /* arguments as a string that holds JSON: what the reference takes, too */
        {"<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}</tool_call>",
         "B(f)A({\"a\": 1})E({\"a\": 1})"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_events(CHAT_CALLS_TAGS, cases[i][0], cases[i][1]);
}

/* Each is none, comes back whole, and what follows is not hurt. */
static void malformed_tags(void **state)
{
    static const struct {
        const char *source;
        const char *before; /* what was told of it */
    } cases[] = {
        {"<tool_call></tool_call>", ""},
        {"<tool_call>no JSON</tool_call>", ""},
        {"<tool_call>[1]</tool_call>", ""},
        {"<tool_call>{}</tool_call>", ""},
        {"<tool_call>{\"name\": \"f\"}</tool_call>", "B(f)"},
        {"<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>", ""},
        {"<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>", ""},
        {"<tool_call>{\"arguments\": {}}</tool_call>", ""},
        {"<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>", "B(f)"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": 1}</tool_call>", "B(f)"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>", "B(f)A(x)"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": }}</tool_call>", "B(f)A({\"a\": })"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1]}</tool_call>",
         "B(f)A({\"a\": 1])"},
        {"<tool_call>{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}</tool_call>", "B(f)"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {}}x</tool_call>", "B(f)A({})"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {}}<</tool_call>", "B(f)A({})"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"open\n</tool_call>",
         "B(f)A({\"a\": \"open)"},
        {"<tool_call>{\"name\" \"f\", \"arguments\": {}}</tool_call>", ""},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}</tool_call>",
         "B(f)A({}{})"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char answer[400], want[800];
        snprintf(answer, sizeof answer,
                 "a%sb<tool_call>{\"name\":\"k\",\"arguments\":{}}</tool_call>", cases[i].source);
        snprintf(want, sizeof want, "T(a)%sM%s(%s)T(b)B(k)A({})E({})", cases[i].before,
                 *cases[i].before ? "B" : "", cases[i].source);
        assert_events(CHAT_CALLS_TAGS, answer, want);
    }
    assert_events(CHAT_CALLS_TAGS, "x<tool_call>{\"name\": \"f\", \"arg",
                  "T(x)B(f)MB(<tool_call>{\"name\": \"f\", \"arg)");
    assert_events(CHAT_CALLS_TAGS, "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_ca",
                  "B(f)A({})MB(<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_ca)");
}

static void flowers(void **state)
{
    static const char *const cases[][2] = {
        {"✿ is a flower ✿FUN", "T(✿ is a flower ✿FUN)"},
        {"✿FUNCTION✿: f\n✿ARGS✿: {\"a\": 1}\n", "B(f)A({\"a\": 1})E({\"a\": 1})"},
        {"✿FUNCTION✿: f\n✿ARGS✿: {\"a\": 1}\n✿FUNCTION✿: g\n✿ARGS✿:{}\n✿RESULT✿: 3\n✿RETURN✿: yes",
         "B(f)A({\"a\": 1})E({\"a\": 1})B(g)A({})E({})T(✿RESULT✿: 3\n✿RETURN✿: yes)"},
        {"Let me.\n✿FUNCTION✿: 天气\n✿ARGS✿: {\"城市\": \"北京 ✿\", \"b\": \"x  y\"}",
         "T(Let me.\n)B(天气)A({\"城市\": \"北京 ✿\", \"b\": \"x  y\"})E({\"城市\": \"北京 ✿\", "
         "\"b\": \"x  y\"})"},
        {"✿RETURN✿: done", "T(✿RETURN✿: done)"},
        /* none */
        {"✿FUNCTION✿: f", "M(✿FUNCTION✿: f)"},
        {"✿FUNCTION✿: \n✿ARGS✿: {}", "M(✿FUNCTION✿: \n)T(✿ARGS✿: {})"},
        {"✿FUNCTION✿: f\ng\n✿ARGS✿: {}", "M(✿FUNCTION✿: f\ng\n)T(✿ARGS✿: {})"},
        {"✿FUNCTION✿: f ✿RESULT✿ x", "M(✿FUNCTION✿: f )T(✿RESULT✿ x)"},
        {"✿FUNCTION✿: f\n✿ARGS✿: not JSON\n✿RESULT✿:",
         "B(f)A(not JSON)MB(✿FUNCTION✿: f\n✿ARGS✿: not JSON\n)T(✿RESULT✿:)"},
        {"✿FUNCTION✿: f\n✿ARGS✿: {} ✿ARGS✿: {}",
         "B(f)A({})MB(✿FUNCTION✿: f\n✿ARGS✿: {} )T(✿ARGS✿: {})"},
        {"✿FUNCTION✿: f\n✿FUNCTION✿: g\n✿ARGS✿: {}", "M(✿FUNCTION✿: f\n)B(g)A({})E({})"},
        {"✿FUNCTION✿: f\n✿ARGS✿:", "B(f)MB(✿FUNCTION✿: f\n✿ARGS✿:)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_events(CHAT_CALLS_FLOWER, cases[i][0], cases[i][1]);
}

/* Arguments are told while they come, not at the end. */
static void arguments_stream(void **state)
{
    static const char answer[] =
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"text\": \"one two three "
        "four five six\"}}</tool_call>";
    struct log log;

    (void)state;
    run(CHAT_CALLS_TAGS, answer, sizeof answer - 1, 1, &log);
    assert_true(log.n_arguments > 60);
    chat_text_done(&log.out);
}

/* A megabyte of what is hardest for each part, in one push and in small ones, in little time. */
static void never_quadratic(void **state)
{
    static const char *const units[] = {"<tool_call>",
                                        "<tool_call>{\"",
                                        "<tool_call>{\"name\":\"f\",\"arguments\":{",
                                        "</tool_call>",
                                        "{\"a\":",
                                        "\"",
                                        "<",
                                        " ",
                                        "✿",
                                        "✿FUNCTION✿",
                                        "✿FUNCTION✿: f\n✿ARGS✿: ",
                                        "✿ARGS✿",
                                        "✿RESULT✿"};
    enum { N = 1 << 20 };
    char *answer = malloc(N + 64);
    clock_t start = clock();

    (void)state;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        for (int form = CHAT_CALLS_FLOWER; form <= CHAT_CALLS_TAGS; form++)
            for (size_t piece = 5; piece <= N; piece += N - 5) {
                struct log log;
                size_t n = 0;
                if (form == CHAT_CALLS_TAGS) /* inside a call */
                    n = (size_t)sprintf(answer,
                                        "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"");
                for (; n < N; n += strlen(units[i]))
                    memcpy(answer + n, units[i], strlen(units[i]));
                run((enum chat_call_form)form, answer, n, piece, &log);
                chat_text_done(&log.out);
            }
    free(answer);
    /* Some tens of milliseconds each; quadratic would be hours. The harness has the limit. */
    print_message("52 MB in %.1f s\n", (double)(clock() - start) / CLOCKS_PER_SEC);
}

static void stops(void **state)
{
    const char *stop[2];

    (void)state;
    assert_int_equal(chat_parser_stops(CHAT_CALLS_FLOWER, stop), 2);
    assert_string_equal(stop[0], "✿RESULT✿:");
    assert_int_equal(chat_parser_stops(CHAT_CALLS_TAGS, stop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags),
        cmocka_unit_test(malformed_tags),
        cmocka_unit_test(flowers),
        cmocka_unit_test(stops),
        cmocka_unit_test(arguments_stream),
        cmocka_unit_test(never_quadratic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
