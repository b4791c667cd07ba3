/* Memory, strings and values of the Jinja interpreter (see jinja_parts.h). */
#include "chat/jinja_parts.h"

#include "chat/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---------------------------------------------------------------------------------- */

struct jinja_chunk {
    struct jinja_chunk *next;
    size_t n, used;
    max_align_t bytes[];
};

enum { CHUNK_BYTES = 16384, SINK_BYTES = 4096 };

/* What is handed out after an error: nothing that is written there is ever looked at. */
static void *sink(size_t bytes)
{
    static _Alignas(max_align_t) _Thread_local char shared[SINK_BYTES];

    if (bytes <= sizeof shared)
        return memset(shared, 0, sizeof shared);
    return NULL;
}

void *jinja_take(struct jinja_arena *arena, size_t n, size_t size)
{
    struct jinja_chunk *chunk = arena->chunks;
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 4)
        bytes = SIZE_MAX / 4;
    bytes = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (arena->error)
        return sink(bytes);
    if (!chunk || chunk->n - chunk->used < bytes) {
        size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        if (room > arena->limit || arena->used > arena->limit - room) {
            jinja_fail(arena, -E2BIG, "it takes more than %zu MiB of memory", arena->limit >> 20);
            return sink(bytes);
        }
        chunk = calloc(1, sizeof *chunk + room);
        if (!chunk) {
            jinja_fail(arena, -ENOMEM, "not enough memory");
            return sink(bytes);
        }
        chunk->n = room;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->used += room;
    }
    void *piece = (char *)chunk->bytes + chunk->used;
    chunk->used += bytes;
    return piece;
}

void jinja_arena_done(struct jinja_arena *arena)
{
    while (arena->chunks) {
        struct jinja_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
}

void jinja_spend(struct jinja_arena *arena, size_t n)
{
    arena->work += 1 + n / 64;
    if (arena->work > arena->work_max)
        jinja_fail(arena, -E2BIG, "it takes more than %" PRIu64 " steps", arena->work_max);
}

void jinja_fail(struct jinja_arena *arena, int error, const char *format, ...)
{
    va_list args;
    char what[300];

    if (arena->error)
        return;
    arena->error = error;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (arena->line > 0)
        snprintf(arena->why, arena->why_size, "the chat template, line %" PRIu32 ": %s",
                 arena->line, what);
    else
        snprintf(arena->why, arena->why_size, "the chat template: %s", what);
}

/* ---- strings --------------------------------------------------------------------------------- */

bool jinja_string_is(struct jinja_string s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

bool jinja_strings_equal(struct jinja_string a, struct jinja_string b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.s, b.s, a.n) == 0);
}

struct jinja_string jinja_literal(const char *s)
{
    return (struct jinja_string){s, NULL, strlen(s), false};
}

struct jinja_string jinja_part(struct jinja_string s, size_t begin, size_t end)
{
    if (end < begin)
        end = begin;
    return (struct jinja_string){s.s + begin, s.own ? s.own + begin : NULL, end - begin, s.safe};
}

size_t jinja_characters(struct jinja_string s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.s[i] & 0xc0) != 0x80;
    return n;
}

size_t jinja_offset(struct jinja_string s, size_t n_characters)
{
    size_t i = 0;

    for (; i < s.n; i++)
        if (((unsigned char)s.s[i] & 0xc0) != 0x80 && n_characters-- == 0)
            break;
    return i;
}

void jinja_build(struct jinja_builder *b, struct jinja_string s)
{
    if (b->arena->error || s.n == 0)
        return;
    if (s.n > b->capacity - b->n) {
        size_t capacity = 2 * b->capacity + s.n + 64;
        char *text = jinja_take(b->arena, capacity, 1);
        uint8_t *own = jinja_take(b->arena, capacity, 1);
        if (b->arena->error)
            return;
        if (b->n > 0) {
            memcpy(text, b->s, b->n);
            memcpy(own, b->own, b->n);
        }
        b->s = text;
        b->own = own;
        b->capacity = capacity;
    }
    memcpy(b->s + b->n, s.s, s.n);
    if (s.own)
        memcpy(b->own + b->n, s.own, s.n);
    else
        memset(b->own + b->n, 0, s.n);
    b->n += s.n;
}

