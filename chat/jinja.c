/* Executes Jinja programs (see jinja.h and jinja_parts.h).
 *
 * Values and what is printed live in an arena that is given back at the end. An error is kept
 * there, the first one counts, and from then on nothing more is done: so that each step need not
 * look. */
#include "chat/jinja_parts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROGRAM_MIB = 16,
    MEMORY_MIB = 128,
    STEPS_MAX = 4000000,
    DEPTH_MAX = 300,
    SOURCE_MAX = 1 << 20,
};

struct jinja {
    struct jinja_arena arena;
    struct jinja_node *program;
};

/* Variables of one scope; the innermost counts. */
struct jinja_frame {
    struct jinja_frame *parent;
    struct jinja_dict variables;
};

struct run {
    struct jinja_arena arena;
    unsigned depth;
};

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static struct jinja_value eval(struct run *run, struct jinja_frame *frame,
                               const struct jinja_node *n);
static enum flow execute(struct run *run, struct jinja_frame *frame, const struct jinja_node *n,
                         struct jinja_builder *out);

/* ---- scopes ---------------------------------------------------------------------------------- */

static struct jinja_frame *inner(struct run *run, struct jinja_frame *parent)
{
    struct jinja_frame *frame = jinja_take(&run->arena, 1, sizeof *frame);

    frame->parent = run->arena.error ? NULL : parent;
    return frame;
}

static struct jinja_value look_up(struct run *run, const struct jinja_frame *frame,
                                  struct jinja_string name)
{
    for (; frame && !run->arena.error; frame = frame->parent) {
        const struct jinja_value *v = jinja_get(&frame->variables, name);
        if (v)
            return *v;
    }
    return jinja_undefined(name.s);
}

static void assign(struct run *run, struct jinja_frame *frame, const struct jinja_node *target,
                   struct jinja_value v)
{
    struct jinja_value of;
    struct jinja_list *list;
    size_t i = 0;

    if (target->kind == JINJA_NAME) {
        jinja_put(&run->arena, &frame->variables, target->value.s, v);
    } else if (target->kind == JINJA_ATTRIBUTE) {
        of = eval(run, frame, target->a);
        if (of.type == JINJA_NAMESPACE)
            jinja_put(&run->arena, of.dict, target->value.s, v);
        else
            jinja_fail(&run->arena, -EINVAL, "cannot assign attribute on non-namespace object");
    } else {
        list = jinja_iterate(&run->arena, v);
        for (const struct jinja_node *t = target->args; t && !run->arena.error; t = t->next, i++)
            if (i < list->n)
                assign(run, frame, t, list->items[i]);
            else
                jinja_fail(&run->arena, -EINVAL, "not enough values to unpack");
        if (!run->arena.error && i < list->n)
            jinja_fail(&run->arena, -EINVAL, "too many values to unpack");
    }
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static struct jinja_value real(struct run *run, double d)
{
    if (!isfinite(d))
        jinja_fail(&run->arena, -ENOTSUP, "a number that is not finite");
    return (struct jinja_value){.type = JINJA_REAL, .d = d};
}

static int64_t whole(struct jinja_value v)
{
    return v.type == JINJA_BOOL ? v.b : v.i;
}

static struct jinja_value on_reals(struct run *run, enum jinja_kind kind, double a, double b)
{
    if ((kind == JINJA_DIVIDE || kind == JINJA_FLOOR_DIVIDE || kind == JINJA_MODULO) && b == 0) {
        jinja_fail(&run->arena, -EINVAL, "division by zero");
        return jinja_undefined(NULL);
    }
    switch (kind) {
    case JINJA_ADD:
        return real(run, a + b);
    case JINJA_SUBTRACT:
        return real(run, a - b);
    case JINJA_MULTIPLY:
        return real(run, a * b);
    case JINJA_DIVIDE:
        return real(run, a / b);
    default:
        jinja_fail(&run->arena, -ENOTSUP, "floor division of numbers with a fraction");
        return jinja_undefined(NULL);
    }
}

static struct jinja_value on_wholes(struct run *run, enum jinja_kind kind, int64_t a, int64_t b)
{
    int64_t out = 0;
    bool overflow = false;

