/* The templates of the Qwen families, natively (see render.h). The programs that they stand for are
 * tests/golden/chat/(family).jinja; each function below names the part that it renders. */
#include "chat/render.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- segments ------------------------------------------------------------------------------ */

void chat_prompt_done(struct chat_prompt *prompt)
{
    chat_text_done(&prompt->text);
    free(prompt->segments);
    *prompt = (struct chat_prompt){0};
}

void chat_prompt_add(struct chat_prompt *p, enum chat_kind kind, const char *s, size_t n)
{
    if (n == 0 || p->text.failed)
        return;
    if (kind == CHAT_TEXT && p->n > 0 && p->segments[p->n - 1].kind == CHAT_TEXT) {
        p->segments[p->n - 1].length += n;
    } else {
        if (p->n == p->capacity) {
            size_t capacity = 2 * p->capacity + 16;
            struct chat_segment *more = reallocarray(p->segments, capacity, sizeof *more);
            if (!more) {
                p->text.failed = true;
                return;
            }
            p->segments = more;
            p->capacity = capacity;
        }
        p->segments[p->n++] = (struct chat_segment){.kind = kind, .offset = p->text.n, .length = n};
    }
    chat_text_add(&p->text, s, n);
}

static void puts_text(struct chat_prompt *p, const char *s)
{
    chat_prompt_add(p, CHAT_TEXT, s, strlen(s));
}

static void span(struct chat_prompt *p, struct chat_span s)
{
    chat_prompt_add(p, CHAT_TEXT, s.s, s.len);
}

/* <|im_start|>role */
static void turn_begin(struct chat_prompt *p, const char *role)
{
    chat_prompt_add(p, CHAT_CONTROL, "<|im_start|>", 12);
    puts_text(p, role);
}

static void im_end(struct chat_prompt *p)
{
    chat_prompt_add(p, CHAT_CONTROL, "<|im_end|>", 10);
}

static void turn(struct chat_prompt *p, struct chat_span role, struct chat_span content)
{
    turn_begin(p, "");
    span(p, role);
    puts_text(p, "\n");
    span(p, content);
}

static bool role_is(const struct chat_message *m, const char *role)
{
    return chat_span_is(m->role, role);
}

/* ---- Qwen2, Qwen1.5 ------------------------------------------------------------------------ */

static struct chat_span default_system(enum chat_family family)
{
    const char *s = chat_family_system(family);

    return (struct chat_span){s, strlen(s)};
}

static void render_plain(struct chat_prompt *p, enum chat_family family,
                         const struct chat_conversation *c, const struct chat_options *o)
{
    /* The early Qwen1.5 ends the last turn only where the assistant is to speak after it, and does
     * not let it speak after itself. */
    bool early = family == CHAT_QWEN1_5_EARLY;
    const struct chat_message *last = &c->messages[c->n_messages - 1];

    if (!o->no_default_system && !role_is(c->messages, "system")) {
        turn(p, (struct chat_span){"system", 6}, default_system(family));
        im_end(p);
        puts_text(p, "\n");
    }
    for (size_t i = 0; i < c->n_messages; i++) {
        const struct chat_message *m = &c->messages[i];
        turn(p, m->role, m->content);
        if (early && m == last && o->no_generation_prompt)
            continue;
        im_end(p);
        puts_text(p, "\n");
    }
    if (!o->no_generation_prompt && !(early && role_is(last, "assistant"))) {
        turn_begin(p, "assistant");
        puts_text(p, "\n");
    }
}

/* ---- Qwen2 with tools: the template of Qwen's own documentation ------------------------------ */

