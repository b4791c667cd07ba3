/* Tokens of a Jinja program (see jinja_parts.h), with transformers' settings: the line end after a
 * block goes, and so does the white space before it on its line. */
#define _GNU_SOURCE /* memmem */
#include "chat/jinja_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct jinja_arena *arena;
    const char *s; /* with line ends made \n */
    size_t n, at;
    uint32_t line;
    struct jinja_token *tokens;
    size_t n_tokens, capacity;
    char open[64]; /* brackets that wait for their other half */
    size_t n_open;
    bool line_starting;      /* what came before ended a line */
    struct jinja_token none; /* written where there is no memory */
};

static struct jinja_token *push(struct lexer *l, enum jinja_token_type type)
{
    if (l->n_tokens == l->capacity) {
        size_t capacity = 2 * l->capacity + 64;
        struct jinja_token *more = jinja_take(l->arena, capacity, sizeof *more);
        if (l->arena->error) {
            l->at = l->n;
            return &l->none;
        }
        if (l->n_tokens > 0)
            memcpy(more, l->tokens, l->n_tokens * sizeof *more);
        l->tokens = more;
        l->capacity = capacity;
    }
    l->tokens[l->n_tokens] = (struct jinja_token){.type = type, .line = l->line};
    return &l->tokens[l->n_tokens++];
}

static void fail(struct lexer *l, const char *what)
{
    l->arena->line = l->line;
    jinja_fail(l->arena, -EINVAL, "%s", what);
    l->at = l->n;
}

static bool starts(const struct lexer *l, size_t at, const char *with)
{
    size_t n = strlen(with);

    return n <= l->n - at && memcmp(l->s + at, with, n) == 0;
}

static void advance(struct lexer *l, size_t to)
{
    for (; l->at < to; l->at++)
        l->line += l->s[l->at] == '\n';
}

/* A string of the program's own. */
static struct jinja_string own(struct lexer *l, const char *s, size_t n)
{
    uint8_t *marks = jinja_take(l->arena, n + 1, 1);

    if (l->arena->error)
        return (struct jinja_string){"", NULL, 0, false};
    memset(marks, 1, n);
    return (struct jinja_string){s, marks, n, false};
}

/* ---- text between tags ----------------------------------------------------------------------- */

static void push_data(struct lexer *l, size_t begin, size_t end)
{
    if (begin >= end)
        return;
    struct jinja_token *token = push(l, JINJA_T_DATA);
    token->text = own(l, l->s + begin, end - begin);
}

/* Where text from `begin` ends that a tag at `end` follows. */
static size_t text_end(const struct lexer *l, size_t begin, size_t end)
{
    const struct jinja_string text = {l->s + begin, NULL, end - begin, false};
    char sign = end + 2 < l->n ? l->s[end + 2] : 0;
    size_t line = end;

    if (sign == '-')
        return begin + jinja_trim(text, jinja_none(), false, true).n;
    if (sign == '+' || l->s[end + 1] == '{')
        return end;
    while (line > begin && l->s[line - 1] != '\n')
        line--;
    if (line == begin && !l->line_starting)
        return end;
    const struct jinja_string last = {l->s + line, NULL, end - line, false};
    return jinja_trim(last, jinja_none(), true, true).n == 0 ? line : end;
}

/* After the end of a tag: `sign` is the character before it. */
static void tag_closed(struct lexer *l, char sign, bool trims_line)
{
    l->line_starting = false;
    if (sign == '-') {
        const struct jinja_string rest = {l->s + l->at, NULL, l->n - l->at, false};
        size_t to = l->n - jinja_trim(rest, jinja_none(), true, false).n;
        l->line_starting = to > l->at && l->s[to - 1] == '\n';
        advance(l, to);
    } else if (sign != '+' && trims_line && l->at < l->n && l->s[l->at] == '\n') {
        l->line_starting = true;
        advance(l, l->at + 1);
    }
}

static void comment(struct lexer *l)
{
    const char *end = memmem(l->s + l->at + 2, l->n - l->at - 2, "#}", 2);

    if (!end) {
        fail(l, "a comment has no end");
        return;
    }
    advance(l, (size_t)(end - l->s) + 2);
    tag_closed(l, end > l->s ? end[-1] : 0, true);
}

/* The end of a block tag that holds `name` alone, from `at`: 0 if it is none. Its signs in ret. */
static size_t bare_tag(const struct lexer *l, size_t at, const char *name, char *ret_sign)
{
    if (!starts(l, at, "{%"))
        return 0;
    at += 2;
    if (at < l->n && (l->s[at] == '-' || l->s[at] == '+'))
        at++;
    while (at < l->n && strchr(" \t\n", l->s[at]) && l->s[at])
        at++;
    if (!starts(l, at, name))
        return 0;
    at += strlen(name);
    while (at < l->n && strchr(" \t\n", l->s[at]) && l->s[at])
        at++;
    *ret_sign = 0;
    if (at < l->n && (l->s[at] == '-' || l->s[at] == '+'))
        *ret_sign = l->s[at++];
    return starts(l, at, "%}") ? at + 2 : 0;
}