    switch (kind) {
    case JINJA_ADD:
        overflow = __builtin_add_overflow(a, b, &out);
        break;
    case JINJA_SUBTRACT:
        overflow = __builtin_sub_overflow(a, b, &out);
        break;
    case JINJA_MULTIPLY:
        overflow = __builtin_mul_overflow(a, b, &out);
        break;
    case JINJA_DIVIDE:
        return on_reals(run, kind, (double)a, (double)b);
    default:
        if (b == 0) {
            jinja_fail(&run->arena, -EINVAL, "division by zero");
        } else if (b == -1) {
            overflow = kind == JINJA_FLOOR_DIVIDE && __builtin_sub_overflow(INT64_C(0), a, &out);
        } else { /* towards minus infinity, as Python rounds */
            bool down = a % b != 0 && (a < 0) != (b < 0);
            out = kind == JINJA_FLOOR_DIVIDE ? a / b - down : a % b + (down ? b : 0);
        }
    }
    if (overflow)
        jinja_fail(&run->arena, -ENOTSUP, "a number of more than 64 bits");
    return jinja_of_int(out);
}

static struct jinja_value repeated(struct run *run, struct jinja_value text, struct jinja_value by)
{
    struct jinja_builder b = {.arena = &run->arena};

    for (int64_t i = 0; i < whole(by) && !run->arena.error; i++) {
        jinja_spend(&run->arena, text.s.n);
        jinja_build(&b, text.s);
    }
    return jinja_of_string(jinja_built(&b));
}

static struct jinja_value joined(struct run *run, struct jinja_value a, struct jinja_value b)
{
    struct jinja_value out = jinja_new_list(&run->arena, a.type, a.list->n + b.list->n);

    for (size_t i = 0; i < a.list->n && !run->arena.error; i++)
        jinja_append(&run->arena, out.list, a.list->items[i]);
    for (size_t i = 0; i < b.list->n && !run->arena.error; i++)
        jinja_append(&run->arena, out.list, b.list->items[i]);
    return out;
}

static struct jinja_value concat(struct run *run, struct jinja_string a, struct jinja_string b)
{
    struct jinja_builder all = {.arena = &run->arena};

    jinja_spend(&run->arena, a.n + b.n);
    jinja_build(&all, a);
    jinja_build(&all, b);
    return jinja_of_string(jinja_built(&all));
}

/* As markupsafe's escape does it. */
static struct jinja_string escaped(struct run *run, struct jinja_string s)
{
    static const char special[] = "&<>'\"";
    static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct jinja_builder b = {.arena = &run->arena};

    for (size_t i = 0; i < s.n && !run->arena.error; i++) {
        const char *at = s.s[i] ? strchr(special, s.s[i]) : NULL;
        jinja_build(&b, at ? jinja_literal(entities[at - special]) : jinja_part(s, i, i + 1));
    }
    return jinja_built(&b);
}

/* a + b */
static struct jinja_value added(struct run *run, struct jinja_string a, struct jinja_string b)
{
    struct jinja_value v;

    if (a.safe == b.safe)
        v = concat(run, a, b);
    else
        v = concat(run, a.safe ? a : escaped(run, a), b.safe ? b : escaped(run, b));
    v.s.safe = a.safe || b.safe;
    return v;
}

static struct jinja_value arithmetic(struct run *run, enum jinja_kind kind, struct jinja_value a,
                                     struct jinja_value b)
{
    bool lists = a.type == JINJA_LIST || a.type == JINJA_TUPLE;

    if (run->arena.error)
        return jinja_undefined(NULL);
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (a.type == JINJA_REAL || b.type == JINJA_REAL)
            return on_reals(run, kind, jinja_as_real(a), jinja_as_real(b));
        return on_wholes(run, kind, whole(a), whole(b));
    }
    if (kind == JINJA_ADD && a.type == JINJA_STRING && b.type == JINJA_STRING)
        return added(run, a.s, b.s);
    if (kind == JINJA_ADD && lists && a.type == b.type)
        return joined(run, a, b);
    if (kind == JINJA_MULTIPLY && a.type == JINJA_STRING && b.type == JINJA_INT)
        return repeated(run, a, b);
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED) {
        const char *name = a.type == JINJA_UNDEFINED ? a.function : b.function;
        jinja_fail(&run->arena, -EINVAL, "%.80s is undefined", name ? name : "a value");
    } else if (kind == JINJA_MODULO && a.type == JINJA_STRING) {
        jinja_fail(&run->arena, -ENOTSUP, "a text is formatted with %%");
    } else {
        jinja_fail(&run->arena, -EINVAL, "unsupported operand types: %s and %s", jinja_type_name(a),
                   jinja_type_name(b));
    }
    return jinja_undefined(NULL);
}

