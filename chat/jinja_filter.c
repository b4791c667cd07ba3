/* Filters and tests of the Jinja interpreter (see jinja_parts.h). */
#include "chat/jinja_parts.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct jinja_value filter_fn(struct jinja_arena *arena, struct jinja_value v,
                                     const struct jinja_args *args);
typedef bool test_fn(struct jinja_arena *arena, struct jinja_value v,
                     const struct jinja_args *args);

struct jinja_value jinja_arg(const struct jinja_args *args, size_t i, const char *name,
                             struct jinja_value otherwise)
{
    if (i < args->n && i < JINJA_ARGS_MAX)
        return args->values[i];
    for (size_t k = 0; name && k < args->n_named; k++)
        if (jinja_string_is(args->names[k], name))
            return args->named[k];
    return otherwise;
}

/* ---- filters: one value to another ----------------------------------------------------------- */

static struct jinja_value filter_trim(struct jinja_arena *arena, struct jinja_value v,
                                      const struct jinja_args *args)
{
    return jinja_method(arena, jinja_literal("strip"), jinja_of_string(jinja_text(arena, v)), args);
}

static struct jinja_value filter_length(struct jinja_arena *arena, struct jinja_value v,
                                        const struct jinja_args *args)
{
    (void)args;
    switch (v.type) {
    case JINJA_UNDEFINED:
        return jinja_of_int(0);
    case JINJA_STRING:
        jinja_spend(arena, v.s.n);
        return jinja_of_int((int64_t)jinja_characters(v.s));
    case JINJA_LIST:
    case JINJA_TUPLE:
        return jinja_of_int((int64_t)v.list->n);
    case JINJA_DICT:
        return jinja_of_int((int64_t)v.dict->n);
    default:
        jinja_fail(arena, -EINVAL, "%s has no length", jinja_type_name(v));
        return v;
    }
}

static struct jinja_value filter_tojson(struct jinja_arena *arena, struct jinja_value v,
                                        const struct jinja_args *args)
{
    struct jinja_value indent = jinja_arg(args, 1, "indent", jinja_none());

    for (size_t i = 0; i < args->n_named; i++)
        if (!jinja_string_is(args->names[i], "indent") &&
            (!jinja_string_is(args->names[i], "ensure_ascii") || jinja_truth(args->named[i])))
            jinja_fail(arena, -ENOTSUP, "tojson has an argument that is not supported");
    if (args->n > 2 || (args->n > 0 && jinja_truth(args->values[0])) ||
        (indent.type != JINJA_NONE && (indent.type != JINJA_INT || indent.i < 0 || indent.i > 16)))
        jinja_fail(arena, -ENOTSUP, "tojson has an argument that is not supported");
    return jinja_of_string(jinja_json(arena, v, indent.type == JINJA_INT ? (int)indent.i : -1));
}

static struct jinja_value filter_default(struct jinja_arena *arena, struct jinja_value v,
                                         const struct jinja_args *args)
{
    bool falsy = jinja_truth(jinja_arg(args, 1, "boolean", jinja_of_bool(false)));

    (void)arena;
    if (v.type == JINJA_UNDEFINED || (falsy && !jinja_truth(v)))
        return jinja_arg(args, 0, "default_value", jinja_of_string(jinja_literal("")));
    return v;
}

static struct jinja_value filter_join(struct jinja_arena *arena, struct jinja_value v,
                                      const struct jinja_args *args)
{
    struct jinja_string between =
        jinja_text(arena, jinja_arg(args, 0, "d", jinja_of_string(jinja_literal(""))));
    struct jinja_value attribute = jinja_arg(args, 1, "attribute", jinja_none());
    struct jinja_list *list = jinja_iterate(arena, v);
    struct jinja_builder b = {.arena = arena};

    for (size_t i = 0; !arena->error && i < list->n; i++) {
        struct jinja_value item = list->items[i];
        if (attribute.type == JINJA_STRING)
            item = jinja_item(arena, item, attribute);
        if (i > 0)
            jinja_build(&b, between);
        jinja_build(&b, jinja_text(arena, item));
    }
    return jinja_of_string(jinja_built(&b));
}

static struct jinja_value filter_first(struct jinja_arena *arena, struct jinja_value v,
                                       const struct jinja_args *args)
{
    struct jinja_list *list = jinja_iterate(arena, v);

    (void)args;
    return !arena->error && list->n > 0 ? list->items[0] : jinja_undefined(NULL);
}

