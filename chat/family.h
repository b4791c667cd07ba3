/* The model families: which template, which default system message, which form of tool calls. */
#ifndef QUERN_CHAT_FAMILY_H
#define QUERN_CHAT_FAMILY_H

#include <stdbool.h>
#include <stddef.h>

enum chat_family {
    CHAT_QWEN2,
    CHAT_QWEN1_5,
    CHAT_QWEN1_5_EARLY, /* ends the last turn only where the assistant is to speak after it */
    CHAT_QWEN2_5,
    CHAT_QWEN2_5_BASE, /* as Qwen2.5, with Qwen2's system message */
    CHAT_QWEN2_5_MATH, /* as Qwen2.5, with a system message of its own */
};
#define CHAT_FAMILIES 6

/* How calls of tools are written. */
enum chat_call_form {
    CHAT_CALLS_NONE,
    CHAT_CALLS_FLOWER, /* Qwen2: ✿FUNCTION✿, ✿ARGS✿, ✿RESULT✿, ✿RETURN✿ */
    CHAT_CALLS_TAGS,   /* Qwen2.5: <tool_call>{"name": …, "arguments": …}</tool_call> */
};

const char *chat_family_name(enum chat_family family); /* "qwen2", "qwen1.5" … */

/* The family of that name. False: there is none. */
bool chat_family_by_name(const char *name, enum chat_family *ret);

/* The system message of a conversation that has none. */
const char *chat_family_system(enum chat_family family);

enum chat_call_form chat_family_calls(enum chat_family family);

/* How prompts are made, and how sure chat_family_of is. */
enum chat_known {
    CHAT_KNOWN,    /* the template is one of those in the table, to the byte */
    CHAT_EXECUTED, /* none of them: the program itself is executed (jinja.h) */
    CHAT_CLOSEST,  /* none of them, but it says what this family's says */
    CHAT_FALLBACK, /* none, or another family's altogether: Qwen2's is used */
};
const char *chat_known_name(enum chat_known known); /* "recognised", "executed" … */

/* The family of a model file's own template (n bytes of Jinja; n may be 0). */
enum chat_family chat_family_of(const char *jinja, size_t n, enum chat_known *ret_known);

#endif
