/* What a Jinja program may ask of a value: its parts, its methods; and functions (see
 * jinja_parts.h). */
#define _GNU_SOURCE /* memmem */
#include "chat/jinja_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- parts ----------------------------------------------------------------------------------- */

/* Methods that Python's dict has: a key of such a name is reached by [ ] alone. */
static bool hides_key(struct jinja_string name)
{
    static const char *const names[] = {"items", "keys",     "values",    "get",
                                        "copy",  "pop",      "popitem",   "update",
                                        "clear", "fromkeys", "setdefault"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (jinja_string_is(name, names[i]))
            return true;
    return false;
}

static void undefined_used(struct jinja_arena *arena, struct jinja_value v)
{
    jinja_fail(arena, -EINVAL, "%.80s is undefined", v.function ? v.function : "a value");
}

struct jinja_value jinja_attribute(struct jinja_arena *arena, struct jinja_value v,
                                   struct jinja_string name)
{
    const struct jinja_value *found = NULL;

    if (v.type == JINJA_UNDEFINED)
        undefined_used(arena, v);
    if (arena->error)
        return v;
    if (v.type == JINJA_DICT && hides_key(name))
        return (struct jinja_value){.type = JINJA_FUNCTION, .function = "a method"};
    if (v.type == JINJA_STRING && jinja_has_method(name) && !hides_key(name))
        return (struct jinja_value){.type = JINJA_FUNCTION, .function = "a method"};
    if (v.type == JINJA_DICT || v.type == JINJA_NAMESPACE || v.type == JINJA_LOOP) {
        jinja_spend(arena, 16 * v.dict->n);
        found = jinja_get(v.dict, name);
    }
    return found ? *found : jinja_undefined("an attribute");
}

static int64_t list_index(int64_t i, size_t n)
{
    return i < 0 ? i + (int64_t)n : i;
}

struct jinja_value jinja_item(struct jinja_arena *arena, struct jinja_value v,
                              struct jinja_value key)
{
    const struct jinja_value *found;
    int64_t i;

    if (v.type == JINJA_UNDEFINED)
        undefined_used(arena, v);
    if (arena->error)
        return v;
    if (key.type == JINJA_STRING) {
        if (v.type != JINJA_DICT)
            return jinja_attribute(arena, v, key.s);
        jinja_spend(arena, 16 * v.dict->n);
        found = jinja_get(v.dict, key.s);
        return found ? *found : jinja_attribute(arena, v, key.s);
    }
    if (key.type != JINJA_INT)
        return jinja_undefined("an element");
    if (v.type == JINJA_LIST || v.type == JINJA_TUPLE) {
        i = list_index(key.i, v.list->n);
        return i >= 0 && (uint64_t)i < v.list->n ? v.list->items[i] : jinja_undefined("an element");
    }
    if (v.type == JINJA_STRING) {
        size_t n = jinja_characters(v.s), begin;
        jinja_spend(arena, v.s.n);
        i = list_index(key.i, n);
        if (i < 0 || (uint64_t)i >= n)
            return jinja_undefined("a character");
        begin = jinja_offset(v.s, (size_t)i);
        return jinja_of_string(
            jinja_part(v.s, begin, begin + jinja_offset(jinja_part(v.s, begin, v.s.n), 1)));
    }
    return jinja_undefined("an element");
}

/* A bound of a slice: `otherwise` where there is none, else within low … high. */
static int64_t bound(struct jinja_arena *arena, struct jinja_value v, int64_t otherwise, int64_t n,
                     int64_t low, int64_t high)
{
    int64_t i;

    if (v.type == JINJA_NONE)
        return otherwise;
    if (v.type != JINJA_INT)
        jinja_fail(arena, -EINVAL, "a slice has a bound that is no number");
    if (arena->error)
        return low;
    i = v.i < 0 ? (v.i < -n ? -1 - n : v.i) + n : v.i;
    return i < low ? low : i > high ? high : i;
}

/* Characters begin, begin + step … before end, of a list or string with n of them. */
static struct jinja_value pick(struct jinja_arena *arena, struct jinja_value v, int64_t begin,
                               int64_t end, int64_t step)
{
    struct jinja_value out;
    struct jinja_list *all;
    struct jinja_builder b = {.arena = arena};

    if (v.type == JINJA_STRING && step == 1) {
        size_t from = jinja_offset(v.s, (size_t)begin), to = jinja_offset(v.s, (size_t)end);
        return jinja_of_string(jinja_part(v.s, from, to));
    }
    all = jinja_iterate(arena, v);
    out = jinja_new_list(arena, v.type == JINJA_TUPLE ? JINJA_TUPLE : JINJA_LIST, 0);
    for (int64_t i = begin; !arena->error && (step > 0 ? i < end : i > end); i += step) {
        if (v.type == JINJA_STRING)
            jinja_build(&b, all->items[i].s);
        else
            jinja_append(arena, out.list, all->items[i]);
    }
    return v.type == JINJA_STRING ? jinja_of_string(jinja_built(&b)) : out;
}

struct jinja_value jinja_slice(struct jinja_arena *arena, struct jinja_value v,
                               struct jinja_value begin, struct jinja_value end,
                               struct jinja_value step)
{
    int64_t n, by = step.type == JINJA_INT ? step.i : 1;

    if (v.type == JINJA_UNDEFINED)
        undefined_used(arena, v);
    else if (v.type != JINJA_STRING && v.type != JINJA_LIST && v.type != JINJA_TUPLE)
        jinja_fail(arena, -EINVAL, "%s has no slices", jinja_type_name(v));
    else if ((step.type != JINJA_INT && step.type != JINJA_NONE) || by == 0 || by < -1000 ||
             by > 1000)
        jinja_fail(arena, -EINVAL, "a slice has a step that is none");
    if (arena->error)
        return jinja_undefined(NULL);
    jinja_spend(arena, v.type == JINJA_STRING ? v.s.n : 8 * v.list->n);
    n = (int64_t)(v.type == JINJA_STRING ? jinja_characters(v.s) : v.list->n);
    int64_t from =
        by > 0 ? bound(arena, begin, 0, n, 0, n) : bound(arena, begin, n - 1, n, -1, n - 1);
    int64_t to = by > 0 ? bound(arena, end, n, n, 0, n) : bound(arena, end, -1, n, -1, n - 1);
    return pick(arena, v, from, by > 0 && to < from ? from : to, by);
}

struct jinja_list *jinja_iterate(struct jinja_arena *arena, struct jinja_value v)
{
    struct jinja_value list = jinja_new_list(arena, JINJA_LIST, 0);

    if (arena->error)
        return NULL;
    switch (v.type) {
    case JINJA_UNDEFINED:
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.list;
    case JINJA_DICT:
        for (size_t i = 0; i < v.dict->n; i++)
            jinja_append(arena, list.list, jinja_of_string(v.dict->pairs[i].key));
        break;
    case JINJA_STRING:
        for (size_t i = 0, n; i < v.s.n && !arena->error; i += n) {
            n = jinja_offset(jinja_part(v.s, i, v.s.n), 1);
            jinja_append(arena, list.list, jinja_of_string(jinja_part(v.s, i, i + n)));
        }
        break;
    default:
        jinja_fail(arena, -EINVAL, "%s is not iterable", jinja_type_name(v));
    }
    return list.list;
}

static bool has_part(struct jinja_string s, struct jinja_string part)
{
    return part.n == 0 || (s.n >= part.n && memmem(s.s, s.n, part.s, part.n));
}

bool jinja_contains(struct jinja_arena *arena, struct jinja_value in, struct jinja_value v)
{
    switch (in.type) {
    case JINJA_STRING:
        if (v.type != JINJA_STRING)
            jinja_fail(arena, -EINVAL, "%s is in no text", jinja_type_name(v));
        jinja_spend(arena, in.s.n);
        return !arena->error && has_part(in.s, v.s);
    case JINJA_LIST:
    case JINJA_TUPLE:
        for (size_t i = 0; i < in.list->n; i++)
            if (jinja_equal(arena, in.list->items[i], v))
                return true;
        return false;
    case JINJA_DICT:
        jinja_spend(arena, 16 * in.dict->n);
        return v.type == JINJA_STRING && jinja_get(in.dict, v.s);
    case JINJA_UNDEFINED:
        return false;
    default:
        jinja_fail(arena, -EINVAL, "%s holds nothing", jinja_type_name(in));
        return false;
    }
}

/* ---- methods of texts ------------------------------------------------------------------------ */

/* Bytes of the character that s begins with, or (at_end) ends with. */
static size_t character_at(struct jinja_string s, bool at_end)
{
    size_t n = 1;

    if (!at_end)
        return jinja_offset(s, 1);
    while (n < s.n && ((unsigned char)s.s[s.n - n] & 0xc0) == 0x80)
        n++;
    return n;
}

struct jinja_string jinja_trim(struct jinja_string s, struct jinja_value characters, bool left,
                               bool right)
{
    size_t n;

    if (characters.type != JINJA_STRING) {
        struct chat_span all = {s.s, s.n}, part = chat_span_trim(all, left, right);
        size_t begin = (size_t)(part.s - s.s);
        return jinja_part(s, begin, begin + part.len);
    }
    while (left && s.n > 0) {
        n = character_at(s, false);
        if (!has_part(characters.s, jinja_part(s, 0, n)))
            break;
        s = jinja_part(s, n, s.n);
    }
    while (right && s.n > 0) {
        n = character_at(s, true);
        if (!has_part(characters.s, jinja_part(s, s.n - n, s.n)))
            break;
        s = jinja_part(s, 0, s.n - n);
    }
    return s;
}

static bool affix(struct jinja_string s, struct jinja_string part, bool at_end)
{
    return s.n >= part.n &&
           (part.n == 0 || memcmp(at_end ? s.s + s.n - part.n : s.s, part.s, part.n) == 0);
}

/* startswith, endswith; of a tuple: any. */
static struct jinja_value has_affix(struct jinja_arena *arena, struct jinja_string s,
                                    struct jinja_value part, bool at_end)
{
    if (part.type == JINJA_STRING)
        return jinja_of_bool(affix(s, part.s, at_end));
    if (part.type != JINJA_TUPLE)
        jinja_fail(arena, -EINVAL, "a text begins or ends with no %s", jinja_type_name(part));
    for (size_t i = 0; !arena->error && i < part.list->n; i++)
        if (part.list->items[i].type == JINJA_STRING && affix(s, part.list->items[i].s, at_end))
            return jinja_of_bool(true);
    return jinja_of_bool(false);
}

/* Characters beyond ASCII that have no capitals in any script. */
static bool without_case(struct jinja_string s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.s[i], d = i + 1 < s.n ? (unsigned char)s.s[i + 1] : 0;
        if (c < 0xc0)
            continue;
        /* U+0590–07FF; U+0900–0FFF; U+2000–20FF; U+3000–9FFF; U+AC00–D7FF; U+1F000–1FFFF */
        if ((c == 0xd6 && d >= 0x90) || (c >= 0xd7 && c <= 0xdf) || (c == 0xe0 && d >= 0xa4) ||
            (c == 0xe2 && d <= 0x83) || (c >= 0xe3 && c <= 0xe9) || (c == 0xea && d >= 0xb0) ||
            (c >= 0xeb && c <= 0xed) || (c == 0xf0 && d == 0x9f))
            continue;
        return false;
    }
    return true;
}