static struct jinja_value filter_last(struct jinja_arena *arena, struct jinja_value v,
                                      const struct jinja_args *args)
{
    struct jinja_list *list = jinja_iterate(arena, v);

    (void)args;
    return !arena->error && list->n > 0 ? list->items[list->n - 1] : jinja_undefined(NULL);
}

static struct jinja_value filter_list(struct jinja_arena *arena, struct jinja_value v,
                                      const struct jinja_args *args)
{
    struct jinja_list *list = jinja_iterate(arena, v);

    (void)args;
    if (arena->error)
        return jinja_undefined(NULL);
    return (struct jinja_value){.type = JINJA_LIST, .list = list};
}

static struct jinja_value filter_string(struct jinja_arena *arena, struct jinja_value v,
                                        const struct jinja_args *args)
{
    (void)args;
    return jinja_of_string(jinja_text(arena, v));
}

/* A text as Python's int() reads it, white space around it apart. */
static bool read_int(struct jinja_string s, int64_t *ret)
{
    char text[24], *end;

    s = jinja_trim(s, jinja_none(), true, true);
    if (s.n == 0 || s.n >= sizeof text)
        return false;
    memcpy(text, s.s, s.n);
    text[s.n] = '\0';
    if (strspn(text, "+-0123456789") != s.n)
        return false;
    errno = 0;
    *ret = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0;
}

static struct jinja_value filter_int(struct jinja_arena *arena, struct jinja_value v,
                                     const struct jinja_args *args)
{
    int64_t i;

    (void)arena;
    if (v.type == JINJA_INT)
        return v;
    if (v.type == JINJA_BOOL)
        return jinja_of_int(v.b);
    if (v.type == JINJA_REAL && fabs(v.d) < 9e18)
        return jinja_of_int((int64_t)v.d);
    if (v.type == JINJA_STRING && read_int(v.s, &i))
        return jinja_of_int(i);
    return jinja_arg(args, 0, "default", jinja_of_int(0));
}

static struct jinja_value filter_abs(struct jinja_arena *arena, struct jinja_value v,
                                     const struct jinja_args *args)
{
    (void)args;
    if (v.type == JINJA_REAL)
        return (struct jinja_value){.type = JINJA_REAL, .d = fabs(v.d)};
    if (v.type == JINJA_INT && v.i != INT64_MIN)
        return jinja_of_int(v.i < 0 ? -v.i : v.i);
    jinja_fail(arena, -EINVAL, "%s has no absolute value", jinja_type_name(v));
    return v;
}

static struct jinja_value filter_items(struct jinja_arena *arena, struct jinja_value v,
                                       const struct jinja_args *args)
{
    if (v.type == JINJA_UNDEFINED)
        return jinja_new_list(arena, JINJA_LIST, 0);
    return jinja_method(arena, jinja_literal("items"), v, args);
}

static struct jinja_value filter_reverse(struct jinja_arena *arena, struct jinja_value v,
                                         const struct jinja_args *args)
{
    (void)args;
    return jinja_slice(arena, v.type == JINJA_STRING ? v : filter_list(arena, v, args),
                       jinja_none(), jinja_none(), jinja_of_int(-1));
}

static struct jinja_value filter_safe(struct jinja_arena *arena, struct jinja_value v,
                                      const struct jinja_args *args)
{
    struct jinja_string s = jinja_text(arena, v);

    (void)args;
    s.safe = true;
    return jinja_of_string(s);
}

/* By key, capitals beside small letters. */
static struct jinja_value filter_dictsort(struct jinja_arena *arena, struct jinja_value v,
                                          const struct jinja_args *args)
{
    struct jinja_value sorted = filter_items(arena, v, args), key[2];

    if (args->n + args->n_named > 0)
        jinja_fail(arena, -ENOTSUP, "dictsort has an argument, which is not supported");
    for (size_t i = 1; !arena->error && i < sorted.list->n; i++) {
        struct jinja_value moving = sorted.list->items[i];
        size_t k = i;
        key[0] = jinja_method(arena, jinja_literal("lower"), moving.list->items[0], args);
        for (; k > 0; k--) {
            key[1] = jinja_method(arena, jinja_literal("lower"),
                                  sorted.list->items[k - 1].list->items[0], args);
            if (arena->error || jinja_compare(arena, key[1], key[0]) <= 0)
                break;
            sorted.list->items[k] = sorted.list->items[k - 1];
        }
        sorted.list->items[k] = moving;
    }
    return sorted;
}