struct jinja_string jinja_built(const struct jinja_builder *b)
{
    if (b->n == 0 || b->arena->error)
        return (struct jinja_string){"", NULL, 0, false};
    return (struct jinja_string){b->s, b->own, b->n, false};
}

/* A copy, of bytes that are not the template's. */
static struct jinja_string copied(struct jinja_arena *arena, const char *s, size_t n)
{
    char *copy = jinja_take(arena, n + 1, 1);

    if (arena->error)
        return (struct jinja_string){"", NULL, 0, false};
    memcpy(copy, s, n);
    return (struct jinja_string){copy, NULL, n, false};
}

/* ---- making values --------------------------------------------------------------------------- */

struct jinja_value jinja_of_string(struct jinja_string s)
{
    return (struct jinja_value){.type = JINJA_STRING, .s = s};
}

struct jinja_value jinja_of_bool(bool b)
{
    return (struct jinja_value){.type = JINJA_BOOL, .b = b};
}

struct jinja_value jinja_of_int(int64_t i)
{
    return (struct jinja_value){.type = JINJA_INT, .i = i};
}

struct jinja_value jinja_undefined(const char *name)
{
    return (struct jinja_value){.type = JINJA_UNDEFINED, .function = name};
}

struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.type = JINJA_NONE};
}

struct jinja_value jinja_new_list(struct jinja_arena *arena, enum jinja_type type, size_t capacity)
{
    struct jinja_list *list = jinja_take(arena, 1, sizeof *list);

    if (arena->error)
        return jinja_undefined(NULL);
    if (capacity > 0)
        list->items = jinja_take(arena, capacity, sizeof *list->items);
    list->capacity = arena->error ? 0 : capacity;
    return (struct jinja_value){.type = type, .list = list};
}

struct jinja_value jinja_new_dict(struct jinja_arena *arena, enum jinja_type type)
{
    struct jinja_dict *dict = jinja_take(arena, 1, sizeof *dict);

    if (arena->error)
        return jinja_undefined(NULL);
    return (struct jinja_value){.type = type, .dict = dict};
}

void jinja_append(struct jinja_arena *arena, struct jinja_list *list, struct jinja_value value)
{
    if (arena->error)
        return;
    if (list->n == list->capacity) {
        size_t capacity = 2 * list->capacity + 4;
        struct jinja_value *more = jinja_take(arena, capacity, sizeof *more);
        if (arena->error)
            return;
        if (list->n > 0)
            memcpy(more, list->items, list->n * sizeof *more);
        list->items = more;
        list->capacity = capacity;
    }
    list->items[list->n++] = value;
}

const struct jinja_value *jinja_get(const struct jinja_dict *dict, struct jinja_string key)
{
    for (size_t i = 0; i < dict->n; i++)
        if (jinja_strings_equal(dict->pairs[i].key, key))
            return &dict->pairs[i].value;
    return NULL;
}

void jinja_put(struct jinja_arena *arena, struct jinja_dict *dict, struct jinja_string key,
               struct jinja_value value)
{
    struct jinja_value *old;

    if (arena->error)
        return;
    old = (struct jinja_value *)jinja_get(dict, key);
    if (old) {
        *old = value;
        return;
    }
    if (dict->n == dict->capacity) {
        size_t capacity = 2 * dict->capacity + 4;
        struct jinja_pair *more = jinja_take(arena, capacity, sizeof *more);
        if (arena->error)
            return;
        if (dict->n > 0)
            memcpy(more, dict->pairs, dict->n * sizeof *more);
        dict->pairs = more;
        dict->capacity = capacity;
    }
    dict->pairs[dict->n++] = (struct jinja_pair){key, value};
}

struct jinja_value jinja_of_json(struct jinja_arena *arena, const json_t *json, unsigned depth)
{
    struct jinja_value v = jinja_none();
    const char *key;
    json_t *item;
    size_t i, n;

