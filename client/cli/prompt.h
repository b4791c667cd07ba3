/* Prompts that the tool renders itself: conversations as JSON, families, segments for a request. */
#ifndef QUERN_CLIENT_CLI_PROMPT_H
#define QUERN_CLIENT_CLI_PROMPT_H

#include "chat/conversation.h"
#include "chat/jinja.h"
#include "client/cli/cli.h"

/* Reads a JSON file ("-": standard input). NULL after a sentence with *ret_rc the exit code. */
json_t *cli_load_json(const char *path, int *ret_rc);

/* How the prompts of a model are made. Begin with zeros. */
struct cli_template {
    enum chat_family family;
    enum chat_call_form calls;
    struct jinja *program; /* the model's own template, executed; NULL: the family's */
    json_t *info;          /* of the program: its text, "bos", "eos" */
};

/* The template of --template, or of the family that --family names, else that of the model that
 * the service runs. Returns an exit code, after a sentence if not 0. */
int cli_template(quern *q, const struct cli_options *options, struct cli_template *ret);
void cli_template_done(struct cli_template *t);

/* Renders messages, and tools where not NULL, with the options of the command line. *ret is begun
 * with zeros and ended by chat_prompt_done. Returns an exit code, after a sentence if not 0. */
int cli_render_messages(struct chat_prompt *ret, const struct cli_template *t, json_t *messages,
                        json_t *tools, const struct cli_options *options);

/* Makes the prompt the input of a request: *ret_segments is the caller's to free after it was
 * submitted. Returns an exit code, after a sentence if not 0. */
int cli_prompt_input(const struct chat_prompt *prompt, struct quern_request *r,
                     struct quern_segment **ret_segments);

#endif