/* Letters from `from` up to `to` in capitals or small; fails where that is not plain. */
static struct jinja_string cased(struct jinja_arena *arena, struct jinja_string s, bool upper,
                                 bool first_other)
{
    char *out = jinja_take(arena, s.n + 1, 1);

    jinja_spend(arena, s.n);
    if (!without_case(s))
        jinja_fail(arena, -ENOTSUP, "capitals of letters beyond ASCII");
    for (size_t i = 0; !arena->error && i < s.n; i++) {
        bool up = i == 0 && first_other ? !upper : upper;
        char c = s.s[i];
        out[i] = up && c >= 'a' && c <= 'z'    ? (char)(c - 32)
                 : !up && c >= 'A' && c <= 'Z' ? (char)(c + 32)
                                               : c;
    }
    return arena->error ? s : (struct jinja_string){out, s.own, s.n, s.safe};
}

static int64_t count_of(struct jinja_value v)
{
    return v.type == JINJA_INT && v.i >= 0 ? v.i : INT64_MAX;
}

static struct jinja_value split_at(struct jinja_arena *arena, struct jinja_string s,
                                   struct jinja_string by, int64_t most)
{
    struct jinja_value out = jinja_new_list(arena, JINJA_LIST, 0);
    const char *at;

    if (by.n == 0)
        jinja_fail(arena, -EINVAL, "empty separator");
    while (!arena->error && most-- > 0 && s.n >= by.n && (at = memmem(s.s, s.n, by.s, by.n))) {
        size_t n = (size_t)(at - s.s);
        jinja_append(arena, out.list, jinja_of_string(jinja_part(s, 0, n)));
        s = jinja_part(s, n + by.n, s.n);
    }
    if (!arena->error)
        jinja_append(arena, out.list, jinja_of_string(s));
    return out;
}