static struct jinja_value sign(struct run *run, enum jinja_kind kind, struct jinja_value v)
{
    if (v.type == JINJA_REAL)
        return real(run, kind == JINJA_NEGATIVE ? -v.d : v.d);
    if (jinja_is_number(v))
        return on_wholes(run, kind == JINJA_NEGATIVE ? JINJA_SUBTRACT : JINJA_ADD, 0, whole(v));
    jinja_fail(&run->arena, -EINVAL, "%s has no sign", jinja_type_name(v));
    return v;
}

static bool compared(struct run *run, enum jinja_kind kind, struct jinja_value a,
                     struct jinja_value b)
{
    struct jinja_arena *arena = &run->arena;

    switch (kind) {
    case JINJA_EQUAL:
        return jinja_equal(arena, a, b);
    case JINJA_NOT_EQUAL:
        return !jinja_equal(arena, a, b);
    case JINJA_LESS:
        return jinja_compare(arena, a, b) < 0;
    case JINJA_LESS_EQUAL:
        return jinja_compare(arena, a, b) <= 0;
    case JINJA_GREATER:
        return jinja_compare(arena, a, b) > 0;
    case JINJA_GREATER_EQUAL:
        return jinja_compare(arena, a, b) >= 0;
    case JINJA_IN:
        return jinja_contains(arena, b, a);
    default:
        return !jinja_contains(arena, b, a);
    }
}

