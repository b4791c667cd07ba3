/* JSON in Python's spelling (see json.h). */
#include "chat/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ESCAPE_DCT of json.encoder: what has a short form; other control characters are \u00XX. */
void chat_json_add_string(struct chat_text *text, const char *s, size_t n)
{
    size_t start = 0;

    chat_text_puts(text, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        const char *at;
        char escape[8];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        chat_text_add(text, s + start, i - start);
        start = i + 1;
        at = c ? strchr("\"\"\\\\\nn\rr\tt\bb\ff", c) : NULL;
        if (at)
            snprintf(escape, sizeof escape, "\\%c", at[1]);
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        chat_text_puts(text, escape);
    }
    chat_text_add(text, s + start, n - start);
    chat_text_puts(text, "\"");
}

/* The fewest digits that give the number back, as *ret_digits × 10^*ret_exponent, ≥ 0. At a power
 * of two the nearest decimal of that many digits may miss where its neighbour does not. */
static void shortest(double value, unsigned long long *ret_digits, int *ret_exponent)
{
    static const int around[] = {0, 1, -1};
    char text[40];

    for (int precision = 0;; precision++) {
        unsigned long long digits = 0;
        snprintf(text, sizeof text, "%.*e", precision, fabs(value));
        for (const char *p = text; *p != 'e'; p++)
            if (*p != '.')
                digits = digits * 10 + (unsigned long long)(*p - '0');
        int exponent = atoi(strchr(text, 'e') + 1) - precision;
        for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
            unsigned long long near = digits + (unsigned long long)around[i];
            snprintf(text, sizeof text, "%llue%d", near, exponent);
            if (strtod(text, NULL) != fabs(value) && precision < 16)
                continue;
            *ret_digits = near;
            *ret_exponent = exponent;
            return;
        }
    }
}

/* float.__repr__: an exponent is shown below 1e-4 and from 1e16 on. */
void chat_json_add_real(struct chat_text *text, double value)
{
    char digits[24], out[40];
    unsigned long long all;
    int n, exponent;

    shortest(value, &all, &exponent);
    n = snprintf(digits, sizeof digits, "%llu", all);
    exponent += n - 1; /* of the first digit */
    while (n > 1 && digits[n - 1] == '0')
        n--;
    chat_text_puts(text, signbit(value) ? "-" : "");
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, sizeof out, "%c%s%.*se%c%02d", digits[0], n > 1 ? "." : "", n - 1, digits + 1,
                 exponent < 0 ? '-' : '+', abs(exponent));
        chat_text_puts(text, out);
        return;
    }
    if (exponent < 0) {
        chat_text_puts(text, "0.");
        for (int i = exponent + 1; i < 0; i++)
            chat_text_puts(text, "0");
        chat_text_add(text, digits, (size_t)n);
        return;
    }
    for (int i = 0; i <= exponent; i++)
        chat_text_add(text, i < n ? digits + i : "0", 1);
    chat_text_puts(text, ".");
    if (n > exponent + 1)
        chat_text_add(text, digits + exponent + 1, (size_t)(n - exponent - 1));
    else
        chat_text_puts(text, "0");
}

static void add_object(struct chat_text *text, const json_t *object)
{
    bool first = true;

    chat_text_puts(text, "{");
    for (void *at = json_object_iter((json_t *)object); at;
         at = json_object_iter_next((json_t *)object, at)) {
        chat_text_puts(text, first ? "" : ", ");
        first = false;
        const char *key = json_object_iter_key(at);
        chat_json_add_string(text, key, json_object_iter_key_len(at));
        chat_text_puts(text, ": ");
        chat_json_add(text, json_object_iter_value(at));
    }
    chat_text_puts(text, "}");
}

void chat_json_add(struct chat_text *text, const json_t *value)
{
    char number[32];

    switch (json_typeof(value)) {
    case JSON_OBJECT:
        add_object(text, value);
        return;
    case JSON_ARRAY:
        chat_text_puts(text, "[");
        for (size_t i = 0; i < json_array_size(value); i++) {
            chat_text_puts(text, i ? ", " : "");
            chat_json_add(text, json_array_get(value, i));
        }
        chat_text_puts(text, "]");
        return;
    case JSON_STRING:
        chat_json_add_string(text, json_string_value(value), json_string_length(value));
        return;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        chat_text_puts(text, number);
        return;
    case JSON_REAL:
        chat_json_add_real(text, json_real_value(value));
        return;
    case JSON_TRUE:
        chat_text_puts(text, "true");
        return;
    case JSON_FALSE:
        chat_text_puts(text, "false");
        return;
    case JSON_NULL:
        chat_text_puts(text, "null");
        return;
    }
}

json_t *chat_json_read(const char *s, size_t n, const char *what, char *why, size_t why_size)
{
    json_error_t error;
    json_t *value = json_loadb(s, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);

    if (!value)
        snprintf(why, why_size, "%s is no JSON: line %d, column %d: %s", what, error.line,
                 error.column, error.text);
    return value;
}
