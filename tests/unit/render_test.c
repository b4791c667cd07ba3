/* Prompt templates against Jinja: text for text, in every family, with and without tools. */
#define _GNU_SOURCE /* memmem */
#include "chat/conversation.h"
#include "chat/json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *json_of(const char *text)
{
    char why[256] = "";
    json_t *value = chat_json_read(text, strlen(text), "the test", why, sizeof why);

    if (!value)
        fail_msg("%s", why);
    return value;
}

/* Segments cover the text without a gap, texts are not neighbours, control tokens are the chat's. */
static void assert_well_formed(const struct chat_prompt *prompt)
{
    size_t at = 0;

    for (size_t i = 0; i < prompt->n; i++) {
        const struct chat_segment *s = &prompt->segments[i];
        assert_int_equal(s->offset, at);
        assert_true(s->length > 0);
        at += s->length;
        if (s->kind == CHAT_TEXT)
            assert_true(i == 0 || prompt->segments[i - 1].kind != CHAT_TEXT);
        else if (s->kind == CHAT_CONTROL)
            assert_true(!memcmp(prompt->text.s + s->offset, "<|im_", 5));
        else
            assert_non_null(memmem(prompt->text.s + s->offset, s->length, "tool_call>", 10));
    }
    assert_int_equal(at, prompt->text.n);
}

static bool flag(const json_t *entry, const char *name)
{
    return json_is_true(json_object_get(entry, name));
}

/* One line of the golden file. */
static void assert_golden(const json_t *all_tools, const json_t *entry, size_t line)
{
    const json_t *want = json_object_get(entry, "text");
    const char *language = json_string_value(json_object_get(entry, "language"));
    struct chat_options options = {
        .no_generation_prompt = !flag(entry, "add_generation_prompt"),
        .parallel_calls = flag(entry, "parallel_tool_calls"),
        .chinese = language && !strcmp(language, "zh"),
    };
    json_t *tools = json_array();
    struct chat_document *document;
    struct chat_prompt prompt = {0};
    enum chat_family family;
    char why[256] = "";

    for (size_t i = 0; i < json_array_size(json_object_get(entry, "tools")); i++)
        json_array_append(tools,
                          json_array_get(all_tools, (size_t)json_integer_value(json_array_get(
                                                        json_object_get(entry, "tools"), i))));
    assert_true(chat_family_by_name(json_string_value(json_object_get(entry, "family")), &family));
    if (chat_document_new(&document, json_object_get(entry, "messages"), tools, why, sizeof why) <
            0 ||
        chat_render(&prompt, family, chat_document_conversation(document), &options, NULL, why,
                    sizeof why) < 0)
        fail_msg("line %zu: %s", line, why);
    assert_well_formed(&prompt);
    if (prompt.text.n != json_string_length(want) ||
        memcmp(prompt.text.s, json_string_value(want), prompt.text.n))
        fail_msg("line %zu: want\n%s\ngot\n%s", line, json_string_value(want), prompt.text.s);
    chat_prompt_done(&prompt);
    chat_document_free(document);
    json_decref(tools);
}

static void as_jinja_renders(void **state)
{
    FILE *f = fopen("tests/golden/chat/conversations.jsonl", "r");
    json_t *tools = NULL;
    char *line = NULL;
    size_t room = 0, n_lines = 0;

    (void)state;
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        json_t *entry = json_of(line);
        if (n_lines++ == 0) {
            tools = entry;
            continue;
        }
        assert_golden(tools, entry, n_lines);
        json_decref(entry);
    }
    assert_int_equal(n_lines, 401);
    json_decref(tools);
    free(line);
    fclose(f);
}

static bool calls_in(const json_t *messages)
{
    bool found = false;

    for (size_t i = 0; i < json_array_size(messages); i++)
        found |= json_array_size(json_object_get(json_array_get(messages, i), "tool_calls")) > 0;
    return found;
}

