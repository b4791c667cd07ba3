/* The grammar of a Jinja program (see jinja_parts.h), as Jinja 3.1's parser has it: which operator
 * binds closer, what ends a test's argument. What is not executed here is refused here. */
#include "chat/jinja_parts.h"

#include <errno.h>
#include <string.h>

enum { NESTING_MAX = 64 };

struct parser {
    struct jinja_arena *arena;
    const struct jinja_token *t; /* the current one */
    unsigned nesting;
    unsigned loops; /* around what is parsed, in this macro */
};

static struct jinja_node *expression(struct parser *p);
static struct jinja_node *unary(struct parser *p, bool with_filter);
static struct jinja_node *statements(struct parser *p, const char *const *ends);

/* ---- tokens ---------------------------------------------------------------------------------- */

static void fail(struct parser *p, int error, const char *what)
{
    char name[41] = "";
    size_t n = p->t->text.n < sizeof name ? p->t->text.n : sizeof name - 1;

    if (n > 0)
        memcpy(name, p->t->text.s, n);
    p->arena->line = p->t->line;
    if (n > 0)
        jinja_fail(p->arena, error, "%s, at \"%s\"", what, name);
    else
        jinja_fail(p->arena, error, "%s", what);
}

static void next(struct parser *p)
{
    if (p->t->type != JINJA_T_END)
        p->t++;
}

static bool at_operator(const struct parser *p, const char *op)
{
    return p->t->type == JINJA_T_OPERATOR && jinja_string_is(p->t->text, op);
}

static bool at_name(const struct parser *p, const char *name)
{
    return p->t->type == JINJA_T_NAME && jinja_string_is(p->t->text, name);
}

static bool skip_operator(struct parser *p, const char *op)
{
    bool is = at_operator(p, op);

    if (is)
        next(p);
    return is;
}

static bool skip_name(struct parser *p, const char *name)
{
    bool is = at_name(p, name);

    if (is)
        next(p);
    return is;
}

static void expect_operator(struct parser *p, const char *op)
{
    if (!skip_operator(p, op))
        fail(p, -EINVAL, "another character is expected here");
}

static struct jinja_string expect_name(struct parser *p)
{
    struct jinja_string name = p->t->text;

    if (p->t->type != JINJA_T_NAME)
        fail(p, -EINVAL, "a name is expected here");
    next(p);
    return name;
}

static void end_of_block(struct parser *p)
{
    if (p->t->type != JINJA_T_UNBLOCK)
        fail(p, -EINVAL, "the end of the block is expected here");
    next(p);
}

static struct jinja_node *node(struct parser *p, enum jinja_kind kind, struct jinja_node *a,
                               struct jinja_node *b)
{
    struct jinja_node *n = jinja_take(p->arena, 1, sizeof *n);

    n->kind = kind;
    n->line = p->t->line;
    n->a = a;
    n->b = b;
    return n;
}

static struct jinja_node *named(struct parser *p, enum jinja_kind kind, struct jinja_node *a,
                                struct jinja_string name)
{
    struct jinja_node *n = node(p, kind, a, NULL);
    char *copy = jinja_take(p->arena, name.n + 1, 1); /* ends with a zero byte */

    if (!p->arena->error)
        memcpy(copy, name.s, name.n);
    n->value =
        jinja_of_string((struct jinja_string){p->arena->error ? "" : copy, NULL, name.n, false});
    return n;
}

static bool deeper(struct parser *p)
{
    if (++p->nesting > NESTING_MAX)
        fail(p, -ENOTSUP, "it is nested too deep");
    return p->arena->error == 0;
}

/* ---- primaries ------------------------------------------------------------------------------- */

static struct jinja_node *constant(struct parser *p, struct jinja_value value)
{
    struct jinja_node *n = node(p, JINJA_CONST, NULL, NULL);

    n->value = value;
    next(p);
    return n;
}

static struct jinja_node *strings(struct parser *p)
{
    struct jinja_builder b = {.arena = p->arena};
    struct jinja_node *n = node(p, JINJA_CONST, NULL, NULL);

