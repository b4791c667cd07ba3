/* What the parts of the Jinja interpreter share: memory, nodes of a program, values. */
#ifndef QUERN_CHAT_JINJA_PARTS_H
#define QUERN_CHAT_JINJA_PARTS_H

#include "chat/jinja.h"

#include <stdarg.h>

/* ---- memory: taken piece by piece, given back at once ---------------------------------------- */

struct jinja_arena {
    struct jinja_chunk *chunks;
    size_t used, limit; /* bytes of all chunks */
    uint64_t work, work_max;
    int error; /* the first: -ENOMEM, -E2BIG, -ENOTSUP, -EINVAL; then nothing more is done */
    char *why;
    size_t why_size;
    uint32_t line; /* of the program, for the sentence */
};

/* Zeroed; never NULL: after an error it is a piece that is shared and never read for sense. */
void *jinja_take(struct jinja_arena *arena, size_t n, size_t size);
void jinja_arena_done(struct jinja_arena *arena);

/* One step that looks at n bytes; fails with -E2BIG where there were too many. */
void jinja_spend(struct jinja_arena *arena, size_t n);

/* The first error stays, with a sentence that ends with the line. */
__attribute__((format(printf, 3, 4))) void jinja_fail(struct jinja_arena *arena, int error,
                                                      const char *format, ...);

/* ---- values ---------------------------------------------------------------------------------- */

/* UTF-8. own[i] != 0: byte i is the template's; NULL: none is. Shared freely, never changed. What
 * the filter `safe` has marked escapes, as HTML, what is added to it. */
struct jinja_string {
    const char *s;
    const uint8_t *own;
    size_t n;
    bool safe;
};

enum jinja_type {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_REAL,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION,
};

struct jinja_value {
    enum jinja_type type;
    union {
        bool b;
        int64_t i;
        double d;
        struct jinja_string s;
        struct jinja_list *list; /* list, tuple */
        struct jinja_dict *dict; /* dict, namespace, loop */
        const struct jinja_macro *macro;
        const char *function; /* name; of JINJA_UNDEFINED: what is undefined, or NULL */
    };
};

struct jinja_list {
    struct jinja_value *items; /* (n) */
    size_t n, capacity;
};

struct jinja_pair {
    struct jinja_string key;
    struct jinja_value value;
};

struct jinja_dict {
    struct jinja_pair *pairs; /* (n), in order of insertion */
    size_t n, capacity;
};

/* ---- programs -------------------------------------------------------------------------------- */

enum jinja_kind {
    /* statements */
    JINJA_TEXT,   /* value */
    JINJA_OUTPUT, /* a */
    JINJA_IF,     /* a: condition; body; b: else */
    JINJA_FOR,    /* a: target; b: iterable; c: filter or NULL; body; d: else */
    JINJA_SET,    /* a: target; b: value, or NULL and body */
    JINJA_DEFINE, /* a macro: value: name; args: parameters (value: name, a: default); body */
    JINJA_BREAK,
    JINJA_CONTINUE,
    /* expressions */
    JINJA_CONST, /* value */
    JINJA_NAME,  /* value */
    JINJA_MAKE_LIST,
    JINJA_MAKE_TUPLE, /* args */
    JINJA_MAKE_DICT,  /* args: a key, b value each (kind JINJA_PAIR) */
    JINJA_PAIR,
    JINJA_ATTRIBUTE, /* a.value */
    JINJA_ITEM,      /* a[b] */
    JINJA_SLICE,     /* a[b:c:d], each may be NULL */
    JINJA_CALL,      /* a(args) */
    JINJA_METHOD,    /* a.value(args) */
    JINJA_FILTER,    /* a|value(args) */
    JINJA_TEST,      /* a is value(args) */
    JINJA_KEYWORD,   /* an argument: value = a */
    JINJA_NOT,
    JINJA_NEGATIVE,
    JINJA_POSITIVE,
    JINJA_AND,
    JINJA_OR,
    JINJA_CONDITION, /* a if b else c (c may be NULL) */
    JINJA_ADD,
    JINJA_SUBTRACT,
    JINJA_MULTIPLY,
    JINJA_DIVIDE,
    JINJA_FLOOR_DIVIDE,
    JINJA_MODULO,
    JINJA_CONCAT,  /* a ~ b */
    JINJA_COMPARE, /* a, then args: each of kind JINJA_EQUAL … JINJA_NOT_IN with its operand a */
    JINJA_EQUAL,
    JINJA_NOT_EQUAL,
    JINJA_LESS,
    JINJA_LESS_EQUAL,
    JINJA_GREATER,
    JINJA_GREATER_EQUAL,
    JINJA_IN,
    JINJA_NOT_IN,
};

struct jinja_node {
    enum jinja_kind kind;
    uint32_t line;
    struct jinja_value value; /* a constant; a name as its string */
    struct jinja_node *a, *b, *c, *d;
    struct jinja_node *args; /* a list by `next` */
    struct jinja_node *body; /* statements, by `next` */
    struct jinja_node *next;
};

struct jinja_frame;
struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_frame *frame; /* where it was defined */
};

/* ---- tokens ---------------------------------------------------------------------------------- */

