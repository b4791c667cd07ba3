/* Tool calls in an answer (see calls.h).
 *
 * Both forms share the frame: text up to a marker, then a call until it ends or cannot be one. What may
 * still become a marker is held back. Each byte is looked at a bounded number of times. */
#define _GNU_SOURCE /* memmem */
#include "chat/calls.h"

#include "chat/text.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 200, SLICE = 4096 };

static const char open_tag[] = "<tool_call>", close_tag[] = "</tool_call>";

enum marker { FUNCTION, ARGS, RESULT, RETURN, MARKERS };
static const char *const markers[MARKERS] = {"✿FUNCTION✿", "✿ARGS✿", "✿RESULT✿", "✿RETURN✿"};

enum state {
    IN_TEXT,
    IN_OBJECT,    /* tags: the JSON of a call */
    AFTER_OBJECT, /* tags: white space, then the closing tag */
    IN_MALFORMED, /* tags: up to the closing tag */
    IN_NAME,      /* flowers: after ✿FUNCTION✿ */
    IN_ARGUMENTS, /* flowers: after ✿ARGS✿ */
};

/* Where a scan of one JSON object is; offsets are into the source of the call. */
struct scan {
    unsigned depth;
    bool in_string, escaped;
    enum { AT_KEY, AT_COLON, AT_VALUE } phase; /* at depth 1 */
    size_t object;                             /* where it begins; 0: not yet */
    size_t key, value;                         /* the key (with quotes); the value, 0: not yet */
    enum { OTHER_KEY, NAME_KEY, ARGUMENTS_KEY } which;
    size_t n_tag; /* bytes of the closing tag so far */
};

struct chat_parser {
    enum chat_call_form form;
    chat_event_fn *fn;
    void *arg;
    enum state state;
    unsigned call;
    struct chat_text held;      /* not decided yet */
    struct chat_text source;    /* of the call, from its marker on */
    struct chat_text name;      /* s NULL: not known yet */
    struct chat_text arguments; /* so far; n_told of them were told */
    size_t n_told;
    bool begun;
    bool colon; /* flowers: the one after ✿ARGS✿ was seen */
    struct scan scan;
};

static void tell(struct chat_parser *p, enum chat_event_type type, const char *s, size_t n)
{
    const struct chat_event event = {
        .type = type, .s = s, .n = n, .call = p->call, .begun = p->begun};

    if (n > 0 || type != CHAT_EVENT_TEXT)
        p->fn(p->arg, &event);
}

static void reset(struct chat_text *text)
{
    text->n = 0; /* its memory is used again */
}

static void call_start(struct chat_parser *p, enum state state)
{
    p->state = state;
    p->begun = p->colon = false;
    p->n_told = 0;
    p->scan = (struct scan){0};
    reset(&p->source);
    reset(&p->name);
    reset(&p->arguments);
}

static void call_over(struct chat_parser *p)
{
    p->state = IN_TEXT;
    p->call++;
}

static void call_malformed(struct chat_parser *p)
{
    tell(p, CHAT_EVENT_MALFORMED, p->source.s, p->source.n);
    call_over(p);
}

static void begin(struct chat_parser *p)
{
    p->begun = true;
    tell(p, CHAT_EVENT_BEGIN, p->name.s, p->name.n);
}