    for (; p->t->type == JINJA_T_STRING; next(p))
        jinja_build(&b, p->t->text);
    n->value = jinja_of_string(jinja_built(&b));
    return n;
}

/* Expressions up to the bracket `end`, which is taken; *ret_comma: a comma stood in or behind. */
static struct jinja_node *items(struct parser *p, const char *end, bool *ret_comma)
{
    struct jinja_node *first = NULL, **last = &first;

    *ret_comma = false;
    while (!p->arena->error && !skip_operator(p, end)) {
        *last = expression(p);
        last = &(*last)->next;
        if (skip_operator(p, ","))
            *ret_comma = true;
        else if (!at_operator(p, end))
            fail(p, -EINVAL, "a comma is expected here");
    }
    return first;
}

static struct jinja_node *parenthesis(struct parser *p)
{
    bool comma;
    struct jinja_node *n, *list;

    next(p);
    list = items(p, ")", &comma);
    if (list && !comma)
        return list;
    n = node(p, JINJA_MAKE_TUPLE, NULL, NULL);
    n->args = list;
    return n;
}

static struct jinja_node *list(struct parser *p)
{
    struct jinja_node *n = node(p, JINJA_MAKE_LIST, NULL, NULL);
    bool comma;

    next(p);
    n->args = items(p, "]", &comma);
    return n;
}

static struct jinja_node *dict(struct parser *p)
{
    struct jinja_node *n = node(p, JINJA_MAKE_DICT, NULL, NULL), **last = &n->args;

    next(p);
    while (!p->arena->error && !skip_operator(p, "}")) {
        struct jinja_node *key = expression(p);
        expect_operator(p, ":");
        *last = node(p, JINJA_PAIR, key, NULL);
        (*last)->b = expression(p);
        last = &(*last)->next;
        if (!skip_operator(p, ",") && !at_operator(p, "}"))
            fail(p, -EINVAL, "a comma is expected here");
    }
    return n;
}

static struct jinja_node *primary(struct parser *p)
{
    const struct jinja_token *t = p->t;
    struct jinja_node *n;

    switch (t->type) {
    case JINJA_T_NAME:
        if (at_name(p, "true") || at_name(p, "True"))
            return constant(p, jinja_of_bool(true));
        if (at_name(p, "false") || at_name(p, "False"))
            return constant(p, jinja_of_bool(false));
        if (at_name(p, "none") || at_name(p, "None"))
            return constant(p, jinja_none());
        if (at_name(p, "varargs") || at_name(p, "kwargs") || at_name(p, "caller"))
            fail(p, -ENOTSUP, "a variable that is not supported");
        n = named(p, JINJA_NAME, NULL, t->text);
        next(p);
        return n;
    case JINJA_T_STRING:
        return strings(p);
    case JINJA_T_INT:
        return constant(p, jinja_of_int(t->i));
    case JINJA_T_REAL:
        return constant(p, (struct jinja_value){.type = JINJA_REAL, .d = t->d});
    default:
        break;
    }
    if (at_operator(p, "("))
        return parenthesis(p);
    if (at_operator(p, "["))
        return list(p);
    if (at_operator(p, "{"))
        return dict(p);
    fail(p, -EINVAL, "an expression is expected here");
    return node(p, JINJA_CONST, NULL, NULL);
}

/* ---- what follows a primary ------------------------------------------------------------------ */

/* From the opening parenthesis. */
static struct jinja_node *arguments(struct parser *p)
{
    struct jinja_node *first = NULL, **last = &first;
    size_t n = 0;