enum jinja_token_type {
    JINJA_T_END,     /* of the program */
    JINJA_T_DATA,    /* text between tags */
    JINJA_T_OUTPUT,  /* {{ */
    JINJA_T_CLOSE,   /* }} */
    JINJA_T_BLOCK,   /* {% */
    JINJA_T_UNBLOCK, /* %} */
    JINJA_T_NAME,
    JINJA_T_STRING,
    JINJA_T_INT,
    JINJA_T_REAL,
    JINJA_T_OPERATOR, /* its one or two characters in `text` */
};

struct jinja_token {
    enum jinja_token_type type;
    uint32_t line;
    struct jinja_string text; /* data, names, strings with escapes resolved, operators */
    int64_t i;
    double d;
};

/* All tokens of a program, the last of type JINJA_T_END. */
struct jinja_token *jinja_lex(struct jinja_arena *arena, const char *s, size_t n);

/* The statements of a program. */
struct jinja_node *jinja_parse(struct jinja_arena *arena, const struct jinja_token *tokens);

/* Names that a program may use; what is not here is refused when it is compiled. */
bool jinja_has_filter(struct jinja_string name);
bool jinja_has_test(struct jinja_string name);
bool jinja_has_method(struct jinja_string name);

/* ---- jinja_value.c --------------------------------------------------------------------------- */

bool jinja_string_is(struct jinja_string s, const char *text);
bool jinja_strings_equal(struct jinja_string a, struct jinja_string b);
struct jinja_string jinja_literal(const char *s); /* not the template's own */
struct jinja_value jinja_of_string(struct jinja_string s);
struct jinja_value jinja_of_bool(bool b);
struct jinja_value jinja_of_int(int64_t i);
struct jinja_value jinja_undefined(const char *name);
struct jinja_value jinja_none(void);
struct jinja_value jinja_new_list(struct jinja_arena *arena, enum jinja_type type, size_t capacity);
struct jinja_value jinja_new_dict(struct jinja_arena *arena, enum jinja_type type);
void jinja_append(struct jinja_arena *arena, struct jinja_list *list, struct jinja_value value);
void jinja_put(struct jinja_arena *arena, struct jinja_dict *dict, struct jinja_string key,
               struct jinja_value value);
const struct jinja_value *jinja_get(const struct jinja_dict *dict, struct jinja_string key);
struct jinja_value jinja_of_json(struct jinja_arena *arena, const json_t *json, unsigned depth);

bool jinja_truth(struct jinja_value v);
bool jinja_is_number(struct jinja_value v); /* bool, int, real */
double jinja_as_real(struct jinja_value v);
bool jinja_equal(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b);
/* < 0, 0, > 0; fails on what has no order. */
int jinja_compare(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b);

/* str(v). */
struct jinja_string jinja_text(struct jinja_arena *arena, struct jinja_value v);
const char *jinja_type_name(struct jinja_value v); /* as Python calls it */

/* Strings put together: text and marks side by side. */
struct jinja_builder {
    struct jinja_arena *arena;
    char *s;
    uint8_t *own;
    size_t n, capacity;
};
void jinja_build(struct jinja_builder *b, struct jinja_string s);
struct jinja_string jinja_built(const struct jinja_builder *b);

struct jinja_string jinja_part(struct jinja_string s, size_t begin, size_t end);
size_t jinja_characters(struct jinja_string s);                  /* code points */
size_t jinja_offset(struct jinja_string s, size_t n_characters); /* in bytes, at most s.n */

/* What json.dumps(v, ensure_ascii=False, indent=indent) gives; indent < 0: one line. */
struct jinja_string jinja_json(struct jinja_arena *arena, struct jinja_value v, int indent);

/* ---- jinja_call.c, jinja_filter.c ------------------------------------------------------------ */

/* Arguments, evaluated: positional, then by name. */
enum { JINJA_ARGS_MAX = 12 };
struct jinja_args {
    size_t n, n_named;
    struct jinja_value values[JINJA_ARGS_MAX], named[JINJA_ARGS_MAX];
    struct jinja_string names[JINJA_ARGS_MAX];
};
/* Argument number i, or of that name (may be NULL); `otherwise` where it is not given. */
struct jinja_value jinja_arg(const struct jinja_args *args, size_t i, const char *name,
                             struct jinja_value otherwise);

struct jinja_value jinja_filter(struct jinja_arena *arena, struct jinja_string name,
                                struct jinja_value v, const struct jinja_args *args);
bool jinja_test(struct jinja_arena *arena, struct jinja_string name, struct jinja_value v,
                const struct jinja_args *args);
struct jinja_value jinja_method(struct jinja_arena *arena, struct jinja_string name,
                                struct jinja_value v, const struct jinja_args *args);
struct jinja_value jinja_function(struct jinja_arena *arena, const char *name,
                                  const struct jinja_args *args);
/* v.name and v[key]; undefined where there is none. */
struct jinja_value jinja_attribute(struct jinja_arena *arena, struct jinja_value v,
                                   struct jinja_string name);
struct jinja_value jinja_item(struct jinja_arena *arena, struct jinja_value v,
                              struct jinja_value key);
struct jinja_value jinja_slice(struct jinja_arena *arena, struct jinja_value v,
                               struct jinja_value begin, struct jinja_value end,
                               struct jinja_value step);
/* What a loop goes over, as a list; fails where it is none. */
struct jinja_list *jinja_iterate(struct jinja_arena *arena, struct jinja_value v);
struct jinja_string jinja_trim(struct jinja_string s, struct jinja_value characters, bool left,
                               bool right);
bool jinja_contains(struct jinja_arena *arena, struct jinja_value in, struct jinja_value v);

#endif