static struct jinja_value comparison(struct run *run, struct jinja_frame *frame,
                                     const struct jinja_node *n)
{
    struct jinja_value left = eval(run, frame, n->a), right;

    for (const struct jinja_node *c = n->args; c && !run->arena.error; c = c->next) {
        right = eval(run, frame, c->a);
        if (run->arena.error || !compared(run, c->kind, left, right))
            return jinja_of_bool(false);
        left = right;
    }
    return jinja_of_bool(true);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void evaluate_arguments(struct run *run, struct jinja_frame *frame,
                               const struct jinja_node *n, struct jinja_args *args)
{
    args->n = args->n_named = 0;
    for (; n && !run->arena.error; n = n->next) {
        if (n->kind == JINJA_KEYWORD) {
            args->names[args->n_named] = n->value.s;
            args->named[args->n_named++] = eval(run, frame, n->a);
        } else {
            args->values[args->n++] = eval(run, frame, n);
        }
    }
}

static const struct jinja_value *given(const struct jinja_args *args, size_t i,
                                       struct jinja_string name)
{
    if (i < args->n)
        return &args->values[i];
    for (size_t k = 0; k < args->n_named; k++)
        if (jinja_strings_equal(args->names[k], name))
            return &args->named[k];
    return NULL;
}

static struct jinja_value call_macro(struct run *run, const struct jinja_macro *macro,
                                     const struct jinja_args *args)
{
    struct jinja_frame *frame = inner(run, macro->frame);
    struct jinja_builder out = {.arena = &run->arena};
    size_t n = 0, n_named = 0;

    for (const struct jinja_node *p = macro->node->args; p && !run->arena.error; p = p->next, n++) {
        const struct jinja_value *v = given(args, n, p->value.s);
        struct jinja_value value = v      ? *v
                                   : p->a ? eval(run, frame, p->a)
                                          : jinja_undefined(p->value.s.s);
        n_named += v && n >= args->n;
        jinja_put(&run->arena, &frame->variables, p->value.s, value);
    }
    if (n < args->n || n_named < args->n_named)
        jinja_fail(&run->arena, -EINVAL,
                   "a macro is called with an argument that it does not take");
    execute(run, frame, macro->node->body, &out);
    return jinja_of_string(jinja_built(&out));
}

__attribute__((noinline)) static struct jinja_value call(struct run *run, struct jinja_frame *frame,
                                                         const struct jinja_node *n)
{
    struct jinja_args args;
    struct jinja_value v = eval(run, frame, n->a);

    evaluate_arguments(run, frame, n->args, &args);
    if (run->arena.error)
        return jinja_undefined(NULL);
    if (n->kind == JINJA_METHOD)
        return jinja_method(&run->arena, n->value.s, v, &args);
    if (n->kind == JINJA_FILTER)
        return jinja_filter(&run->arena, n->value.s, v, &args);
    if (n->kind == JINJA_TEST)
        return jinja_of_bool(jinja_test(&run->arena, n->value.s, v, &args));
    if (v.type == JINJA_MACRO)
        return call_macro(run, v.macro, &args);
    if (v.type == JINJA_FUNCTION)
        return jinja_function(&run->arena, v.function, &args);
    jinja_fail(&run->arena, -EINVAL, "%.80s is no function",
               n->a->kind == JINJA_NAME ? n->a->value.s.s : "a value");
    return jinja_undefined(NULL);
}

/* ---- expressions ----------------------------------------------------------------------------- */

static struct jinja_value make(struct run *run, struct jinja_frame *frame,
                               const struct jinja_node *n)
{
    struct jinja_value v, key;

    if (n->kind != JINJA_MAKE_DICT) {
        v = jinja_new_list(&run->arena, n->kind == JINJA_MAKE_LIST ? JINJA_LIST : JINJA_TUPLE, 0);
        for (const struct jinja_node *item = n->args; item && !run->arena.error; item = item->next)
            jinja_append(&run->arena, v.list, eval(run, frame, item));
        return v;
    }
    v = jinja_new_dict(&run->arena, JINJA_DICT);
    for (const struct jinja_node *pair = n->args; pair && !run->arena.error; pair = pair->next) {
        key = eval(run, frame, pair->a);
        if (key.type != JINJA_STRING)
            jinja_fail(&run->arena, -ENOTSUP, "a dict has a key that is no text");
        struct jinja_value value = eval(run, frame, pair->b);
        if (!run->arena.error)
            jinja_put(&run->arena, v.dict, key.s, value);
    }
    return v;
}

static struct jinja_value slice(struct run *run, struct jinja_frame *frame,
                                const struct jinja_node *n)
{
    struct jinja_value v = eval(run, frame, n->a);
    struct jinja_value begin = n->b ? eval(run, frame, n->b) : jinja_none();
    struct jinja_value end = n->c ? eval(run, frame, n->c) : jinja_none();
    struct jinja_value step = n->d ? eval(run, frame, n->d) : jinja_none();

    return jinja_slice(&run->arena, v, begin, end, step);
}

static struct jinja_value two_operands(struct run *run, struct jinja_frame *frame,
                                       const struct jinja_node *n)
{
    struct jinja_value a = eval(run, frame, n->a), b;

    if (n->kind == JINJA_AND || n->kind == JINJA_OR)
        return jinja_truth(a) == (n->kind == JINJA_AND) ? eval(run, frame, n->b) : a;
    b = eval(run, frame, n->b);
    if (run->arena.error)
        return jinja_undefined(NULL);
    if (n->kind == JINJA_ITEM)
        return jinja_item(&run->arena, a, b);
    if (n->kind == JINJA_CONCAT)
        return concat(run, jinja_text(&run->arena, a), jinja_text(&run->arena, b));
    return arithmetic(run, n->kind, a, b);
}

static struct jinja_value expression(struct run *run, struct jinja_frame *frame,
                                     const struct jinja_node *n)
{
    struct jinja_value v;

    switch (n->kind) {
    case JINJA_CONST:
        return n->value;
    case JINJA_NAME:
        return look_up(run, frame, n->value.s);
    case JINJA_MAKE_LIST:
    case JINJA_MAKE_TUPLE:
    case JINJA_MAKE_DICT:
        return make(run, frame, n);
    case JINJA_ATTRIBUTE:
        v = jinja_attribute(&run->arena, eval(run, frame, n->a), n->value.s);
        return v.type == JINJA_UNDEFINED ? jinja_undefined(n->value.s.s) : v;
    case JINJA_SLICE:
        return slice(run, frame, n);
    case JINJA_CALL:
    case JINJA_METHOD:
    case JINJA_FILTER:
    case JINJA_TEST:
        return call(run, frame, n);
    case JINJA_NOT:
        return jinja_of_bool(!jinja_truth(eval(run, frame, n->a)));
    case JINJA_NEGATIVE:
    case JINJA_POSITIVE:
        v = eval(run, frame, n->a);
        return run->arena.error ? v : sign(run, n->kind, v);
    case JINJA_CONDITION:
        if (jinja_truth(eval(run, frame, n->b)))
            return eval(run, frame, n->a);
        return n->c ? eval(run, frame, n->c) : jinja_undefined("the inline if-expression");
    case JINJA_COMPARE:
        return comparison(run, frame, n);
    default:
        return two_operands(run, frame, n);
    }
}

static struct jinja_value eval(struct run *run, struct jinja_frame *frame,
                               const struct jinja_node *n)
{
    struct jinja_value v = jinja_undefined(NULL);

    jinja_spend(&run->arena, 0);
    if (run->arena.error)
        return v;
    run->arena.line = n->line;
    if (++run->depth > DEPTH_MAX)
        jinja_fail(&run->arena, -E2BIG, "it calls itself too deep");
    else
        v = expression(run, frame, n);
    run->depth--;
    return run->arena.error ? jinja_undefined(NULL) : v;
}

/* ---- statements ------------------------------------------------------------------------------ */

static struct jinja_value loop_of(struct run *run, const struct jinja_list *list, size_t i)
{
    struct jinja_value v = jinja_new_dict(&run->arena, JINJA_LOOP);
    int64_t at = (int64_t)i, n = (int64_t)list->n;
    const struct {
        const char *name;
        struct jinja_value value;
    } parts[] = {
        {"index", jinja_of_int(at + 1)},
        {"index0", jinja_of_int(at)},
        {"first", jinja_of_bool(i == 0)},
        {"last", jinja_of_bool(i + 1 == list->n)},
        {"length", jinja_of_int(n)},
        {"revindex", jinja_of_int(n - at)},
        {"revindex0", jinja_of_int(n - at - 1)},
        {"previtem", i > 0 ? list->items[i - 1] : jinja_undefined("there is no previous item")},
        {"nextitem",
         i + 1 < list->n ? list->items[i + 1] : jinja_undefined("there is no next item")},
    };
    const size_t n_parts = sizeof parts / sizeof *parts;

    if (run->arena.error)
        return v;
    v.dict->pairs = jinja_take(&run->arena, n_parts, sizeof *v.dict->pairs);
    for (; v.dict->n < n_parts && !run->arena.error; v.dict->n++)
        v.dict->pairs[v.dict->n] =
            (struct jinja_pair){jinja_literal(parts[v.dict->n].name), parts[v.dict->n].value};
    v.dict->capacity = v.dict->n;
    return v;
}

/* Those items for which the loop's condition holds. */
static struct jinja_list *filtered(struct run *run, struct jinja_frame *frame,
                                   const struct jinja_node *n, struct jinja_list *all)
{
    struct jinja_value out = jinja_new_list(&run->arena, JINJA_LIST, 0);

    for (size_t i = 0; !run->arena.error && i < all->n; i++) {
        struct jinja_frame *one = inner(run, frame);
        assign(run, one, n->a, all->items[i]);
        if (jinja_truth(eval(run, one, n->c)))
            jinja_append(&run->arena, out.list, all->items[i]);
    }
    return run->arena.error ? NULL : out.list;
}

static void execute_for(struct run *run, struct jinja_frame *frame, const struct jinja_node *n,
                        struct jinja_builder *out)
{
    struct jinja_list *list = jinja_iterate(&run->arena, eval(run, frame, n->b));
    static const struct jinja_string name = {"loop", NULL, 4, false};
    enum flow flow = FLOW_ON;

    if (!run->arena.error && n->c)
        list = filtered(run, frame, n, list);
    for (size_t i = 0; !run->arena.error && i < list->n && flow != FLOW_BREAK; i++) {
        struct jinja_frame *one = inner(run, frame);
        jinja_put(&run->arena, &one->variables, name, loop_of(run, list, i));
        assign(run, one, n->a, list->items[i]);
        flow = execute(run, one, n->body, out);
    }
    if (!run->arena.error && list->n == 0)
        execute(run, inner(run, frame), n->d, out);
}

static void execute_set(struct run *run, struct jinja_frame *frame, const struct jinja_node *n)
{
    struct jinja_builder out = {.arena = &run->arena};
    struct jinja_value v;

    if (n->b) {
        v = eval(run, frame, n->b);
    } else {
        execute(run, inner(run, frame), n->body, &out);
        v = jinja_of_string(jinja_built(&out));
    }
    if (!run->arena.error)
        assign(run, frame, n->a, v);
}

static void define(struct run *run, struct jinja_frame *frame, const struct jinja_node *n)
{
    struct jinja_macro *macro = jinja_take(&run->arena, 1, sizeof *macro);

    *macro = (struct jinja_macro){n, frame};
    jinja_put(&run->arena, &frame->variables, n->value.s,
              (struct jinja_value){.type = JINJA_MACRO, .macro = macro});
}

static enum flow execute_one(struct run *run, struct jinja_frame *frame, const struct jinja_node *n,
                             struct jinja_builder *out)
{
    struct jinja_value v;

    switch (n->kind) {
    case JINJA_TEXT:
        jinja_build(out, n->value.s);
        return FLOW_ON;
    case JINJA_OUTPUT:
        v = eval(run, frame, n->a);
        if (!run->arena.error)
            jinja_build(out, jinja_text(&run->arena, v));
        return FLOW_ON;
    case JINJA_IF:
        if (jinja_truth(eval(run, frame, n->a)))
            return execute(run, frame, n->body, out);
        return execute(run, frame, n->b, out);
    case JINJA_FOR:
        execute_for(run, frame, n, out);
        return FLOW_ON;
    case JINJA_SET:
        execute_set(run, frame, n);
        return FLOW_ON;
    case JINJA_DEFINE:
        define(run, frame, n);
        return FLOW_ON;
    case JINJA_BREAK:
        return FLOW_BREAK;
    default:
        return FLOW_CONTINUE;
    }
}

static enum flow execute(struct run *run, struct jinja_frame *frame, const struct jinja_node *n,
                         struct jinja_builder *out)
{
    enum flow flow = FLOW_ON;

    if (++run->depth > DEPTH_MAX)
        jinja_fail(&run->arena, -E2BIG, "it calls itself too deep");
    for (; n && !run->arena.error && flow == FLOW_ON; n = n->next) {
        run->arena.line = n->line;
        jinja_spend(&run->arena, 0);
        flow = execute_one(run, frame, n, out);
    }
    run->depth--;
    return flow;
}

/* ---- programs -------------------------------------------------------------------------------- */

static bool valid_utf8(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i++];
        size_t more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
        uint32_t code = more ? c & (0x3fu >> more) : c;
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || more > n - i)
            return false;
        for (size_t k = 0; k < more; k++, i++) {
            if (((unsigned char)s[i] & 0xc0) != 0x80)
                return false;
            code = code << 6 | ((unsigned char)s[i] & 0x3f);
        }
        if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
    }
    return true;
}