    expect_operator(p, "(");
    while (!p->arena->error && !skip_operator(p, ")")) {
        if (at_operator(p, "*") || at_operator(p, "**"))
            fail(p, -ENOTSUP, "arguments from a list are not supported");
        if (p->t->type == JINJA_T_NAME && p->t[1].type == JINJA_T_OPERATOR &&
            jinja_string_is(p->t[1].text, "=")) {
            *last = named(p, JINJA_KEYWORD, NULL, p->t->text);
            next(p);
            next(p);
            (*last)->a = expression(p);
        } else {
            *last = expression(p);
        }
        last = &(*last)->next;
        if (++n > JINJA_ARGS_MAX)
            fail(p, -ENOTSUP, "there are too many arguments");
        if (!skip_operator(p, ",") && !at_operator(p, ")"))
            fail(p, -EINVAL, "a comma is expected here");
    }
    return first;
}

static struct jinja_node *subscript(struct parser *p, struct jinja_node *of)
{
    struct jinja_node *part[3] = {NULL}, *n;
    size_t i = 0;

    next(p);
    for (; !p->arena->error && !at_operator(p, "]"); i++) {
        if (!at_operator(p, ":"))
            part[i] = expression(p);
        if (i == 2 || !skip_operator(p, ":"))
            break;
    }
    if (i == 0 && part[0]) {
        expect_operator(p, "]");
        return node(p, JINJA_ITEM, of, part[0]);
    }
    expect_operator(p, "]");
    n = node(p, JINJA_SLICE, of, part[0]);
    n->c = part[1];
    n->d = part[2];
    return n;
}

static struct jinja_node *postfix(struct parser *p, struct jinja_node *n)
{
    while (!p->arena->error) {
        if (skip_operator(p, ".")) {
            if (p->t->type == JINJA_T_INT) {
                n = node(p, JINJA_ITEM, n, constant(p, jinja_of_int(p->t->i)));
                continue;
            }
            const struct jinja_token *name = p->t;
            n = named(p, JINJA_ATTRIBUTE, n, expect_name(p));
            if (!at_operator(p, "("))
                continue;
            if (!jinja_has_method(name->text)) {
                p->t = name;
                fail(p, -ENOTSUP, "a method that is not supported");
            }
            n->kind = JINJA_METHOD;
            n->args = arguments(p);
        } else if (at_operator(p, "[")) {
            n = subscript(p, n);
        } else if (at_operator(p, "(")) {
            n = node(p, JINJA_CALL, n, NULL);
            n->args = arguments(p);
        } else {
            break;
        }
    }
    return n;
}

static struct jinja_node *filter(struct parser *p, struct jinja_node *n)
{
    next(p);
    if (p->t->type == JINJA_T_NAME && !jinja_has_filter(p->t->text))
        fail(p, -ENOTSUP, "a filter that is not supported");
    n = named(p, JINJA_FILTER, n, expect_name(p));
    if (at_operator(p, "("))
        n->args = arguments(p);
    return n;
}

static struct jinja_node *test(struct parser *p, struct jinja_node *n)
{
    bool negated;

    next(p);
    negated = skip_name(p, "not");
    if (p->t->type == JINJA_T_NAME && !jinja_has_test(p->t->text))
        fail(p, -ENOTSUP, "a test that is not supported");
    n = named(p, JINJA_TEST, n, expect_name(p));
    if (at_operator(p, "(")) {
        n->args = arguments(p);
    } else if ((p->t->type == JINJA_T_NAME && !at_name(p, "else") && !at_name(p, "or") &&
                !at_name(p, "and")) ||
               p->t->type == JINJA_T_STRING || p->t->type == JINJA_T_INT ||
               p->t->type == JINJA_T_REAL || at_operator(p, "[") || at_operator(p, "{")) {
        if (at_name(p, "is"))
            fail(p, -EINVAL, "tests cannot be chained");
        n->args = postfix(p, primary(p));
    }
    return negated ? node(p, JINJA_NOT, n, NULL) : n;
}

static struct jinja_node *filters(struct parser *p, struct jinja_node *n)
{
    while (!p->arena->error) {
        if (at_operator(p, "|")) {
            n = filter(p, n);
        } else if (at_name(p, "is")) {
            n = test(p, n);
        } else if (at_operator(p, "(")) {
            n = node(p, JINJA_CALL, n, NULL);
            n->args = arguments(p);
        } else {
            break;
        }
    }
    return n;
}