/* Line ends as str.splitlines knows them: the length of the one that s has at i, or 0. */
static size_t line_end_at(struct jinja_string s, size_t i)
{
    unsigned char c = (unsigned char)s.s[i];
    size_t left = s.n - i;

    if (c == '\r')
        return left > 1 && s.s[i + 1] == '\n' ? 2 : 1;
    if ((c >= '\n' && c <= '\f') || (c >= 0x1c && c <= 0x1e))
        return 1;
    if (left > 1 && memcmp(s.s + i, "\xc2\x85", 2) == 0)
        return 2;
    return left > 2 && (memcmp(s.s + i, "\u2028", 3) == 0 || memcmp(s.s + i, "\u2029", 3) == 0) ? 3
                                                                                                : 0;
}

static struct jinja_value filter_indent(struct jinja_arena *arena, struct jinja_value v,
                                        const struct jinja_args *args)
{
    struct jinja_value width = jinja_arg(args, 0, "width", jinja_of_int(4));
    bool first = jinja_truth(jinja_arg(args, 1, "first", jinja_of_bool(false)));
    bool blank = jinja_truth(jinja_arg(args, 2, "blank", jinja_of_bool(false)));
    struct jinja_string s = jinja_text(arena, v), space;
    struct jinja_builder b = {.arena = arena}, spaces = {.arena = arena};
    size_t begin = 0, n;

    if (width.type == JINJA_STRING)
        jinja_build(&spaces, width.s);
    for (int64_t i = 0; width.type == JINJA_INT && i < width.i && i < 256; i++)
        jinja_build(&spaces, jinja_literal(" "));
    space = jinja_built(&spaces);
    jinja_spend(arena, s.n);
    for (size_t i = 0; i <= s.n; i += n) {
        n = i < s.n ? line_end_at(s, i) : 1;
        if (n == 0) {
            n = 1;
            continue;
        }
        bool empty = i == begin;
        if (begin > 0)
            jinja_build(&b, jinja_literal("\n"));
        if (begin == 0 ? first : blank || !empty)
            jinja_build(&b, space);
        jinja_build(&b, jinja_part(s, begin, i));
        begin = i + n;
    }
    return jinja_of_string(jinja_built(&b));
}

/* ---- filters that call others ---------------------------------------------------------------- */

/* The arguments from number `from` on. */
static struct jinja_args rest_of(const struct jinja_args *args, size_t from)
{
    struct jinja_args rest = *args;

    rest.n = args->n > from ? args->n - from : 0;
    for (size_t i = 0; i < rest.n; i++)
        rest.values[i] = args->values[from + i];
    return rest;
}

static struct jinja_value filter_map(struct jinja_arena *arena, struct jinja_value v,
                                     const struct jinja_args *args)
{
    struct jinja_value attribute = jinja_arg(args, JINJA_ARGS_MAX, "attribute", jinja_none());
    struct jinja_value missing = jinja_arg(args, JINJA_ARGS_MAX, "default", jinja_undefined(NULL));
    struct jinja_list *list = jinja_iterate(arena, jinja_truth(v) ? v : jinja_undefined(NULL));
    struct jinja_value out = jinja_new_list(arena, JINJA_LIST, 0);
    struct jinja_args rest = rest_of(args, 1);

    if (attribute.type == JINJA_NONE && (args->n == 0 || args->values[0].type != JINJA_STRING ||
                                         !jinja_has_filter(args->values[0].s)))
        jinja_fail(arena, -ENOTSUP, "map has a filter that is not supported");
    for (size_t i = 0; !arena->error && i < list->n; i++) {
        struct jinja_value item = list->items[i];
        jinja_spend(arena, 0);
        if (attribute.type != JINJA_NONE) {
            item = jinja_item(arena, item, attribute);
            if (item.type == JINJA_UNDEFINED)
                item = missing;
        } else {
            item = jinja_filter(arena, args->values[0].s, item, &rest);
        }
        jinja_append(arena, out.list, item);
    }
    return out;
}

/* select, reject, selectattr, rejectattr. */
static struct jinja_value choose(struct jinja_arena *arena, struct jinja_value v,
                                 const struct jinja_args *args, bool attribute, bool wanted)
{
    struct jinja_list *list = jinja_iterate(arena, jinja_truth(v) ? v : jinja_undefined(NULL));
    struct jinja_value out = jinja_new_list(arena, JINJA_LIST, 0);
    struct jinja_args rest = rest_of(args, attribute ? 2 : 1);
    bool has_test = args->n > attribute;
    struct jinja_value test = has_test ? args->values[attribute] : jinja_none();

    if ((attribute && args->n == 0) ||
        (has_test && (test.type != JINJA_STRING || !jinja_has_test(test.s))))
        jinja_fail(arena, -ENOTSUP, "a test that is not supported");
    for (size_t i = 0; !arena->error && i < list->n; i++) {
        struct jinja_value item = list->items[i];
        jinja_spend(arena, 0);
        if (attribute)
            item = jinja_item(arena, item, args->values[0]);
        if ((has_test ? jinja_test(arena, test.s, item, &rest) : jinja_truth(item)) == wanted)
            jinja_append(arena, out.list, list->items[i]);
    }
    return out;
}