/* A line of the golden file of whole templates, where it is one of ours; true if it was. */
static bool assert_as_executed(const json_t *entry, size_t line)
{
    const char *file = json_string_value(json_object_get(entry, "file"));
    const json_t *text = json_object_get(entry, "text");
    json_t *messages = json_object_get(entry, "messages"), *tools = json_object_get(entry, "tools");
    const struct chat_options options = {.no_generation_prompt = !flag(entry, "gen")};
    struct chat_document *document;
    struct chat_prompt prompt = {0};
    enum chat_family family;
    char why[256] = "";

    if (!text || !file || strncmp(file, "chat/", 5) || !chat_family_by_name(file + 5, &family))
        return false;
    if (chat_family_calls(family) != CHAT_CALLS_TAGS &&
        (!json_is_null(tools) || calls_in(messages)))
        return false; /* their files' templates know no tools */
    if (chat_document_new(&document, messages, json_is_null(tools) ? NULL : tools, why,
                          sizeof why) < 0 ||
        chat_render(&prompt, family, chat_document_conversation(document), &options, NULL, why,
                    sizeof why) < 0)
        fail_msg("line %zu: %s", line, why);
    if (prompt.text.n != json_string_length(text) ||
        memcmp(prompt.text.s, json_string_value(text), prompt.text.n))
        fail_msg("line %zu: want\n%s\ngot\n%s", line, json_string_value(text), prompt.text.s);
    chat_prompt_done(&prompt);
    chat_document_free(document);
    return true;
}

/* Natively as Jinja executes the file: those of Qwen2.5 for base models and mathematics as well. */
static void as_the_files_are_executed(void **state)
{
    FILE *f = fopen("tests/golden/jinja/cases.jsonl", "r");
    size_t room = 0, n_lines = 0, n_compared = 0;
    char *line = NULL;

    (void)state;
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        json_t *entry = json_of(line);
        n_compared += assert_as_executed(entry, ++n_lines);
        json_decref(entry);
    }
    printf("note: %zu conversations natively as Jinja renders them\n", n_compared);
    assert_true(n_compared > 100);
    free(line);
    fclose(f);
}

/* The files that carry a template of tests/golden/chat are recognised by it. */
static void templates_are_recognised(void **state)
{
    static const struct {
        const char *name;
        enum chat_family family;
    } files[] = {{"qwen2", CHAT_QWEN2},
                 {"qwen1.5", CHAT_QWEN1_5},
                 {"qwen1.5-early", CHAT_QWEN1_5_EARLY},
                 {"qwen2.5", CHAT_QWEN2_5},
                 {"qwen2.5-base", CHAT_QWEN2_5_BASE},
                 {"qwen2.5-math", CHAT_QWEN2_5_MATH}};
    enum chat_known known;

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[100], text[4096];
        snprintf(path, sizeof path, "tests/golden/chat/%s.jinja", files[i].name);
        FILE *f = fopen(path, "r");
        assert_non_null(f);
        size_t n = fread(text, 1, sizeof text, f);
        fclose(f);
        assert_int_equal(chat_family_of(text, n, &known), files[i].family);
        assert_int_equal(known, CHAT_KNOWN);
        text[n++] = ' '; /* one byte more: none of those, but alike */
        assert_int_equal(chat_family_of(text, n, &known), files[i].family);
        assert_int_equal(known, CHAT_CLOSEST);
    }
    static const char base[] =
        "'<|im_start|>system\\nYou are a helpful assistant.<|im_end|>' <tool_call>";
    assert_int_equal(chat_family_of(base, sizeof base - 1, &known), CHAT_QWEN2_5_BASE);
    assert_int_equal(chat_family_of("[INST]", 6, &known), CHAT_QWEN2);
    assert_int_equal(known, CHAT_FALLBACK);
    assert_int_equal(chat_family_of(NULL, 0, &known), CHAT_QWEN2);
    assert_int_equal(known, CHAT_FALLBACK);
}