/* ---- operators ------------------------------------------------------------------------------- */

static struct jinja_node *unary(struct parser *p, bool with_filter)
{
    struct jinja_node *n;

    if (!deeper(p))
        return node(p, JINJA_CONST, NULL, NULL);
    if (skip_operator(p, "-"))
        n = node(p, JINJA_NEGATIVE, unary(p, false), NULL);
    else if (skip_operator(p, "+"))
        n = node(p, JINJA_POSITIVE, unary(p, false), NULL);
    else
        n = primary(p);
    n = postfix(p, n);
    p->nesting--;
    return with_filter ? filters(p, n) : n;
}

/* Operators of one rank, from the left. */
struct rank {
    const char *op;
    enum jinja_kind kind;
};

static enum jinja_kind take_operator(struct parser *p, const struct rank *rank)
{
    for (; rank->op; rank++)
        if (skip_operator(p, rank->op))
            return rank->kind;
    return JINJA_TEXT;
}

static struct jinja_node *product(struct parser *p)
{
    static const struct rank ranks[] = {{"*", JINJA_MULTIPLY},
                                        {"/", JINJA_DIVIDE},
                                        {"//", JINJA_FLOOR_DIVIDE},
                                        {"%", JINJA_MODULO},
                                        {NULL, JINJA_TEXT}};
    struct jinja_node *n = unary(p, true);
    enum jinja_kind kind;

    if (at_operator(p, "**"))
        fail(p, -ENOTSUP, "powers are not supported");
    while ((kind = take_operator(p, ranks)) != JINJA_TEXT)
        n = node(p, kind, n, unary(p, true));
    return n;
}

static struct jinja_node *concat(struct parser *p)
{
    struct jinja_node *n = product(p);

    while (skip_operator(p, "~"))
        n = node(p, JINJA_CONCAT, n, product(p));
    return n;
}

static struct jinja_node *sum(struct parser *p)
{
    static const struct rank ranks[] = {
        {"+", JINJA_ADD}, {"-", JINJA_SUBTRACT}, {NULL, JINJA_TEXT}};
    struct jinja_node *n = concat(p);
    enum jinja_kind kind;

    while ((kind = take_operator(p, ranks)) != JINJA_TEXT)
        n = node(p, kind, n, concat(p));
    return n;
}

static enum jinja_kind take_comparison(struct parser *p)
{
    static const struct rank ranks[] = {{"==", JINJA_EQUAL},  {"!=", JINJA_NOT_EQUAL},
                                        {"<", JINJA_LESS},    {"<=", JINJA_LESS_EQUAL},
                                        {">", JINJA_GREATER}, {">=", JINJA_GREATER_EQUAL},
                                        {NULL, JINJA_TEXT}};
    if (skip_name(p, "in"))
        return JINJA_IN;
    if (at_name(p, "not") && p->t[1].type == JINJA_T_NAME && jinja_string_is(p->t[1].text, "in")) {
        next(p);
        next(p);
        return JINJA_NOT_IN;
    }
    return take_operator(p, ranks);
}

static struct jinja_node *comparison(struct parser *p)
{
    struct jinja_node *first = sum(p), *n = NULL, **last = NULL;
    enum jinja_kind kind;

    while ((kind = take_comparison(p)) != JINJA_TEXT) {
        if (!n) {
            n = node(p, JINJA_COMPARE, first, NULL);
            last = &n->args;
        }
        *last = node(p, kind, sum(p), NULL);
        last = &(*last)->next;
    }
    return n ? n : first;
}

static struct jinja_node *negation(struct parser *p)
{
    struct jinja_node *n;

    if (!skip_name(p, "not"))
        return comparison(p);
    if (!deeper(p))
        return node(p, JINJA_CONST, NULL, NULL);
    n = node(p, JINJA_NOT, negation(p), NULL);
    p->nesting--;
    return n;
}

static struct jinja_node *conjunction(struct parser *p)
{
    struct jinja_node *n = negation(p);