/* {% raw %} … {% endraw %}, where it stands; false: it does not. */
static bool raw(struct lexer *l)
{
    char sign;
    size_t inside = bare_tag(l, l->at, "raw", &sign), end = 0;

    if (inside == 0)
        return false;
    advance(l, inside);
    tag_closed(l, sign, true);
    for (size_t at = l->at; at < l->n; at++) {
        end = l->s[at] == '{' ? bare_tag(l, at, "endraw", &sign) : 0;
        if (end == 0)
            continue;
        push_data(l, l->at, text_end(l, l->at, at));
        advance(l, end);
        tag_closed(l, sign, true);
        return true;
    }
    fail(l, "a raw block has no end");
    return true;
}

/* ---- what tags hold -------------------------------------------------------------------------- */

static void add_character(char *s, size_t *n, uint32_t c)
{
    if (c < 0x80) {
        s[(*n)++] = (char)c;
    } else if (c < 0x800) {
        s[(*n)++] = (char)(0xc0 | c >> 6);
        s[(*n)++] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        s[(*n)++] = (char)(0xe0 | c >> 12);
        s[(*n)++] = (char)(0x80 | (c >> 6 & 63));
        s[(*n)++] = (char)(0x80 | (c & 63));
    } else {
        s[(*n)++] = (char)(0xf0 | c >> 18);
        s[(*n)++] = (char)(0x80 | (c >> 12 & 63));
        s[(*n)++] = (char)(0x80 | (c >> 6 & 63));
        s[(*n)++] = (char)(0x80 | (c & 63));
    }
}

/* \xHH, \uHHHH, \UHHHHHHHH: characters read from `at` (after the letter); 0: no such escape. */
static size_t hex_escape(struct lexer *l, size_t at, char letter, char *out, size_t *n)
{
    size_t digits = letter == 'x' ? 2 : letter == 'u' ? 4 : 8;
    char text[9] = "";
    uint32_t c;

    if (digits > l->n - at)
        return 0;
    memcpy(text, l->s + at, digits);
    if (strspn(text, "0123456789abcdefABCDEF") != digits)
        return 0;
    c = (uint32_t)strtoul(text, NULL, 16);
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    add_character(out, n, c);
    return digits;
}

static size_t octal_escape(const struct lexer *l, size_t at, char *out, size_t *n)
{
    uint32_t c = 0;
    size_t digits = 0;

    for (; digits < 3 && at + digits < l->n && l->s[at + digits] >= '0' && l->s[at + digits] < '8';
         digits++)
        c = c * 8 + (uint32_t)(l->s[at + digits] - '0');
    add_character(out, n, c);
    return digits;
}

static void string(struct lexer *l)
{
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    char quote = l->s[l->at];
    size_t i = l->at + 1, n = 0, end = i;

    while (end < l->n && l->s[end] != quote)
        end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n) {
        fail(l, "a string has no end");
        return;
    }
    char *out = jinja_take(l->arena, end - i + 1, 1);
    while (i < end && !l->arena->error) {
        char c = l->s[i++];
        if (c != '\\') {
            out[n++] = c;
            continue;
        }
        char letter = l->s[i++];
        const char *at = NULL;
        for (const char *p = plain; *p && !at; p += 2)
            at = *p == letter ? p : NULL;
        size_t used;
        if (letter == '\n')
            continue;
        if (at) {
            out[n++] = at[1];
        } else if (letter >= '0' && letter < '8') {
            i += octal_escape(l, i - 1, out, &n) - 1;
        } else if (letter == 'x' || letter == 'u' || letter == 'U') {
            used = hex_escape(l, i, letter, out, &n);
            if (used == 0) {
                fail(l, "a string has an escape that is no character");
                return;
            }
            i += used;
        } else {
            out[n++] = '\\';
            out[n++] = letter;
        }
    }
    struct jinja_token *token = push(l, JINJA_T_STRING);
    token->text = own(l, out, n);
    advance(l, end + 1);
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static void number(struct lexer *l)
{
    char text[64];
    size_t n = 0, i = l->at;
    bool real = false;

    while (i < l->n && (digit(l->s[i]) || l->s[i] == '_'))
        i++;
    if (i + 1 < l->n && l->s[i] == '.' && digit(l->s[i + 1])) {
        real = true;
        for (i++; i < l->n && (digit(l->s[i]) || l->s[i] == '_');)
            i++;
    }
    if (i < l->n && (l->s[i] == 'e' || l->s[i] == 'E')) {
        size_t at = i + 1;
        if (at < l->n && (l->s[at] == '+' || l->s[at] == '-'))
            at++;
        if (at < l->n && digit(l->s[at])) {
            real = true;
            for (i = at; i < l->n && digit(l->s[i]);)
                i++;
        }
    }
    for (size_t k = l->at; k < i && n + 1 < sizeof text; k++)
        if (l->s[k] != '_')
            text[n++] = l->s[k];
    text[n] = '\0';
    if (i - l->at >= sizeof text || (i < l->n && strchr("xXbBoO", l->s[i]) && l->s[i])) {
        fail(l, "a number is not written in plain digits");
        return;
    }
    struct jinja_token *token = push(l, real ? JINJA_T_REAL : JINJA_T_INT);
    errno = 0;
    if (real)
        token->d = strtod(text, NULL);
    else
        token->i = strtoll(text, NULL, 10);
    if (errno == ERANGE)
        fail(l, "a number is too great");
    advance(l, i);
}