/* The words of the system message, English and Chinese; %N stands for the tools' names. */
static const struct flower_words {
    const char *tools, *parameters, *format, *several, *single;
} flower_words[2] = {
    {"\n\n## Tools\n\nYou have access to the following tools:\n\n",
     " Parameters: ", " Format the arguments as a JSON object.\n\n",
     "## Insert the following command in your reply when you need to call N tools in parallel:\n\n"
     "✿FUNCTION✿: The name of tool 1, should be one of [%N]\n✿ARGS✿: The input of tool 1\n"
     "✿FUNCTION✿: The name of tool 2\n✿ARGS✿: The input of tool 2\n...\n"
     "✿FUNCTION✿: The name of tool N\n✿ARGS✿: The input of tool N\n"
     "✿RESULT✿: The result of tool 1\n✿RESULT✿: The result of tool 2\n...\n"
     "✿RESULT✿: The result of tool N\n"
     "✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)",
     "## When you need to call a tool, please insert the following command in your reply, which "
     "can be called zero or multiple times according to your needs:\n\n"
     "✿FUNCTION✿: The tool to use, should be one of [%N]\n✿ARGS✿: The input of the tool\n"
     "✿RESULT✿: Tool results\n"
     "✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)"},
    {"\n\n# 工具\n\n## 你拥有如下工具：\n\n", " 输入参数：", " 此工具的输入应为JSON对象。\n\n",
     "## 你可以在回复中插入以下命令以并行调用N个工具：\n\n"
     "✿FUNCTION✿: 工具1的名称，必须是[%N]之一\n✿ARGS✿: 工具1的输入\n✿FUNCTION✿: 工具2的名称\n"
     "✿ARGS✿: 工具2的输入\n...\n✿FUNCTION✿: 工具N的名称\n✿ARGS✿: 工具N的输入\n"
     "✿RESULT✿: 工具1的结果\n✿RESULT✿: 工具2的结果\n...\n✿RESULT✿: 工具N的结果\n"
     "✿RETURN✿: 根据工具结 果进行回复，需将图片用![](url)渲染出来",
     "## 你可以在回复中插入零次、一次或多次以下命令以调用工具：\n\n"
     "✿FUNCTION✿: 工具名称，必须是[%N]之一。\n✿ARGS✿: 工具输入\n✿RESULT✿: 工具结果\n"
     "✿RETURN✿: 根据工具结果进行回复，需将图片用![](url)渲染出来"},
};

static void flower_tools(struct chat_prompt *p, const struct chat_conversation *c,
                         const struct chat_options *o)
{
    const struct flower_words *words = &flower_words[o->chinese];
    const char *how = o->parallel_calls ? words->several : words->single;
    const char *names = strstr(how, "%N");

    puts_text(p, words->tools);
    for (size_t i = 0; i < c->n_tools; i++) {
        const struct chat_tool *tool = &c->tools[i];
        puts_text(p, "### ");
        span(p, tool->name);
        puts_text(p, "\n\n");
        span(p, tool->name);
        puts_text(p, ": ");
        span(p, tool->description);
        puts_text(p, words->parameters);
        span(p, tool->parameters);
        puts_text(p, words->format);
    }
    chat_prompt_add(p, CHAT_TEXT, how, (size_t)(names - how));
    for (size_t i = 0; i < c->n_tools; i++) {
        puts_text(p, i ? "," : "");
        span(p, c->tools[i].name);
    }
    puts_text(p, names + 2);
}

static void flower_assistant(struct chat_prompt *p, const struct chat_conversation *c, size_t i,
                             size_t first)
{
    const struct chat_message *m = &c->messages[i];
    const struct chat_message *before = i > first ? m - 1 : NULL;
    bool ends = i + 1 == c->n_messages || role_is(m + 1, "user");

    if (before && role_is(before, "user")) {
        puts_text(p, "\n");
        turn_begin(p, "assistant");
        puts_text(p, "\n");
    } else if (before && role_is(before, "tool") && m->n_calls == 0) {
        puts_text(p, "✿RETURN✿:");
    }
    for (size_t k = 0; k < m->n_calls; k++) {
        puts_text(p, "✿FUNCTION✿: ");
        span(p, m->calls[k].name);
        puts_text(p, "\n✿ARGS✿: ");
        span(p, m->calls[k].arguments);
        puts_text(p, "\n");
    }
    if (m->n_calls > 0)
        return;
    span(p, m->content);
    if (ends)
        im_end(p);
}

