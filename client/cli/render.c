/* quern render: the prompt of a conversation, exactly as the model sees it. */
#include "client/cli/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int print_ids(quern *q, const struct chat_prompt *prompt, struct cli_options *o)
{
    struct quern_segment *segments = NULL;
    struct quern_result result;
    size_t n = 0;
    int rc = cli_prompt_input(prompt, &o->request, &segments);

    o->request.op = QUERN_OP_TOKENIZE;
    if (!rc)
        rc = cli_run(q, &o->request, cli_print_ids, &n, &result);
    if (!rc)
        putchar('\n');
    free(segments);
    return rc;
}

int cli_render(int argc, char **argv)
{
    struct cli_options o;
    struct chat_prompt prompt = {0};
    json_t *messages = NULL, *tools = NULL;
    struct cli_template template = {0};
    quern *q = NULL;
    int rc = cli_options_read(&o, "render",
                              "messages tools family template ids model language parallel-calls "
                              "no-generation-prompt",
                              argc, argv);

    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.n_words || !o.messages)
        return cli_fail(CLI_USAGE, "render takes --messages FILE; quern render --help");
    messages = cli_load_json(o.messages, &rc);
    if (!rc && o.tools)
        tools = cli_load_json(o.tools, &rc);
    if (!rc && ((!o.family && !o.template) || o.ids))
        rc = cli_connect(&q, &o);
    if (!rc)
        rc = cli_template(q, &o, &template);
    if (!rc)
        rc = cli_render_messages(&prompt, &template, messages, tools, &o);
    if (!rc && o.ids)
        rc = print_ids(q, &prompt, &o);
    else if (!rc)
        fwrite(prompt.text.s, 1, prompt.text.n, stdout);
    chat_prompt_done(&prompt);
    cli_template_done(&template);
    json_decref(tools);
    json_decref(messages);
    quern_close(q);
    return rc;
}