static bool letter_of_name(char c)
{
    return c == '_' || digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static void operator(struct lexer *l)
{
    static const char *const doubles[] = {"**", "//", "==", "!=", ">=", "<="};
    static const char pairs[] = "()[]{}";
    size_t n = 1;
    char c = l->s[l->at];
    const char *at = strchr(pairs, c);

    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
        n = starts(l, l->at, doubles[i]) ? 2 : n;
    if (n == 1 && (c == 0 || !strchr("+-/*%~[](){}><=.:|,;", c))) {
        fail(l, "a character has no meaning");
        return;
    }
    if (n == 1 && at && (at - pairs) % 2 == 0) {
        if (l->n_open == sizeof l->open) {
            fail(l, "brackets are nested too deep");
            return;
        }
        l->open[l->n_open++] = at[1];
    } else if (n == 1 && at && (l->n_open == 0 || l->open[--l->n_open] != c)) {
        fail(l, "a bracket is closed that was not opened");
        return;
    }
    push(l, JINJA_T_OPERATOR)->text = (struct jinja_string){l->s + l->at, NULL, n, false};
    advance(l, l->at + n);
}

/* From behind {{ or {% to behind its end. */
static void tag(struct lexer *l, bool block)
{
    const char *end = block ? "%}" : "}}";

    while (l->at < l->n && !l->arena->error) {
        char c = l->s[l->at];
        size_t sign = c == '-' || (block && c == '+');
        if (l->n_open == 0 && starts(l, l->at + sign, end)) {
            push(l, block ? JINJA_T_UNBLOCK : JINJA_T_CLOSE);
            advance(l, l->at + sign + 2);
            tag_closed(l, sign ? c : 0, block);
            return;
        }
        size_t i = l->at;
        if (c == ' ' || (c >= '\t' && c <= '\r')) {
            advance(l, i + 1);
        } else if (c == '"' || c == '\'') {
            string(l);
        } else if (digit(c)) {
            number(l);
        } else if (letter_of_name(c)) {
            while (i < l->n && letter_of_name(l->s[i]))
                i++;
            push(l, JINJA_T_NAME)->text =
                (struct jinja_string){l->s + l->at, NULL, i - l->at, false};
            advance(l, i);
        } else {
            operator(l);
        }
    }
    if (!l->arena->error)
        fail(l, "a tag has no end");
}

/* Line ends as \n, and the last one gone. */
static void normalize(struct lexer *l, const char *s, size_t n)
{
    char *out = jinja_take(l->arena, n + 1, 1);

    if (l->arena->error)
        return;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\r' && i + 1 < n && s[i + 1] == '\n')
            continue;
        out[l->n++] = s[i] == '\r' ? '\n' : s[i];
    }
    if (l->n > 0 && out[l->n - 1] == '\n')
        l->n--;
    l->s = out;
}

struct jinja_token *jinja_lex(struct jinja_arena *arena, const char *s, size_t n)
{
    struct lexer l = {.arena = arena, .line = 1, .line_starting = true};

    normalize(&l, s, n);
    while (l.at < l.n && !arena->error) {
        size_t end = l.at;
        while (end + 1 < l.n && !(l.s[end] == '{' && (l.s[end + 1] == '{' || l.s[end + 1] == '%' ||
                                                      l.s[end + 1] == '#')))
            end++;
        if (end + 1 >= l.n) {
            push_data(&l, l.at, l.n);
            break;
        }
        push_data(&l, l.at, text_end(&l, l.at, end));
        advance(&l, end);
        if (l.s[end + 1] == '#') {
            comment(&l);
        } else if (l.s[end + 1] == '{' || !raw(&l)) {
            bool block = l.s[end + 1] == '%';
            push(&l, block ? JINJA_T_BLOCK : JINJA_T_OUTPUT);
            l.at += 2;
            if (l.at < l.n && (l.s[l.at] == '-' || (block && l.s[l.at] == '+')))
                l.at++;
            tag(&l, block);
        }
    }
    push(&l, JINJA_T_END);
    return l.tokens;
}