static void render_flower(struct chat_prompt *p, enum chat_family family,
                          const struct chat_conversation *c, const struct chat_options *o)
{
    bool has_system = role_is(c->messages, "system");
    struct chat_span system = has_system             ? c->messages[0].content
                              : o->no_default_system ? (struct chat_span){"", 0}
                                                     : default_system(family);

    turn_begin(p, "system\n");
    span(p, chat_span_trim(system, true, true));
    if (c->n_tools > 0)
        flower_tools(p, c, o);
    im_end(p);
    for (size_t i = has_system; i < c->n_messages; i++) {
        const struct chat_message *m = &c->messages[i];
        bool speaks = i + 1 == c->n_messages && !o->no_generation_prompt;
        if (role_is(m, "tool")) {
            puts_text(p, "✿RESULT✿: ");
            span(p, m->content);
            puts_text(p, speaks ? "\n✿RETURN✿:" : "\n");
        } else if (role_is(m, "assistant")) {
            flower_assistant(p, c, i, has_system);
        } else {
            puts_text(p, "\n");
            turn(p, m->role, m->content);
            im_end(p);
            if (speaks && role_is(m, "user")) {
                puts_text(p, "\n");
                turn_begin(p, "assistant\n");
            }
        }
    }
}

/* ---- Qwen2.5 ------------------------------------------------------------------------------- */

static void tags_system(struct chat_prompt *p, enum chat_family family,
                        const struct chat_conversation *c, const struct chat_options *o)
{
    bool has_system = role_is(c->messages, "system");

    if (c->n_tools == 0 && !has_system && o->no_default_system)
        return;
    turn_begin(p, "system\n");
    if (has_system)
        span(p, c->messages[0].content);
    else if (!o->no_default_system)
        span(p, default_system(family));
    if (c->n_tools > 0) {
        puts_text(p, "\n\n# Tools\n\nYou may call one or more functions to assist with the user "
                     "query.\n\nYou are provided with function signatures within <tools></tools> "
                     "XML tags:\n<tools>");
        for (size_t i = 0; i < c->n_tools; i++) {
            puts_text(p, "\n");
            span(p, c->tools[i].json);
        }
        puts_text(p, "\n</tools>\n\nFor each function call, return a json object with function "
                     "name and arguments within ");
        chat_prompt_add(p, CHAT_TOKEN, "<tool_call>", 11);
        chat_prompt_add(p, CHAT_TOKEN, "</tool_call>", 12);
        puts_text(p, " XML tags:\n");
        chat_prompt_add(p, CHAT_TOKEN, "<tool_call>", 11);
        puts_text(p, "\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n");
        chat_prompt_add(p, CHAT_TOKEN, "</tool_call>", 12);
    }
    im_end(p);
    puts_text(p, "\n");
}

static void tags_assistant(struct chat_prompt *p, const struct chat_message *m)
{
    turn_begin(p, "assistant");
    if (m->n_calls == 0 || m->content.len > 0) {
        puts_text(p, "\n");
        span(p, m->content);
    }
    for (size_t k = 0; k < m->n_calls; k++) {
        puts_text(p, "\n");
        chat_prompt_add(p, CHAT_TOKEN, "<tool_call>", 11);
        puts_text(p, "\n{\"name\": \"");
        span(p, m->calls[k].name);
        puts_text(p, "\", \"arguments\": ");
        span(p, m->calls[k].arguments);
        puts_text(p, "}\n");
        chat_prompt_add(p, CHAT_TOKEN, "</tool_call>", 12);
    }
    im_end(p);
    puts_text(p, "\n");
}

