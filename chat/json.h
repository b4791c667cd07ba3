/* JSON as Python's json.dumps(value, ensure_ascii=False) writes it, which is what `tojson` means in the
 * models' templates: ", " and ": " between things, keys in their order, characters as they are. */
#ifndef QUERN_CHAT_JSON_H
#define QUERN_CHAT_JSON_H

#include "chat/text.h"

#include <jansson.h>

void chat_json_add(struct chat_text *text, const json_t *value);
void chat_json_add_string(struct chat_text *text, const char *s, size_t n);
void chat_json_add_real(struct chat_text *text, double value); /* finite */

/* Reads one JSON value as Python's json.loads does, but for NaN, Infinity and whole numbers of more
 * than 64 bits, which are refused. NULL with a sentence that names `what`. Freed by json_decref. */
json_t *chat_json_read(const char *s, size_t n, const char *what, char *why, size_t why_size);

#endif