    if (depth > 64) {
        jinja_fail(arena, -ENOTSUP, "the conversation's JSON is nested too deep");
        return v;
    }
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        v = jinja_new_dict(arena, JINJA_DICT);
        if (arena->error)
            return v;
        v.dict->capacity = json_object_size(json);
        v.dict->pairs = jinja_take(arena, v.dict->capacity, sizeof *v.dict->pairs);
        json_object_keylen_foreach((json_t *)json, key, n, item)
        {
            struct jinja_value value = jinja_of_json(arena, item, depth + 1);
            if (arena->error)
                return v;
            v.dict->pairs[v.dict->n++] =
                (struct jinja_pair){copied(arena, key, n), value}; /* keys are all different */
        }
        return v;
    case JSON_ARRAY:
        v = jinja_new_list(arena, JINJA_LIST, json_array_size(json));
        json_array_foreach((json_t *)json, i, item)
        {
            if (arena->error)
                return v;
            jinja_append(arena, v.list, jinja_of_json(arena, item, depth + 1));
        }
        return v;
    case JSON_STRING: /* the JSON outlives the rendering */
        return jinja_of_string(
            (struct jinja_string){json_string_value(json), NULL, json_string_length(json), false});
    case JSON_INTEGER:
        return jinja_of_int(json_integer_value(json));
    case JSON_REAL:
        return (struct jinja_value){.type = JINJA_REAL, .d = json_real_value(json)};
    case JSON_TRUE:
    case JSON_FALSE:
        return jinja_of_bool(json_is_true(json));
    case JSON_NULL:
        break;
    }
    return v;
}

/* ---- what Python says of them ---------------------------------------------------------------- */

