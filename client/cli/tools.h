/* A chat with tools: what the model may call, and what it called. Nothing is ever run: calls are
 * printed, and what a tool says comes from whoever sits here. */
#ifndef QUERN_CLIENT_CLI_TOOLS_H
#define QUERN_CLIENT_CLI_TOOLS_H

#include "client/cli/prompt.h"

struct cli_tools {
    json_t *tools; /* NULL: a chat without */
    struct cli_template template;
};

/* Reads the file of --tools, if it was given, and asks the service for its model's template. Returns an
 * exit code, after a sentence if not 0. */
int cli_tools_open(struct cli_tools *ret, quern *q, const struct cli_options *options);
void cli_tools_close(struct cli_tools *tools);

/* Asks with these messages and prints the answer: text as it comes, a line for each call. `r` has the
 * sampling parameters. *ret_message is the answer as a message (with "tool_calls"), for the caller to
 * release. Returns an exit code, after a sentence if not 0 or CLI_INTERRUPTED. */
int cli_tools_answer(const struct cli_tools *tools, quern *q, const struct cli_options *options,
                     const struct quern_request *r, json_t *messages, json_t **ret_message,
                     struct quern_result *ret);

#endif