/* Without a separator: words between white space. */
static struct jinja_value split_words(struct jinja_arena *arena, struct jinja_string s,
                                      int64_t most)
{
    struct jinja_value out = jinja_new_list(arena, JINJA_LIST, 0);

    for (s = jinja_trim(s, jinja_none(), true, false); !arena->error && s.n > 0;
         s = jinja_trim(s, jinja_none(), true, false)) {
        size_t n = 0;
        if (most-- <= 0) {
            jinja_append(arena, out.list, jinja_of_string(s));
            return out;
        }
        while (n < s.n && jinja_trim(jinja_part(s, n, n + jinja_offset(jinja_part(s, n, s.n), 1)),
                                     jinja_none(), true, false)
                                  .n > 0)
            n += jinja_offset(jinja_part(s, n, s.n), 1);
        jinja_append(arena, out.list, jinja_of_string(jinja_part(s, 0, n)));
        s = jinja_part(s, n, s.n);
    }
    return out;
}

/* From the right, with a separator. */
static struct jinja_value rsplit_at(struct jinja_arena *arena, struct jinja_string s,
                                    struct jinja_string by, int64_t most)
{
    struct jinja_value all = split_at(arena, s, by, INT64_MAX);
    struct jinja_value out = jinja_new_list(arena, JINJA_LIST, 0);
    size_t joined, n = 0;