static void numbers_as_python_spells_them(void **state)
{
    static const char *const pairs[][2] = {
        {"[1.0, 1e5, 1E15, 1e16, 0.0001, 0.00001]",
         "[1.0, 100000.0, 1000000000000000.0, 1e+16, 0.0001, 1e-05]"},
        {"[5.684341886080802e-14, -0.0, 0.1, 5e-324]",
         "[5.684341886080802e-14, -0.0, 0.1, 5e-324]"},
        {"[-0, 12, -9223372036854775808]", "[0, 12, -9223372036854775808]"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
        {"\"\\u00e9\\u0007\\/\\\"\"", "\"é\\u0007/\\\"\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct chat_text text = {0};
        json_t *value = json_of(pairs[i][0]);
        chat_json_add(&text, value);
        assert_string_equal(text.s, pairs[i][1]);
        chat_text_done(&text);
        json_decref(value);
    }
}

static void refusals(void **state)
{
    static const struct {
        enum chat_family family;
        const char *messages, *tools, *why;
    } cases[] = {
        {CHAT_QWEN2, "[]", NULL, "no message"},
        {CHAT_QWEN2, "{}", NULL, "no JSON list"},
        {CHAT_QWEN2, "[{\"role\": \"user\", \"content\": \"x\"}]", "{}", "tools are no JSON list"},
        {CHAT_QWEN2, "[3]", NULL, "message 0 is no JSON object"},
        {CHAT_QWEN2, "[{\"content\": \"x\"}]", NULL, "has no \"role\""},
        {CHAT_QWEN2, "[{\"role\": \"root\", \"content\": \"x\"}]", NULL, "none of system"},
        {CHAT_QWEN2, "[{\"role\": \"user\"}]", NULL, "is missing"},
        {CHAT_QWEN2, "[{\"role\": \"user\", \"content\": [1]}]", NULL, "only text"},
        {CHAT_QWEN2, "[{\"role\": \"assistant\", \"tool_calls\": 3}]", NULL, "is no list"},
        {CHAT_QWEN2_5, "[{\"role\": \"assistant\", \"tool_calls\": [{\"name\": \"f\"}]}]", NULL,
         "call 0 of message 0 lacks"},
        {CHAT_QWEN2_5,
         "[{\"role\": \"user\", \"content\": \"\", \"tool_calls\": [{\"name\": \"f\", "
         "\"arguments\": {}}]}]",
         NULL, "is not the assistant's"},
        {CHAT_QWEN2, "[{\"role\": \"user\", \"content\": \"x\"}]",
         "[{\"function\": {\"name\": \"f\"}}]", "tool 0 lacks"},
        {CHAT_QWEN2, "[{\"role\": \"assistant\", \"content\": \"x\"}]",
         "[{\"function\": {\"name\": \"f\", \"description\": \"\", \"parameters\": {}}}]",
         "begins with a user's"},
        {CHAT_QWEN1_5, "[{\"role\": \"user\", \"content\": \"x\"}]", "[{}]", "was not taught"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *messages = json_of(cases[i].messages);
        json_t *tools = cases[i].tools ? json_of(cases[i].tools) : NULL;
        const struct chat_options options = {0};
        struct chat_document *document = NULL;
        struct chat_prompt prompt = {0};
        char why[256] = "";
        int r = chat_document_new(&document, messages, tools, why, sizeof why);
        if (r == 0)
            r = chat_render(&prompt, cases[i].family, chat_document_conversation(document),
                            &options, NULL, why, sizeof why);
        assert_true(r == -EINVAL || r == -ENOTSUP);
        if (!strstr(why, cases[i].why))
            fail_msg("case %zu: %s", i, why);
        assert_null(prompt.text.s);
        chat_document_free(document);
        json_decref(messages);
        json_decref(tools);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_jinja_renders),
        cmocka_unit_test(as_the_files_are_executed),
        cmocka_unit_test(templates_are_recognised),
        cmocka_unit_test(numbers_as_python_spells_them),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