bool jinja_truth(struct jinja_value v)
{
    switch (v.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.b;
    case JINJA_INT:
        return v.i != 0;
    case JINJA_REAL:
        return v.d != 0;
    case JINJA_STRING:
        return v.s.n > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.list->n > 0;
    case JINJA_DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

bool jinja_is_number(struct jinja_value v)
{
    return v.type == JINJA_BOOL || v.type == JINJA_INT || v.type == JINJA_REAL;
}

double jinja_as_real(struct jinja_value v)
{
    return v.type == JINJA_REAL ? v.d : v.type == JINJA_INT ? (double)v.i : (double)v.b;
}

static int64_t as_int(struct jinja_value v)
{
    return v.type == JINJA_INT ? v.i : v.b;
}

static bool equal(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b,
                  unsigned depth)
{
    if (depth > 64) {
        jinja_fail(arena, -ENOTSUP, "values are nested too deep to compare");
        return false;
    }
    if (jinja_is_number(a) && jinja_is_number(b))
        return a.type == JINJA_REAL || b.type == JINJA_REAL ? jinja_as_real(a) == jinja_as_real(b)
                                                            : as_int(a) == as_int(b);
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    case JINJA_STRING:
        jinja_spend(arena, a.s.n);
        return jinja_strings_equal(a.s, b.s);
    case JINJA_LIST:
    case JINJA_TUPLE:
        jinja_spend(arena, 64 * a.list->n);
        if (a.list->n != b.list->n)
            return false;
        for (size_t i = 0; i < a.list->n; i++)
            if (!equal(arena, a.list->items[i], b.list->items[i], depth + 1))
                return false;
        return true;
    case JINJA_DICT:
        if (a.dict->n != b.dict->n)
            return false;
        for (size_t i = 0; i < a.dict->n; i++) {
            const struct jinja_value *other = jinja_get(b.dict, a.dict->pairs[i].key);
            if (!other || !equal(arena, a.dict->pairs[i].value, *other, depth + 1))
                return false;
        }
        return true;
    case JINJA_FUNCTION:
        return a.function == b.function;
    default:
        return a.dict == b.dict;
    }
}

bool jinja_equal(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b)
{
    return equal(arena, a, b, 0);
}

int jinja_compare(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b)
{
    if (jinja_is_number(a) && jinja_is_number(b)) {
        double x = jinja_as_real(a), y = jinja_as_real(b);
        if (a.type != JINJA_REAL && b.type != JINJA_REAL)
            return (as_int(a) > as_int(b)) - (as_int(a) < as_int(b));
        return (x > y) - (x < y);
    }
    if (a.type == JINJA_STRING && b.type == JINJA_STRING) { /* UTF-8 sorts as its code points do */
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        jinja_spend(arena, n);
        int order = n > 0 ? memcmp(a.s.s, b.s.s, n) : 0;
        return order ? order : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    jinja_fail(arena, -EINVAL, "%s and %s have no order", jinja_type_name(a), jinja_type_name(b));
    return 0;
}

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const names[] = {
        [JINJA_UNDEFINED] = "Undefined", [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",           [JINJA_INT] = "int",
        [JINJA_REAL] = "float",          [JINJA_STRING] = "str",
        [JINJA_LIST] = "list",           [JINJA_TUPLE] = "tuple",
        [JINJA_DICT] = "dict",           [JINJA_NAMESPACE] = "Namespace",
        [JINJA_LOOP] = "LoopContext",    [JINJA_MACRO] = "Macro",
        [JINJA_FUNCTION] = "function"};

    return names[v.type];
}

/* ---- repr and str ---------------------------------------------------------------------------- */

/* Whether Python's repr shows a character of a string as an escape: controls, formats, and every
 * space but the plain one. Code points that Unicode has not given out are shown as they are. */
static bool hidden(uint32_t c)
{
    static const uint32_t ranges[][2] = {{0, 0x1f},        {0x7f, 0xa0},       {0xad, 0xad},
                                         {0x600, 0x605},   {0x61c, 0x61c},     {0x6dd, 0x6dd},
                                         {0x70f, 0x70f},   {0x1680, 0x1680},   {0x180e, 0x180e},
                                         {0x2000, 0x200f}, {0x2028, 0x202f},   {0x205f, 0x206f},
                                         {0x3000, 0x3000}, {0xe000, 0xf8ff},   {0xfeff, 0xfeff},
                                         {0xfff9, 0xfffb}, {0xe0000, 0xe0fff}, {0xf0000, 0x10ffff}};

    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return true;
    return false;
}

/* The character that s begins with; its length. */
static size_t decode(struct jinja_string s, uint32_t *ret)
{
    unsigned char c = (unsigned char)s.s[0];
    size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

    *ret = n == 1 ? c : c & (0x7fu >> n);
    if (n > s.n)
        n = s.n;
    for (size_t i = 1; i < n; i++)
        *ret = *ret << 6 | ((unsigned char)s.s[i] & 0x3f);
    return n;
}

static void repr_string(struct jinja_builder *b, struct jinja_string s)
{
    bool twofold = s.n > 0 && memchr(s.s, '\'', s.n) && !memchr(s.s, '"', s.n);
    const char *quote = twofold ? "\"" : "'";
    size_t n;

    jinja_build(b, jinja_literal(quote));
    for (size_t i = 0; i < s.n; i += n) {
        uint32_t c;
        char escape[12] = "";
        n = decode(jinja_part(s, i, s.n), &c);
        if (c == '\\' || c == (uint32_t)quote[0])
            snprintf(escape, sizeof escape, "\\%c", (int)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(escape, sizeof escape, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (hidden(c))
            snprintf(escape, sizeof escape,
                     c < 0x100     ? "\\x%02" PRIx32
                     : c < 0x10000 ? "\\u%04" PRIx32
                                   : "\\U%08" PRIx32,
                     c);
        jinja_build(b,
                    *escape ? copied(b->arena, escape, strlen(escape)) : jinja_part(s, i, i + n));
    }
    jinja_build(b, jinja_literal(quote));
}

static void build_chat_text(struct jinja_builder *b, struct chat_text *text)
{
    if (text->failed)
        jinja_fail(b->arena, -ENOMEM, "not enough memory");
    else
        jinja_build(b, (struct jinja_string){text->s, NULL, text->n, false});
    chat_text_done(text);
}

static void number(struct jinja_builder *b, struct jinja_value v)
{
    struct chat_text text = {0};
    char digits[32];

    if (v.type == JINJA_REAL && !isfinite(v.d)) {
        jinja_build(b, jinja_literal(isnan(v.d) ? "nan" : v.d > 0 ? "inf" : "-inf"));
    } else if (v.type == JINJA_REAL) {
        chat_json_add_real(&text, v.d);
        build_chat_text(b, &text);
    } else {
        int n = snprintf(digits, sizeof digits, "%" PRId64, v.i);
        jinja_build(b, (struct jinja_string){digits, NULL, (size_t)n, false});
    }
}

static void repr(struct jinja_builder *b, struct jinja_value v, unsigned depth)
{
    if (depth > 64)
        jinja_fail(b->arena, -ENOTSUP, "a value is nested too deep to be shown");
    if (b->arena->error)
        return;
    switch (v.type) {
    case JINJA_UNDEFINED:
        jinja_build(b, jinja_literal(depth ? "Undefined" : ""));
        return;
    case JINJA_NONE:
        jinja_build(b, jinja_literal("None"));
        return;
    case JINJA_BOOL:
        jinja_build(b, jinja_literal(v.b ? "True" : "False"));
        return;
    case JINJA_INT:
    case JINJA_REAL:
        number(b, v);
        return;
    case JINJA_STRING:
        if (depth)
            repr_string(b, v.s);
        else
            jinja_build(b, v.s);
        return;
    case JINJA_LIST:
    case JINJA_TUPLE:
        jinja_build(b, jinja_literal(v.type == JINJA_LIST ? "[" : "("));
        for (size_t i = 0; i < v.list->n; i++) {
            jinja_build(b, jinja_literal(i ? ", " : ""));
            repr(b, v.list->items[i], depth + 1);
        }
        jinja_build(b, jinja_literal(v.type == JINJA_LIST ? "]" : v.list->n == 1 ? ",)" : ")"));
        return;
    case JINJA_DICT:
        jinja_build(b, jinja_literal("{"));
        for (size_t i = 0; i < v.dict->n; i++) {
            jinja_build(b, jinja_literal(i ? ", " : ""));
            repr_string(b, v.dict->pairs[i].key);
            jinja_build(b, jinja_literal(": "));
            repr(b, v.dict->pairs[i].value, depth + 1);
        }
        jinja_build(b, jinja_literal("}"));
        return;
    default:
        jinja_fail(b->arena, -ENOTSUP, "%s is shown as text", jinja_type_name(v));
    }
}

struct jinja_string jinja_text(struct jinja_arena *arena, struct jinja_value v)
{
    struct jinja_builder b = {.arena = arena};

    if (v.type == JINJA_STRING)
        return v.s;
    repr(&b, v, 0);
    return jinja_built(&b);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void quoted(struct jinja_builder *b, struct jinja_string s)
{
    struct chat_text text = {0};

    chat_json_add_string(&text, s.s, s.n);
    build_chat_text(b, &text);
}

/* A line end and its indentation, where there is any. */
static void line(struct jinja_builder *b, int indent, unsigned depth)
{
    if (indent < 0)
        return;
    jinja_build(b, jinja_literal("\n"));
    for (uint64_t i = 0; i < (uint64_t)indent * depth; i++)
        jinja_build(b, jinja_literal(" "));
}

static void json(struct jinja_builder *b, struct jinja_value v, int indent, unsigned depth)
{
    const char *comma = indent < 0 ? ", " : ",";

    if (depth > 64)
        jinja_fail(b->arena, -ENOTSUP, "a value is nested too deep for JSON");
    if (b->arena->error)
        return;
    switch (v.type) {
    case JINJA_NONE:
        jinja_build(b, jinja_literal("null"));
        return;
    case JINJA_BOOL:
        jinja_build(b, jinja_literal(v.b ? "true" : "false"));
        return;
    case JINJA_INT:
    case JINJA_REAL:
        number(b, v);
        return;
    case JINJA_STRING:
        quoted(b, v.s);
        return;
    case JINJA_LIST:
    case JINJA_TUPLE:
        jinja_build(b, jinja_literal("["));
        for (size_t i = 0; i < v.list->n; i++) {
            jinja_build(b, jinja_literal(i ? comma : ""));
            line(b, indent, depth + 1);
            json(b, v.list->items[i], indent, depth + 1);
        }
        if (v.list->n > 0)
            line(b, indent, depth);
        jinja_build(b, jinja_literal("]"));
        return;
    case JINJA_DICT:
        jinja_build(b, jinja_literal("{"));
        for (size_t i = 0; i < v.dict->n; i++) {
            jinja_build(b, jinja_literal(i ? comma : ""));
            line(b, indent, depth + 1);
            quoted(b, v.dict->pairs[i].key);
            jinja_build(b, jinja_literal(": "));
            json(b, v.dict->pairs[i].value, indent, depth + 1);
        }
        if (v.dict->n > 0)
            line(b, indent, depth);
        jinja_build(b, jinja_literal("}"));
        return;
    default:
        jinja_fail(b->arena, -EINVAL, "%s is not JSON serializable", jinja_type_name(v));
    }
}

struct jinja_string jinja_json(struct jinja_arena *arena, struct jinja_value v, int indent)
{
    struct jinja_builder b = {.arena = arena};

    json(&b, v, indent, 0);
    return jinja_built(&b);
}