    while (skip_name(p, "and"))
        n = node(p, JINJA_AND, n, negation(p));
    return n;
}

static struct jinja_node *disjunction(struct parser *p)
{
    struct jinja_node *n = conjunction(p);

    while (skip_name(p, "or"))
        n = node(p, JINJA_OR, n, conjunction(p));
    return n;
}

static struct jinja_node *expression(struct parser *p)
{
    struct jinja_node *n;

    if (!deeper(p))
        return node(p, JINJA_CONST, NULL, NULL);
    n = disjunction(p);
    while (skip_name(p, "if")) {
        n = node(p, JINJA_CONDITION, n, disjunction(p));
        n->c = skip_name(p, "else") ? expression(p) : NULL;
    }
    p->nesting--;
    return n;
}

/* One expression, or several with commas, as a tuple. */
static struct jinja_node *expressions(struct parser *p)
{
    struct jinja_node *n = expression(p), *tuple;

    if (!at_operator(p, ","))
        return n;
    tuple = node(p, JINJA_MAKE_TUPLE, NULL, NULL);
    tuple->args = n;
    while (skip_operator(p, ",") && p->t->type != JINJA_T_UNBLOCK && p->t->type != JINJA_T_CLOSE) {
        n->next = expression(p);
        n = n->next;
    }
    return tuple;
}

/* ---- statements ------------------------------------------------------------------------------ */

/* A name, names with commas, or name.attribute. */
static struct jinja_node *target(struct parser *p)
{
    bool bracket = skip_operator(p, "(");
    struct jinja_node *n = named(p, JINJA_NAME, NULL, expect_name(p)), *tuple;

    if (skip_operator(p, "."))
        return named(p, JINJA_ATTRIBUTE, n, expect_name(p));
    if (!at_operator(p, ",")) {
        if (bracket)
            expect_operator(p, ")");
        return n;
    }
    tuple = node(p, JINJA_MAKE_TUPLE, NULL, NULL);
    tuple->args = n;
    while (skip_operator(p, ",") && p->t->type == JINJA_T_NAME && !at_name(p, "in")) {
        n->next = named(p, JINJA_NAME, NULL, p->t->text);
        n = n->next;
        next(p);
    }
    if (bracket)
        expect_operator(p, ")");
    return tuple;
}

static struct jinja_node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct jinja_node *n = node(p, JINJA_FOR, target(p), NULL);

    if (!skip_name(p, "in"))
        fail(p, -EINVAL, "\"in\" is expected here");
    n->b = disjunction(p);
    if (skip_name(p, "if"))
        n->c = expression(p);
    if (at_name(p, "recursive"))
        fail(p, -ENOTSUP, "recursive loops are not supported");
    end_of_block(p);
    p->loops++;
    n->body = statements(p, ends);
    p->loops--;
    if (skip_name(p, "else")) {
        end_of_block(p);
        n->d = statements(p, last);
    }
    next(p);
    end_of_block(p);
    return n;
}

static struct jinja_node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif",
                                                                                        NULL};
    struct jinja_node *first = node(p, JINJA_IF, expressions(p), NULL), *n = first;

    end_of_block(p);
    n->body = statements(p, ends);
    while (!p->arena->error && skip_name(p, "elif")) {
        n->b = node(p, JINJA_IF, expressions(p), NULL);
        n = n->b;
        end_of_block(p);
        n->body = statements(p, ends);
    }
    if (skip_name(p, "else")) {
        end_of_block(p);
        n->b = statements(p, last);
    }
    next(p);
    end_of_block(p);
    return first;
}

static struct jinja_node *parse_set(struct parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct jinja_node *n = node(p, JINJA_SET, target(p), NULL);

    if (skip_operator(p, "=")) {
        n->b = expressions(p);
        end_of_block(p);
        return n;
    }
    if (at_operator(p, "|"))
        fail(p, -ENOTSUP, "a set block with filters is not supported");
    end_of_block(p);
    n->body = statements(p, ends);
    next(p);
    end_of_block(p);
    return n;
}