    if (arena->error || (uint64_t)most >= all.list->n - 1)
        return all;
    joined = all.list->n - (size_t)most; /* the first so many stay together */
    for (size_t i = 0; i < joined; i++)
        n += all.list->items[i].s.n + (i > 0 ? by.n : 0);
    jinja_append(arena, out.list, jinja_of_string(jinja_part(s, 0, n)));
    for (size_t i = joined; i < all.list->n; i++)
        jinja_append(arena, out.list, all.list->items[i]);
    return out;
}

static struct jinja_value replace(struct jinja_arena *arena, struct jinja_string s,
                                  struct jinja_string from, struct jinja_string to, int64_t most)
{
    struct jinja_builder b = {.arena = arena};
    size_t n;

    if (from.n == 0 && most > 0) {
        for (; s.n > 0 && most-- > 0 && !arena->error; s = jinja_part(s, n, s.n)) {
            n = jinja_offset(s, 1);
            jinja_build(&b, to);
            jinja_build(&b, jinja_part(s, 0, n));
        }
        if (most > 0)
            jinja_build(&b, to);
    }
    while (!arena->error && from.n > 0 && most-- > 0) {
        const char *at = s.n >= from.n ? memmem(s.s, s.n, from.s, from.n) : NULL;
        if (!at)
            break;
        n = (size_t)(at - s.s);
        jinja_build(&b, jinja_part(s, 0, n));
        jinja_build(&b, to);
        s = jinja_part(s, n + from.n, s.n);
    }
    jinja_build(&b, s);
    return jinja_of_string(jinja_built(&b));
}