int jinja_new(struct jinja **ret, const char *s, size_t n, char *why, size_t why_size)
{
    struct jinja *jinja = calloc(1, sizeof *jinja);
    struct jinja_token *tokens;
    int r;

    if (!jinja) {
        snprintf(why, why_size, "not enough memory for the chat template");
        return -ENOMEM;
    }
    jinja->arena = (struct jinja_arena){.limit = (size_t)PROGRAM_MIB << 20,
                                        .work_max = UINT64_MAX,
                                        .why = why,
                                        .why_size = why_size};
    if (n > SOURCE_MAX)
        jinja_fail(&jinja->arena, -E2BIG, "it has %zu bytes", n);
    else if (!valid_utf8(s, n))
        jinja_fail(&jinja->arena, -EINVAL, "it is no valid UTF-8");
    tokens = jinja->arena.error ? NULL : jinja_lex(&jinja->arena, s, n);
    if (!jinja->arena.error)
        jinja->program = jinja_parse(&jinja->arena, tokens);
    r = jinja->arena.error;
    if (r < 0) {
        jinja_free(jinja);
        return r;
    }
    jinja->arena.why = NULL; /* the caller's */
    *ret = jinja;
    return 0;
}

void jinja_free(struct jinja *jinja)
{
    if (!jinja)
        return;
    jinja_arena_done(&jinja->arena);
    free(jinja);
}