static struct jinja_value filter_select(struct jinja_arena *arena, struct jinja_value v,
                                        const struct jinja_args *args)
{
    return choose(arena, v, args, false, true);
}

static struct jinja_value filter_reject(struct jinja_arena *arena, struct jinja_value v,
                                        const struct jinja_args *args)
{
    return choose(arena, v, args, false, false);
}

static struct jinja_value filter_selectattr(struct jinja_arena *arena, struct jinja_value v,
                                            const struct jinja_args *args)
{
    return choose(arena, v, args, true, true);
}

static struct jinja_value filter_rejectattr(struct jinja_arena *arena, struct jinja_value v,
                                            const struct jinja_args *args)
{
    return choose(arena, v, args, true, false);
}

/* Filters that are a method of the value's text. */
static struct jinja_value as_method(struct jinja_arena *arena, const char *name,
                                    struct jinja_value v, const struct jinja_args *args)
{
    return jinja_method(arena, jinja_literal(name), jinja_of_string(jinja_text(arena, v)), args);
}

static struct jinja_value filter_upper(struct jinja_arena *arena, struct jinja_value v,
                                       const struct jinja_args *args)
{
    return as_method(arena, "upper", v, args);
}

static struct jinja_value filter_lower(struct jinja_arena *arena, struct jinja_value v,
                                       const struct jinja_args *args)
{
    return as_method(arena, "lower", v, args);
}

static struct jinja_value filter_capitalize(struct jinja_arena *arena, struct jinja_value v,
                                            const struct jinja_args *args)
{
    return as_method(arena, "capitalize", v, args);
}

static struct jinja_value filter_replace(struct jinja_arena *arena, struct jinja_value v,
                                         const struct jinja_args *args)
{
    struct jinja_string s = jinja_text(arena, v);

    s.safe = false;
    return jinja_method(arena, jinja_literal("replace"), jinja_of_string(s), args);
}

static const struct {
    const char *name;
    filter_fn *fn;
} filters[] = {{"trim", filter_trim},
               {"length", filter_length},
               {"count", filter_length},
               {"tojson", filter_tojson},
               {"default", filter_default},
               {"d", filter_default},
               {"join", filter_join},
               {"first", filter_first},
               {"last", filter_last},
               {"list", filter_list},
               {"string", filter_string},
               {"int", filter_int},
               {"abs", filter_abs},
               {"items", filter_items},
               {"dictsort", filter_dictsort},
               {"reverse", filter_reverse},
               {"safe", filter_safe},
               {"indent", filter_indent},
               {"map", filter_map},
               {"select", filter_select},
               {"reject", filter_reject},
               {"selectattr", filter_selectattr},
               {"rejectattr", filter_rejectattr},
               {"upper", filter_upper},
               {"lower", filter_lower},
               {"capitalize", filter_capitalize},
               {"replace", filter_replace}};

bool jinja_has_filter(struct jinja_string name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (jinja_string_is(name, filters[i].name))
            return true;
    return false;
}