/* Number of the character at which part is found first or last; -1: nowhere. */
static int64_t find(struct jinja_arena *arena, struct jinja_string s, struct jinja_string part,
                    bool last)
{
    if (part.n > s.n)
        return -1;
    for (size_t k = 0; k <= s.n - part.n && !arena->error; k++) {
        size_t i = last ? s.n - part.n - k : k;
        if (part.n == 0 || memcmp(s.s + i, part.s, part.n) == 0)
            return (int64_t)jinja_characters(jinja_part(s, 0, i));
        if (k % 64 == 0)
            jinja_spend(arena, 8 * part.n);
    }
    return -1;
}

static int64_t occurrences(struct jinja_string s, struct jinja_string part)
{
    int64_t n = 0;
    const char *at;

    if (part.n == 0)
        return (int64_t)jinja_characters(s) + 1;
    for (; s.n >= part.n && (at = memmem(s.s, s.n, part.s, part.n)); n++)
        s = jinja_part(s, (size_t)(at - s.s) + part.n, s.n);
    return n;
}

static struct jinja_string wanted_string(struct jinja_arena *arena, const struct jinja_args *args,
                                         size_t i)
{
    struct jinja_value v = jinja_arg(args, i, NULL, jinja_none());

    if (v.type != JINJA_STRING) {
        jinja_fail(arena, -EINVAL, "a method of a text wants a text");
        return (struct jinja_string){"", NULL, 0, false};
    }
    return v.s;
}

static struct jinja_value join(struct jinja_arena *arena, struct jinja_string between,
                               struct jinja_value v)
{
    struct jinja_list *list = jinja_iterate(arena, v);
    struct jinja_builder b = {.arena = arena};

    for (size_t i = 0; !arena->error && i < list->n; i++) {
        if (list->items[i].type != JINJA_STRING)
            jinja_fail(arena, -EINVAL, "what is joined is no text");
        jinja_build(&b, i > 0 ? between : jinja_literal(""));
        if (!arena->error)
            jinja_build(&b, list->items[i].s);
    }
    return jinja_of_string(jinja_built(&b));
}

enum method {
    METHOD_STRIP,
    METHOD_LSTRIP,
    METHOD_RSTRIP,
    METHOD_SPLIT,
    METHOD_RSPLIT,
    METHOD_STARTSWITH,
    METHOD_ENDSWITH,
    METHOD_UPPER,
    METHOD_LOWER,
    METHOD_CAPITALIZE,
    METHOD_REPLACE,
    METHOD_JOIN,
    METHOD_FIND,
    METHOD_RFIND,
    METHOD_COUNT,
    METHOD_REMOVEPREFIX,
    METHOD_REMOVESUFFIX,
    METHOD_GET,
    METHOD_ITEMS,
    METHOD_KEYS,
    METHOD_VALUES,
    METHODS
};
static const char *const method_names[METHODS] = {
    "strip", "lstrip",       "rstrip",       "split",   "rsplit", "startswith", "endswith",
    "upper", "lower",        "capitalize",   "replace", "join",   "find",       "rfind",
    "count", "removeprefix", "removesuffix", "get",     "items",  "keys",       "values"};

static struct jinja_value string_method(struct jinja_arena *arena, enum method method,
                                        struct jinja_string s, const struct jinja_args *args)
{
    struct jinja_value first =
        jinja_arg(args, 0, method <= METHOD_RSPLIT ? "sep" : NULL, jinja_none());
    int64_t most =
        count_of(jinja_arg(args, method == METHOD_REPLACE ? 2 : 1, "maxsplit", jinja_none()));
    struct jinja_string part = {"", NULL, 0, false};

