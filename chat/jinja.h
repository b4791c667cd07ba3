/* Prompt templates that nobody here has seen: the model file's own Jinja program, executed.
 *
 * The language is the part of Jinja 3.1 that chat templates use, in the environment that
 * transformers makes for them (blocks trimmed, nothing escaped, `tojson` as json.dumps without
 * escapes, `raise_exception`, `strftime_now`, break and continue): for, if, set, macro,
 * generation; all operators; the filters, tests and methods of the tables in jinja_filter.c and
 * jinja_call.c. A program that uses anything else is refused when it is compiled, by name and
 * line, and never half executed.
 *
 * A program is a stranger's: it reaches nothing but the conversation, its depth, its steps and its
 * memory are bounded, and what it makes of texts stays marked, byte by byte, as the template's own
 * or the conversation's. Only the template's own bytes can become a token; what a message says is
 * text wherever the program puts it. */
#ifndef QUERN_CHAT_JINJA_H
#define QUERN_CHAT_JINJA_H

#include "chat/render.h"

#include <jansson.h>

/* A compiled template; does not change, any number of threads may render it. */
struct jinja;

/* Compiles n bytes. 0; -ENOTSUP: it uses what is not here; -EINVAL: it is no Jinja; -ENOMEM. `why`
 * holds a sentence with the line. */
int jinja_new(struct jinja **ret, const char *s, size_t n, char *why, size_t why_size);
void jinja_free(struct jinja *jinja);

/* What a template sees besides the conversation. */
struct jinja_options {
    bool no_generation_prompt;
    const char *bos_token, *eos_token; /* NULL: not defined */
    const json_t *extra;               /* further variables, an object, or NULL */
};

/* Renders messages, and tools where not NULL, as Hugging Face's apply_chat_template takes them.
 * The prompt's segments are texts and tokens: <…> in the template's own bytes is a token where the
 * vocabulary has one of that name. 0; -EINVAL: the template raised an exception; -ENOTSUP: it came
 * to something that is not here; -E2BIG: too many steps or too much memory; -ENOMEM. The prompt is
 * empty on failure. */
int jinja_render(const struct jinja *jinja, struct chat_prompt *prompt, const json_t *messages,
                 const json_t *tools, const struct jinja_options *options, char *why,
                 size_t why_size);

#endif