/* Tells the arguments up to `end`. */
static void tell_arguments(struct chat_parser *p, size_t end)
{
    if (!p->begun || end <= p->n_told)
        return;
    tell(p, CHAT_EVENT_ARGUMENTS, p->arguments.s + p->n_told, end - p->n_told);
    p->n_told = end;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_object(const char *s, size_t n)
{
    json_t *value = json_loadb(s, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    bool is = json_is_object(value);

    json_decref(value);
    return is;
}

/* The longest end of s that is the beginning of the pattern, all of it apart. */
static size_t begun_at_end(const char *s, size_t n, const char *pattern)
{
    size_t length = strlen(pattern) - 1;

    for (length = length < n ? length : n; length > 0; length--)
        if (!memcmp(s + n - length, pattern, length))
            return length;
    return 0;
}

/* ---- tags: <tool_call>{"name": …, "arguments": …}</tool_call> ------------------------------- */

/* The value that ended before offset `end`. False: the call is none. */
static bool value_ends(struct chat_parser *p, size_t end)
{
    struct scan *scan = &p->scan;
    const char *s = p->source.s + scan->value;
    size_t n = scan->value ? end - scan->value : 0;

    if (n == 0)
        return false;
    if (scan->which == OTHER_KEY)
        return true;
    if (scan->which == ARGUMENTS_KEY && s[0] == '{')
        return true;
    if (scan->which == NAME_KEY && p->begun)
        return false; /* a second name */
    /* The name is a string; arguments may be one that holds JSON, as the reference allows. */
    json_t *string = json_loadb(s, n, JSON_DECODE_ANY, NULL);
    bool good = json_is_string(string) && json_string_length(string) > 0;
    if (good)
        chat_text_add(scan->which == NAME_KEY ? &p->name : &p->arguments, json_string_value(string),
                      json_string_length(string));
    json_decref(string);
    if (good && scan->which == NAME_KEY)
        begin(p);
    tell_arguments(p, p->arguments.n); /* where they came before the name, all of them */
    return good;
}

/* The closing quote at offset `at`: of a key at depth 1, which one. */
static void string_ends(struct chat_parser *p, size_t at)
{
    struct scan *scan = &p->scan;
    const struct chat_span key = {p->source.s + scan->key, at - scan->key};

    scan->in_string = false;
    if (scan->depth != 1 || scan->phase != AT_KEY)
        return;
    scan->which = chat_span_is(key, "\"name")        ? NAME_KEY
                  : chat_span_is(key, "\"arguments") ? ARGUMENTS_KEY
                                                     : OTHER_KEY;
    scan->phase = AT_COLON;
}

/* A byte outside of strings that gives the object its structure. False: it cannot be one. */
static bool structure(struct chat_parser *p, char c, size_t at)
{
    struct scan *scan = &p->scan;

    if (c == '{' || c == '[')
        return ++scan->depth <= DEPTH_MAX;
    if (c == '}' || c == ']') {
        if (scan->depth == 1) {
            if (scan->phase == AT_VALUE && !value_ends(p, at))
                return false;
            p->state = AFTER_OBJECT;
        }
        scan->depth--;
        return true;
    }
    if (scan->depth == 1 && c == ':') {
        bool good = scan->phase == AT_COLON;
        scan->phase = AT_VALUE;
        scan->value = 0;
        return good;
    }
    if (scan->depth == 1 && c == ',') {
        bool good = scan->phase == AT_VALUE && value_ends(p, at);
        scan->phase = AT_KEY;
        return good;
    }
    return true;
}

/* One byte of the object at offset `at`, which is not in the source yet. False: it cannot be there. */
static bool object_byte(struct chat_parser *p, char c, size_t at)
{
    struct scan *scan = &p->scan;

    if (scan->object == 0) { /* never at 0: the tag is there */
        if (c == '{') {
            scan->object = at;
            scan->depth = 1;
        }
        return c == '{' || is_space(c);
    }
    if (scan->in_string) {
        if (scan->escaped || c == '\\')
            scan->escaped = !scan->escaped;
        else if (c == '"')
            string_ends(p, at);
        return (unsigned char)c >= 0x20;
    }
    if (scan->depth == 1 && scan->phase == AT_VALUE && scan->value == 0 && !is_space(c))
        scan->value = at;
    if (c != '"')
        return structure(p, c, at);
    scan->in_string = true;
    if (scan->depth == 1 && scan->phase == AT_KEY)
        scan->key = at;
    return true;
}

/* Whether the next byte belongs to arguments that are an object, before it is taken. */
static bool in_arguments(const struct chat_parser *p, char c)
{
    const struct scan *scan = &p->scan;

    if (scan->which != ARGUMENTS_KEY || scan->phase != AT_VALUE)
        return false;
    return scan->value == 0 ? c == '{' : scan->depth > 1 && p->source.s[scan->value] == '{';
}

static void tags_end(struct chat_parser *p)
{
    const char *object = p->source.s + p->scan.object;
    size_t n = p->source.n - (sizeof close_tag - 1) - p->scan.object;

    tell_arguments(p, p->arguments.n);
    if (p->begun && p->arguments.n > 0 && is_object(object, n) &&
        is_object(p->arguments.s, p->arguments.n)) {
        tell(p, CHAT_EVENT_END, p->arguments.s, p->arguments.n);
        call_over(p);
    } else {
        call_malformed(p);
    }
}

/* One byte after the object. False: neither white space nor of the closing tag. */
static bool after_object_byte(struct chat_parser *p, char c)
{
    if (p->scan.n_tag == 0 && is_space(c))
        return true;
    return c == close_tag[p->scan.n_tag++];
}

/* Takes what it can of n bytes of a call; returns how many. */
static size_t tags_call(struct chat_parser *p, const char *s, size_t n)
{
    size_t i = 0;

    for (; i < n && (p->state == IN_OBJECT || p->state == AFTER_OBJECT); i++) {
        bool arguments = p->state == IN_OBJECT && in_arguments(p, s[i]);
        bool good =
            p->state == IN_OBJECT ? object_byte(p, s[i], p->source.n) : after_object_byte(p, s[i]);
        if (!good) {
            tell_arguments(p, p->arguments.n); /* the same events however the answer is cut */
            p->state = IN_MALFORMED; /* which begins with this byte: it may open the closing tag */
            return i;
        }
        chat_text_add(&p->source, s + i, 1);
        if (arguments)
            chat_text_add(&p->arguments, s + i, 1);
        if (p->scan.n_tag == sizeof close_tag - 1)
            tags_end(p);
    }
    if (p->state != IN_TEXT)
        tell_arguments(p, p->arguments.n);
    return i;
}

/* ---- flowers: ✿FUNCTION✿: name, ✿ARGS✿: JSON -------------------------------------------------- */

/* The first marker in s; *ret_at is its place, or, where there is none, that of what may become one
 * (n: nothing may). */
static enum marker find_marker(const char *s, size_t n, size_t *ret_at)
{
    enum marker found = MARKERS;

    *ret_at = n;
    for (int m = 0; m < MARKERS; m++) {
        const char *at = memmem(s, n, markers[m], strlen(markers[m]));
        if (at && (size_t)(at - s) < *ret_at) {
            *ret_at = (size_t)(at - s);
            found = (enum marker)m;
        }
    }
    for (int m = 0; found == MARKERS && m < MARKERS; m++) {
        size_t begun = begun_at_end(s, n, markers[m]);
        if (n - begun < *ret_at)
            *ret_at = n - begun;
    }
    return found;
}

/* What stands after a marker begins with a colon and white space, which are not part of it. */
static struct chat_span after_colon(const char *s, size_t n)
{
    size_t i = n > 0 && s[0] == ':';

    while (i < n && is_space(s[i]))
        i++;
    while (n > i && is_space(s[n - 1]))
        n--;
    return (struct chat_span){s + i, n - i};
}

static void name_ends(struct chat_parser *p)
{
    const size_t n_marker = strlen(markers[FUNCTION]);
    struct chat_span name = after_colon(p->source.s + n_marker, p->source.n - n_marker);

    if (name.len == 0 || memchr(name.s, '\n', name.len)) {
        call_malformed(p);
        return;
    }
    chat_text_add(&p->name, name.s, name.len);
    begin(p);
    p->state = IN_ARGUMENTS;
}

/* More of the arguments: the colon and white space before them go, and white space after them. */
static void flower_arguments(struct chat_parser *p, const char *s, size_t n)
{
    size_t i = 0, end;

    for (; p->arguments.n == 0 && i < n && (is_space(s[i]) || (s[i] == ':' && !p->colon)); i++)
        p->colon = p->colon || s[i] == ':';
    chat_text_add(&p->arguments, s + i, n - i);
    for (end = p->arguments.n; end > 0 && is_space(p->arguments.s[end - 1]);)
        end--;
    tell_arguments(p, end);
}

static void flower_call_ends(struct chat_parser *p)
{
    while (p->arguments.n > 0 && is_space(p->arguments.s[p->arguments.n - 1]))
        p->arguments.n--;
    if (p->arguments.n > 0 && is_object(p->arguments.s, p->arguments.n)) {
        tell(p, CHAT_EVENT_END, p->arguments.s, p->arguments.n);
        call_over(p);
    } else {
        call_malformed(p);
    }
}

/* A marker while a call is open, or in text. It is not in the source yet. */
static void flower_marker(struct chat_parser *p, enum marker m)
{
    if (p->state == IN_NAME && m == ARGS) {
        name_ends(p);
        if (p->state == IN_ARGUMENTS) {
            chat_text_puts(&p->source, markers[m]);
            return;
        }
    } else if (p->state == IN_ARGUMENTS && m != ARGS) {
        flower_call_ends(p);
    } else if (p->state != IN_TEXT) {
        call_malformed(p);
    }
    if (m == FUNCTION) {
        call_start(p, IN_NAME);
        chat_text_puts(&p->source, markers[m]);
    } else {
        tell(p, CHAT_EVENT_TEXT, markers[m], strlen(markers[m]));
    }
}

/* Takes what it can of n bytes; returns how many. */
static size_t flowers(struct chat_parser *p, const char *s, size_t n)
{
    size_t at;
    enum marker m = find_marker(s, n, &at);

    if (p->state == IN_TEXT)
        tell(p, CHAT_EVENT_TEXT, s, at);
    else
        chat_text_add(&p->source, s, at);
    if (p->state == IN_ARGUMENTS)
        flower_arguments(p, s, at);
    if (m == MARKERS)
        return at;
    flower_marker(p, m);
    return at + strlen(markers[m]);
}

/* ---- the frame ------------------------------------------------------------------------------- */

/* Text, or what is left of a malformed call: up to a tag, or to what may become one. */
static size_t tags_search(struct chat_parser *p, const char *s, size_t n)
{
    const char *tag = p->state == IN_TEXT ? open_tag : close_tag;
    const char *at = memmem(s, n, tag, strlen(tag));
    size_t before = at ? (size_t)(at - s) : n - begun_at_end(s, n, tag);

    if (p->state == IN_TEXT) {
        tell(p, CHAT_EVENT_TEXT, s, before);
        if (at) {
            call_start(p, IN_OBJECT);
            chat_text_puts(&p->source, open_tag);
        }
    } else {
        chat_text_add(&p->source, s, at ? before + strlen(tag) : before);
        if (at)
            call_malformed(p);
    }
    return at ? before + strlen(tag) : before;
}

static bool failed(const struct chat_parser *p)
{
    return p->held.failed || p->source.failed || p->name.failed || p->arguments.failed;
}

/* Goes as far as what is held back decides. */
static void advance(struct chat_parser *p)
{
    size_t done = 0, took;
    enum state before;

    do {
        const char *s = p->held.s + done;
        size_t n = p->held.n - done;
        before = p->state;
        if (p->form == CHAT_CALLS_FLOWER)
            took = flowers(p, s, n);
        else if (p->state == IN_OBJECT || p->state == AFTER_OBJECT)
            took = tags_call(p, s, n);
        else
            took = tags_search(p, s, n);
        done += took;
    } while (done < p->held.n && (took > 0 || p->state != before) && !failed(p));
    memmove(p->held.s, p->held.s + done, p->held.n - done);
    p->held.n -= done;
}

int chat_parser_push(struct chat_parser *parser, const char *s, size_t n)
{
    /* In slices: a search for one marker does not look far beyond the next of another. */
    for (size_t at = 0; at < n && !failed(parser); at += SLICE) {
        chat_text_add(&parser->held, s + at, n - at < SLICE ? n - at : SLICE);
        if (!failed(parser))
            advance(parser);
    }
    return failed(parser) ? -ENOMEM : 0;
}

int chat_parser_finish(struct chat_parser *parser)
{
    struct chat_parser *p = parser;

    if (p->state == IN_TEXT) {
        tell(p, CHAT_EVENT_TEXT, p->held.s, p->held.n);
    } else {
        chat_text_add(&p->source, p->held.s, p->held.n);
        if (p->state == IN_ARGUMENTS) {
            flower_arguments(p, p->held.s, p->held.n);
            flower_call_ends(p);
        } else {
            call_malformed(p);
        }
    }
    reset(&p->held);
    p->call = 0;
    return failed(p) ? -ENOMEM : 0;
}

int chat_parser_new(struct chat_parser **ret, enum chat_call_form form, chat_event_fn *fn,
                    void *arg)
{
    struct chat_parser *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->form = form;
    p->fn = fn;
    p->arg = arg;
    *ret = p;
    return 0;
}

void chat_parser_free(struct chat_parser *parser)
{
    if (!parser)
        return;
    chat_text_done(&parser->held);
    chat_text_done(&parser->source);
    chat_text_done(&parser->name);
    chat_text_done(&parser->arguments);
    free(parser);
}

size_t chat_parser_stops(enum chat_call_form form, const char *ret[2])
{
    if (form != CHAT_CALLS_FLOWER)
        return 0;
    ret[0] = "✿RESULT✿:";
    ret[1] = "✿RETURN✿:";
    return 2;
}