/* ---- rendering ------------------------------------------------------------------------------- */

static void set(struct run *run, struct jinja_frame *frame, const char *name,
                struct jinja_value value)
{
    jinja_put(&run->arena, &frame->variables, jinja_literal(name), value);
}

/* A control token's name is the template's side of things. */
static void set_token(struct run *run, struct jinja_frame *frame, const char *name,
                      const char *token)
{
    size_t n = token ? strlen(token) : 0;
    uint8_t *own = jinja_take(&run->arena, n + 1, 1);

    if (!token || run->arena.error)
        return;
    memset(own, 1, n);
    set(run, frame, name, jinja_of_string((struct jinja_string){token, own, n, false}));
}

static void set_variables(struct run *run, struct jinja_frame *frame, const json_t *messages,
                          const json_t *tools, const struct jinja_options *options)
{
    static const char *const functions[] = {"range", "namespace", "dict", "raise_exception",
                                            "strftime_now"};
    const char *key;
    json_t *value;

    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        set(run, frame, functions[i],
            (struct jinja_value){.type = JINJA_FUNCTION, .function = functions[i]});
    set(run, frame, "messages", jinja_of_json(&run->arena, messages, 0));
    set(run, frame, "tools", tools ? jinja_of_json(&run->arena, tools, 0) : jinja_none());
    set(run, frame, "documents", jinja_none());
    set(run, frame, "add_generation_prompt", jinja_of_bool(!options->no_generation_prompt));
    set_token(run, frame, "bos_token", options->bos_token);
    set_token(run, frame, "eos_token", options->eos_token);
    json_object_foreach((json_t *)options->extra, key, value)
        set(run, frame, key, jinja_of_json(&run->arena, value, 0));
}