struct jinja_value jinja_filter(struct jinja_arena *arena, struct jinja_string name,
                                struct jinja_value v, const struct jinja_args *args)
{
    for (size_t i = 0; !arena->error && i < sizeof filters / sizeof *filters; i++)
        if (jinja_string_is(name, filters[i].name))
            return filters[i].fn(arena, v, args);
    return jinja_undefined(NULL);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Tests that look at the type alone. */
static const struct {
    const char *name;
    unsigned types; /* bits of enum jinja_type */
} type_tests[] = {
    {"undefined", 1u << JINJA_UNDEFINED},
    {"none", 1u << JINJA_NONE},
    {"string", 1u << JINJA_STRING},
    {"boolean", 1u << JINJA_BOOL},
    {"integer", 1u << JINJA_INT},
    {"float", 1u << JINJA_REAL},
    {"number", 1u << JINJA_INT | 1u << JINJA_REAL | 1u << JINJA_BOOL},
    {"mapping", 1u << JINJA_DICT},
    {"iterable", 1u << JINJA_UNDEFINED | 1u << JINJA_STRING | 1u << JINJA_LIST | 1u << JINJA_TUPLE |
                     1u << JINJA_DICT | 1u << JINJA_LOOP},
    {"sequence", 1u << JINJA_UNDEFINED | 1u << JINJA_STRING | 1u << JINJA_LIST | 1u << JINJA_TUPLE |
                     1u << JINJA_DICT},
    {"callable", 1u << JINJA_UNDEFINED | 1u << JINJA_MACRO | 1u << JINJA_FUNCTION},
};

static bool test_defined(struct jinja_arena *arena, struct jinja_value v,
                         const struct jinja_args *args)
{
    (void)arena;
    (void)args;
    return v.type != JINJA_UNDEFINED;
}

static bool test_true(struct jinja_arena *arena, struct jinja_value v,
                      const struct jinja_args *args)
{
    (void)arena;
    (void)args;
    return v.type == JINJA_BOOL && v.b;
}

static bool test_false(struct jinja_arena *arena, struct jinja_value v,
                       const struct jinja_args *args)
{
    (void)arena;
    (void)args;
    return v.type == JINJA_BOOL && !v.b;
}

static struct jinja_value other(const struct jinja_args *args)
{
    return jinja_arg(args, 0, NULL, jinja_none());
}

static bool test_equal(struct jinja_arena *arena, struct jinja_value v,
                       const struct jinja_args *args)
{
    return jinja_equal(arena, v, other(args));
}

static bool test_not_equal(struct jinja_arena *arena, struct jinja_value v,
                           const struct jinja_args *args)
{
    return !jinja_equal(arena, v, other(args));
}

static bool test_less(struct jinja_arena *arena, struct jinja_value v,
                      const struct jinja_args *args)
{
    return jinja_compare(arena, v, other(args)) < 0;
}

static bool test_greater(struct jinja_arena *arena, struct jinja_value v,
                         const struct jinja_args *args)
{
    return jinja_compare(arena, v, other(args)) > 0;
}

static bool test_in(struct jinja_arena *arena, struct jinja_value v, const struct jinja_args *args)
{
    return jinja_contains(arena, other(args), v);
}

static bool divides(struct jinja_arena *arena, struct jinja_value v, int64_t by, int64_t rest)
{
    if (v.type != JINJA_INT || by == 0) {
        jinja_fail(arena, -EINVAL, "%s is not divided", jinja_type_name(v));
        return false;
    }
    return by == -1 ? rest == 0 : llabs(v.i % by) == rest;
}

static bool test_even(struct jinja_arena *arena, struct jinja_value v,
                      const struct jinja_args *args)
{
    (void)args;
    return divides(arena, v, 2, 0);
}

static bool test_odd(struct jinja_arena *arena, struct jinja_value v, const struct jinja_args *args)
{
    (void)args;
    return divides(arena, v, 2, 1);
}

static bool test_divisible(struct jinja_arena *arena, struct jinja_value v,
                           const struct jinja_args *args)
{
    struct jinja_value by = other(args);

    return divides(arena, v, by.type == JINJA_INT ? by.i : 0, 0);
}

static const struct {
    const char *name;
    test_fn *fn;
} tests[] = {{"defined", test_defined}, {"true", test_true},
             {"false", test_false},     {"equalto", test_equal},
             {"eq", test_equal},        {"ne", test_not_equal},
             {"lt", test_less},         {"lessthan", test_less},
             {"gt", test_greater},      {"greaterthan", test_greater},
             {"in", test_in},           {"even", test_even},
             {"odd", test_odd},         {"divisibleby", test_divisible}};

bool jinja_has_test(struct jinja_string name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (jinja_string_is(name, tests[i].name))
            return true;
    for (size_t i = 0; i < sizeof type_tests / sizeof *type_tests; i++)
        if (jinja_string_is(name, type_tests[i].name))
            return true;
    return false;
}

bool jinja_test(struct jinja_arena *arena, struct jinja_string name, struct jinja_value v,
                const struct jinja_args *args)
{
    for (size_t i = 0; i < sizeof type_tests / sizeof *type_tests; i++)
        if (jinja_string_is(name, type_tests[i].name))
            return (type_tests[i].types >> v.type & 1) != 0;
    for (size_t i = 0; !arena->error && i < sizeof tests / sizeof *tests; i++)
        if (jinja_string_is(name, tests[i].name))
            return tests[i].fn(arena, v, args);
    return false;
}