    jinja_spend(arena, s.n);
    if (s.safe && (method == METHOD_REPLACE || method == METHOD_JOIN))
        jinja_fail(arena, -ENOTSUP, "%s of a text that is marked safe", method_names[method]);
    if (method >= METHOD_REPLACE && method != METHOD_JOIN)
        part = wanted_string(arena, args, 0);
    if (arena->error)
        return jinja_undefined(NULL);
    switch (method) {
    case METHOD_STRIP:
    case METHOD_LSTRIP:
    case METHOD_RSTRIP:
        if (first.type == JINJA_STRING && first.s.n > 64)
            jinja_fail(arena, -ENOTSUP, "so many characters to strip");
        return jinja_of_string(
            jinja_trim(s, first, method != METHOD_RSTRIP, method != METHOD_LSTRIP));
    case METHOD_SPLIT:
    case METHOD_RSPLIT:
        if (first.type == JINJA_STRING)
            return (method == METHOD_SPLIT ? split_at : rsplit_at)(arena, s, first.s, most);
        if (method == METHOD_RSPLIT && most != INT64_MAX)
            jinja_fail(arena, -ENOTSUP, "rsplit at white space");
        return split_words(arena, s, most);
    case METHOD_STARTSWITH:
    case METHOD_ENDSWITH:
        return has_affix(arena, s, first, method == METHOD_ENDSWITH);
    case METHOD_UPPER:
    case METHOD_LOWER:
        return jinja_of_string(cased(arena, s, method == METHOD_UPPER, false));
    case METHOD_CAPITALIZE:
        return jinja_of_string(cased(arena, s, false, true));
    case METHOD_REPLACE:
        return replace(arena, s, part, wanted_string(arena, args, 1), most);
    case METHOD_JOIN:
        return join(arena, s, first);
    case METHOD_FIND:
    case METHOD_RFIND:
        return jinja_of_int(find(arena, s, part, method == METHOD_RFIND));
    case METHOD_COUNT:
        return jinja_of_int(occurrences(s, part));
    case METHOD_REMOVEPREFIX:
        return jinja_of_string(affix(s, part, false) ? jinja_part(s, part.n, s.n) : s);
    case METHOD_REMOVESUFFIX:
        return jinja_of_string(affix(s, part, true) ? jinja_part(s, 0, s.n - part.n) : s);
    default:
        jinja_fail(arena, -EINVAL, "a text has no method %s", method_names[method]);
        return jinja_undefined(NULL);
    }
}

/* ---- methods of dicts ------------------------------------------------------------------------ */

static struct jinja_value dict_method(struct jinja_arena *arena, enum method method,
                                      const struct jinja_dict *dict, const struct jinja_args *args)
{
    struct jinja_value out, pair, key = jinja_arg(args, 0, NULL, jinja_none());
    const struct jinja_value *found;

    jinja_spend(arena, 16 * dict->n);
    if (method == METHOD_GET) {
        found = key.type == JINJA_STRING ? jinja_get(dict, key.s) : NULL;
        return found ? *found : jinja_arg(args, 1, NULL, jinja_none());
    }
    if (method < METHOD_GET) {
        jinja_fail(arena, -EINVAL, "a dict has no method %s", method_names[method]);
        return jinja_undefined(NULL);
    }
    out = jinja_new_list(arena, JINJA_LIST, 0);
    for (size_t i = 0; !arena->error && i < dict->n; i++) {
        if (method != METHOD_ITEMS) {
            jinja_append(arena, out.list,
                         method == METHOD_KEYS ? jinja_of_string(dict->pairs[i].key)
                                               : dict->pairs[i].value);
            continue;
        }
        pair = jinja_new_list(arena, JINJA_TUPLE, 2);
        if (arena->error)
            break;
        jinja_append(arena, pair.list, jinja_of_string(dict->pairs[i].key));
        jinja_append(arena, pair.list, dict->pairs[i].value);
        jinja_append(arena, out.list, pair);
    }
    return out;
}