static struct jinja_node *parse_macro(struct parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct jinja_node *n = named(p, JINJA_DEFINE, NULL, expect_name(p)), **last = &n->args;
    unsigned loops = p->loops;
    size_t count = 0;

    expect_operator(p, "(");
    while (!p->arena->error && !skip_operator(p, ")")) {
        *last = named(p, JINJA_NAME, NULL, expect_name(p));
        if (skip_operator(p, "="))
            (*last)->a = expression(p);
        last = &(*last)->next;
        if (++count > JINJA_ARGS_MAX)
            fail(p, -ENOTSUP, "a macro has too many parameters");
        if (!skip_operator(p, ",") && !at_operator(p, ")"))
            fail(p, -EINVAL, "a comma is expected here");
    }
    end_of_block(p);
    p->loops = 0;
    n->body = statements(p, ends);
    p->loops = loops;
    next(p);
    end_of_block(p);
    return n;
}

/* What transformers marks for training: its content alone counts here. */
static struct jinja_node *parse_generation(struct parser *p)
{
    static const char *const ends[] = {"endgeneration", NULL};
    struct jinja_node *n = node(p, JINJA_IF, node(p, JINJA_CONST, NULL, NULL), NULL);

    n->a->value = jinja_of_bool(true);
    end_of_block(p);
    n->body = statements(p, ends);
    next(p);
    end_of_block(p);
    return n;
}

static struct jinja_node *statement(struct parser *p)
{
    if (skip_name(p, "for"))
        return parse_for(p);
    if (skip_name(p, "if"))
        return parse_if(p);
    if (skip_name(p, "set"))
        return parse_set(p);
    if (skip_name(p, "macro"))
        return parse_macro(p);
    if (skip_name(p, "generation"))
        return parse_generation(p);
    if (at_name(p, "break") || at_name(p, "continue")) {
        struct jinja_node *n =
            node(p, at_name(p, "break") ? JINJA_BREAK : JINJA_CONTINUE, NULL, NULL);
        if (p->loops == 0)
            fail(p, -EINVAL, "it stands in no loop");
        next(p);
        end_of_block(p);
        return n;
    }
    fail(p, -ENOTSUP, "a statement that is not supported");
    return node(p, JINJA_TEXT, NULL, NULL);
}

/* {{ … }} */
static struct jinja_node *output(struct parser *p)
{
    struct jinja_node *n;

    next(p);
    n = node(p, JINJA_OUTPUT, expressions(p), NULL);
    if (p->t->type != JINJA_T_CLOSE)
        fail(p, -EINVAL, "the end of the tag is expected here");
    next(p);
    return n;
}

/* Statements up to a block of one of the names in `ends`, at which it stops, behind {%; NULL: up to
 * the end of the program. */
static struct jinja_node *statements(struct parser *p, const char *const *ends)
{
    struct jinja_node *first = NULL, **last = &first;

    if (!deeper(p))
        return NULL;
    while (!p->arena->error) {
        struct jinja_node *n = NULL;
        if (p->t->type == JINJA_T_END) {
            if (ends)
                fail(p, -EINVAL, "a block has no end");
            break;
        }
        if (p->t->type == JINJA_T_DATA) {
            n = node(p, JINJA_TEXT, NULL, NULL);
            n->value = jinja_of_string(p->t->text);
            next(p);
        } else if (p->t->type == JINJA_T_OUTPUT) {
            n = output(p);
        } else {
            next(p); /* {% */
            for (const char *const *end = ends; end && *end; end++) {
                if (!at_name(p, *end))
                    continue;
                p->nesting--;
                return first;
            }
            n = statement(p);
        }
        *last = n;
        last = &n->next;
    }
    p->nesting--;
    return first;
}

struct jinja_node *jinja_parse(struct jinja_arena *arena, const struct jinja_token *tokens)
{
    struct parser p = {.arena = arena, .t = tokens};

    return statements(&p, NULL);
}