/* The end of a token's name that begins at i, all of it the template's own; 0: none does. */
static size_t token_end(struct jinja_string s, size_t i)
{
    enum { NAME_MAX_BYTES = 63 };

    for (size_t k = i; k < s.n && k - i < NAME_MAX_BYTES && s.own && s.own[k]; k++) {
        char c = s.s[k];
        if (c == '>')
            return k > i + 1 ? k + 1 : 0;
        if ((c == '<' && k > i) || (c >= 0 && c <= ' '))
            break;
    }
    return 0;
}

static void make_segments(struct chat_prompt *prompt, struct jinja_string s)
{
    size_t begin = 0;

    for (size_t i = 0; i < s.n; i++) {
        size_t end = s.s[i] == '<' ? token_end(s, i) : 0;
        if (end == 0)
            continue;
        chat_prompt_add(prompt, CHAT_TEXT, s.s + begin, i - begin);
        chat_prompt_add(prompt, CHAT_TOKEN, s.s + i, end - i);
        begin = end;
        i = end - 1;
    }
    chat_prompt_add(prompt, CHAT_TEXT, s.s + begin, s.n - begin);
}

int jinja_render(const struct jinja *jinja, struct chat_prompt *prompt, const json_t *messages,
                 const json_t *tools, const struct jinja_options *options, char *why,
                 size_t why_size)
{
    struct run run = {.arena = {.limit = (size_t)MEMORY_MIB << 20,
                                .work_max = STEPS_MAX,
                                .why = why,
                                .why_size = why_size}};
    struct jinja_builder out = {.arena = &run.arena};
    struct jinja_frame *frame = inner(&run, NULL);
    int r;

    set_variables(&run, frame, messages, tools, options);
    execute(&run, frame, jinja->program, &out);
    if (!run.arena.error)
        make_segments(prompt, jinja_built(&out));
    if (prompt->text.failed)
        jinja_fail(&run.arena, -ENOMEM, "not enough memory for the prompt");
    r = run.arena.error;
    if (r < 0)
        chat_prompt_done(prompt);
    jinja_arena_done(&run.arena);
    return r;
}