/* Methods that change a value: Jinja's sandbox has them fail where they are called. */
static bool changes_value(struct jinja_string name)
{
    static const char *const names[] = {"append",  "clear",  "extend",     "insert", "pop",
                                        "popitem", "remove", "setdefault", "update"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (jinja_string_is(name, names[i]))
            return true;
    return false;
}

bool jinja_has_method(struct jinja_string name)
{
    if (changes_value(name))
        return true;
    for (size_t i = 0; i < METHODS; i++)
        if (jinja_string_is(name, method_names[i]))
            return true;
    return false;
}

struct jinja_value jinja_method(struct jinja_arena *arena, struct jinja_string name,
                                struct jinja_value v, const struct jinja_args *args)
{
    if (changes_value(name))
        jinja_fail(arena, -EINVAL, "a value would be changed in place");
    for (size_t i = 0; !arena->error && i < METHODS; i++) {
        if (!jinja_string_is(name, method_names[i]))
            continue;
        if (v.type == JINJA_STRING)
            return string_method(arena, (enum method)i, v.s, args);
        if (v.type == JINJA_DICT)
            return dict_method(arena, (enum method)i, v.dict, args);
        if (v.type == JINJA_UNDEFINED)
            undefined_used(arena, v);
        else
            jinja_fail(arena, -EINVAL, "%s has no method %s", jinja_type_name(v), method_names[i]);
    }
    return jinja_undefined(NULL);
}

/* ---- functions ------------------------------------------------------------------------------- */

static struct jinja_value range(struct jinja_arena *arena, const struct jinja_args *args)
{
    int64_t part[3] = {0, 0, 1};
    struct jinja_value out = jinja_new_list(arena, JINJA_LIST, 0);

    for (size_t i = 0; i < args->n && i < 3; i++) {
        if (args->values[i].type != JINJA_INT || llabs(args->values[i].i) > 1000000) {
            jinja_fail(arena, -EINVAL, "a range has a bound that is none");
            return out;
        }
        part[i] = args->values[i].i;
    }
    if (args->n == 1) {
        part[1] = part[0];
        part[0] = 0;
    }
    if (args->n == 0 || part[2] == 0)
        jinja_fail(arena, -EINVAL, "a range has no bound, or no step");
    for (int64_t i = part[0]; !arena->error && (part[2] > 0 ? i < part[1] : i > part[1]);
         i += part[2]) {
        jinja_spend(arena, 0);
        jinja_append(arena, out.list, jinja_of_int(i));
    }
    return out;
}

static struct jinja_value now(struct jinja_arena *arena, const struct jinja_args *args)
{
    struct jinja_string format = wanted_string(arena, args, 0);
    char pattern[128], text[256];
    time_t seconds = time(NULL);
    struct tm tm;
    size_t n;

    if (arena->error || format.n == 0 || format.n >= sizeof pattern ||
        !localtime_r(&seconds, &tm)) {
        jinja_fail(arena, -EINVAL, "strftime_now has no format");
        return jinja_undefined(NULL);
    }
    memcpy(pattern, format.s, format.n);
    pattern[format.n] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    n = strftime(text, sizeof text, pattern, &tm);
#pragma GCC diagnostic pop
    struct jinja_builder b = {.arena = arena};
    jinja_build(&b, (struct jinja_string){text, NULL, n, false});
    return jinja_of_string(jinja_built(&b));
}

struct jinja_value jinja_function(struct jinja_arena *arena, const char *name,
                                  const struct jinja_args *args)
{
    struct jinja_value out = jinja_undefined(NULL), from = jinja_arg(args, 0, NULL, jinja_none());

    if (!strcmp(name, "raise_exception")) {
        struct jinja_string s = jinja_text(arena, from);
        jinja_fail(arena, -EINVAL, "%.*s", (int)(s.n < 200 ? s.n : 200), s.s);
    } else if (!strcmp(name, "range")) {
        out = range(arena, args);
    } else if (!strcmp(name, "strftime_now")) {
        out = now(arena, args);
    } else if (!strcmp(name, "namespace") || !strcmp(name, "dict")) {
        out = jinja_new_dict(arena, *name == 'n' ? JINJA_NAMESPACE : JINJA_DICT);
        for (size_t i = 0; from.type == JINJA_DICT && !arena->error && i < from.dict->n; i++)
            jinja_put(arena, out.dict, from.dict->pairs[i].key, from.dict->pairs[i].value);
        for (size_t i = 0; !arena->error && i < args->n_named; i++)
            jinja_put(arena, out.dict, args->names[i], args->named[i]);
    } else {
        jinja_fail(arena, -EINVAL, "%s is called as a function", name);
    }
    return out;
}