static void render_tags(struct chat_prompt *p, enum chat_family family,
                        const struct chat_conversation *c, const struct chat_options *o)
{
    tags_system(p, family, c, o);
    for (size_t i = 0; i < c->n_messages; i++) {
        const struct chat_message *m = &c->messages[i];
        if (role_is(m, "assistant")) {
            tags_assistant(p, m);
        } else if (role_is(m, "tool")) {
            if (i == 0 || !role_is(m - 1, "tool"))
                turn_begin(p, "user");
            puts_text(p, "\n<tool_response>\n");
            span(p, m->content);
            puts_text(p, "\n</tool_response>");
            if (i + 1 == c->n_messages || !role_is(m + 1, "tool")) {
                im_end(p);
                puts_text(p, "\n");
            }
        } else if (i > 0 || !role_is(m, "system")) {
            turn(p, m->role, m->content);
            im_end(p);
            puts_text(p, "\n");
        }
    }
    if (!o->no_generation_prompt)
        turn_begin(p, "assistant\n");
}

/* ---- what can be wrong --------------------------------------------------------------------- */

static bool role_known(const struct chat_message *m)
{
    return role_is(m, "system") || role_is(m, "user") || role_is(m, "assistant") ||
           role_is(m, "tool");
}

static int check_messages(const struct chat_conversation *c, size_t *ret_index, char *why,
                          size_t why_size)
{
    *ret_index = 0;
    if (c->n_messages == 0) {
        snprintf(why, why_size, "the conversation has no message");
        return -EINVAL;
    }
    for (size_t i = 0; i < c->n_messages; i++) {
        const struct chat_message *m = &c->messages[i];
        *ret_index = i;
        if (!role_known(m)) {
            snprintf(why, why_size,
                     "message %zu has a role that is none of system, user, assistant, tool", i);
            return -EINVAL;
        }
        if (m->n_calls > 0 && !role_is(m, "assistant")) {
            snprintf(why, why_size, "message %zu calls a tool, but is not the assistant's", i);
            return -EINVAL;
        }
    }
    return 0;
}

/* Where the template of the tool format would end in an error. */
static int check_flower(const struct chat_conversation *c, size_t *ret_index, char *why,
                        size_t why_size)
{
    size_t first = role_is(c->messages, "system");

    for (size_t i = 0; i < c->n_tools; i++) {
        if (c->tools[i].name.s && c->tools[i].description.s && c->tools[i].parameters.s)
            continue;
        snprintf(why, why_size,
                 "tool %zu lacks a \"function\" with \"name\", \"description\" and "
                 "\"parameters\", which Qwen2's format shows",
                 i);
        return -EINVAL;
    }
    if (c->n_messages > first && role_is(&c->messages[first], "assistant")) {
        *ret_index = first;
        snprintf(why, why_size,
                 "message %zu is the assistant's, but Qwen2's tool format begins with a user's",
                 first);
        return -EINVAL;
    }
    return 0;
}

static bool uses_tools(const struct chat_conversation *c)
{
    bool uses = c->n_tools > 0;

    for (size_t i = 0; i < c->n_messages; i++)
        uses = uses || c->messages[i].n_calls > 0;
    return uses;
}

int chat_render(struct chat_prompt *prompt, enum chat_family family,
                const struct chat_conversation *conversation, const struct chat_options *options,
                size_t *ret_index, char *why, size_t why_size)
{
    enum chat_call_form form = chat_family_calls(family);
    bool tools = uses_tools(conversation);
    size_t index;
    int r = check_messages(conversation, ret_index ? ret_index : &index, why, why_size);

    if (r == 0 && tools && form == CHAT_CALLS_NONE) {
        snprintf(why, why_size, "the family %s was not taught a form of tool calls",
                 chat_family_name(family));
        r = -ENOTSUP;
    }
    if (r == 0 && tools && form == CHAT_CALLS_FLOWER)
        r = check_flower(conversation, ret_index ? ret_index : &index, why, why_size);
    if (r < 0)
        return r;
    if (form == CHAT_CALLS_TAGS)
        render_tags(prompt, family, conversation, options);
    else if (tools)
        render_flower(prompt, family, conversation, options);
    else
        render_plain(prompt, family, conversation, options);
    if (prompt->text.failed) {
        snprintf(why, why_size, "not enough memory for the prompt");
        chat_prompt_done(prompt);
        return -ENOMEM;
    }
    return 0;
}
