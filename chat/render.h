/* Prompt templates: a conversation to what the model was trained to see.
 *
 * The models bring their templates as Jinja programs. Those that are known are recognised
 * (family.h) and rendered here natively; any other is executed (jinja.h). The result is a list of
 * segments: control tokens come from the template alone, and the text of a message is text
 * whatever it holds, so that no message can end its own turn or begin another's.
 *
 * What the segments say, put together, is byte for byte what Jinja makes of the same template. */
#ifndef QUERN_CHAT_RENDER_H
#define QUERN_CHAT_RENDER_H

#include "chat/family.h"
#include "chat/text.h"

#include <stdint.h>

/* A call that the assistant made, or a tool that it may use; the JSON is spelled as chat_json_add
 * does it. */
struct chat_call {
    struct chat_span name;
    struct chat_span arguments; /* JSON, an object as a rule */
};

struct chat_tool {
    struct chat_span json; /* the whole definition */
    /* Of its "function"; len 0 and s NULL where it has none. */
    struct chat_span name, description, parameters;
};

struct chat_message {
    struct chat_span role; /* "system", "user", "assistant", "tool" */
    struct chat_span content;
    const struct chat_call *calls; /* (n_calls), of the assistant */
    size_t n_calls;
};

struct chat_conversation {
    const struct chat_message *messages; /* (n_messages) */
    size_t n_messages;
    const struct chat_tool *tools; /* (n_tools) */
    size_t n_tools;
};

struct chat_options {
    bool no_default_system;    /* a conversation without a system message stays without */
    bool no_generation_prompt; /* ends after the last message */
    bool parallel_calls;       /* Qwen2's tool format: several calls at once */
    bool chinese;              /* Qwen2's tool format: its Chinese wording */
};

/* Each segment's bytes lie at `offset` in the text of the prompt. No two texts are neighbours: the
 * encoder sees across the borders of what the template put together. */
enum chat_kind {
    CHAT_TEXT = 0,
    CHAT_CONTROL = 1, /* a control token, by its name: the vocabulary must have it */
    CHAT_TOKEN = 2,   /* a token where the vocabulary has one of this name, else text */
};
struct chat_segment {
    enum chat_kind kind;
    size_t offset, length;
};

/* Begin with zeros. */
struct chat_prompt {
    struct chat_text text;
    struct chat_segment *segments; /* (n) */
    size_t n, capacity;
};
void chat_prompt_done(struct chat_prompt *prompt);

/* Adds n bytes of a kind. Where memory runs out, prompt->text.failed is set. */
void chat_prompt_add(struct chat_prompt *prompt, enum chat_kind kind, const char *s, size_t n);

/* Renders a conversation. 0; -EINVAL: it is none that the template can show, with a sentence in
 * `why` and *ret_index (may be NULL) the message; -ENOTSUP: the family has no tool format; -ENOMEM.
 * The prompt is empty on failure. */
int chat_render(struct chat_prompt *prompt, enum chat_family family,
                const struct chat_conversation *conversation, const struct chat_options *options,
                size_t *ret_index, char *why, size_t why_size);

#endif
