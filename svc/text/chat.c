/* ChatML. A conversation becomes runs of text with control tokens between them; a run goes through
 * the encoder as a whole, since the split pattern sees across the borders of role, line end and
 * content ("user\n" + "\nhello" has one piece of two line ends). */
#define _GNU_SOURCE /* memmem */
#include "svc/text/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for what a template puts around a message's text, its role and tags. */
enum { TAGS_ROOM = 64 };

struct family {
    const char *name;
    const char *system;  /* the default system message */
    bool last_turn_open; /* no <|im_end|> after the last message, unless the assistant is to speak;
                            and it does not speak after itself */
    bool tool_in_user;   /* the role "tool" is shown in a user's turn, in tags */
};

static const struct family families[] = {
    [TEXT_CHAT_QWEN2] = {"qwen2", "You are a helpful assistant.", false, false},
    [TEXT_CHAT_QWEN1_5] = {"qwen1.5", "You are a helpful assistant", false, false},
    [TEXT_CHAT_QWEN1_5_EARLY] = {"qwen1.5-early", "You are a helpful assistant", true, false},
    [TEXT_CHAT_QWEN2_5] = {"qwen2.5",
                           "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
                           false, true},
};

static bool has(struct text_span span, const char *part)
{
    return span.s && memmem(span.s, span.len, part, strlen(part)) != NULL;
}

enum text_chat_family text_chat_family(const struct text_tokenizer *tokenizer, bool *ret_known)
{
    struct text_span text = text_tokenizer_template(tokenizer);
    enum text_chat_family family = TEXT_CHAT_QWEN2;
    bool known = true;

    if (has(text, families[TEXT_CHAT_QWEN2_5].system))
        family = TEXT_CHAT_QWEN2_5;
    else if (has(text, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>") ||
             has(text, "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>"))
        family = TEXT_CHAT_QWEN2;
    else if (has(text, "<|im_start|>system\nYou are a helpful assistant<|im_end|>") ||
             has(text, "<|im_start|>system\\nYou are a helpful assistant<|im_end|>"))
        family = has(text, "(loop.last and add_generation_prompt) or not loop.last")
                     ? TEXT_CHAT_QWEN1_5_EARLY
                     : TEXT_CHAT_QWEN1_5;
    else
        known = false;
    if (ret_known)
        *ret_known = known;
    return family;
}

const char *text_chat_family_name(enum text_chat_family family)
{
    return families[family].name;
}

const char *text_chat_default_system(enum text_chat_family family)
{
    return families[family].system;
}

static bool span_is(struct text_span span, const char *s)
{
    return span.len == strlen(s) && memcmp(span.s, s, span.len) == 0;
}

static bool role_known(struct text_span role)
{
    return span_is(role, "system") || span_is(role, "user") || span_is(role, "assistant") ||
           span_is(role, "tool");
}

/* Where the prompt grows: ids counted all, kept up to max; text waits in `run` for its end. */
struct prompt {
    const struct text_tokenizer *tokenizer;
    uint32_t *ids;
    size_t max, n;
    char *run; /* room for the longest run of text */
    size_t run_len;
};

static void run_add(struct prompt *prompt, const char *s, size_t n)
{
    if (n > 0)
        memcpy(prompt->run + prompt->run_len, s, n);
    prompt->run_len += n;
}

/* Encodes the run of text, without special tokens. */
static int run_end(struct prompt *prompt)
{
    size_t room = prompt->n < prompt->max ? prompt->max - prompt->n : 0, n;
    int r = text_encode(prompt->tokenizer, prompt->run, prompt->run_len, false,
                        room > 0 ? prompt->ids + prompt->n : NULL, room, &n);

    if (r < 0 && r != -ENOSPC)
        return r;
    prompt->n += n;
    prompt->run_len = 0;
    return 0;
}

static void control_add(struct prompt *prompt, uint32_t id)
{
    if (prompt->n < prompt->max)
        prompt->ids[prompt->n] = id;
    prompt->n++;
}

/* <|im_start|>role, after the text so far. */
static int turn_begin(struct prompt *prompt, const char *role, size_t role_len)
{
    int r = run_end(prompt);

    if (r < 0)
        return r;
    control_add(prompt, text_tokenizer_ids(prompt->tokenizer)->im_start);
    run_add(prompt, role, role_len);
    return 0;
}

/* <|im_end|> and the line end that begins the next run. */
static int turn_end(struct prompt *prompt)
{
    int r = run_end(prompt);

    if (r < 0)
        return r;
    control_add(prompt, text_tokenizer_ids(prompt->tokenizer)->im_end);
    run_add(prompt, "\n", 1);
    return 0;
}

static int turn_add(struct prompt *prompt, struct text_span role, struct text_span content,
                    bool ends)
{
    int r = turn_begin(prompt, role.s, role.len);

    if (r < 0)
        return r;
    run_add(prompt, "\n", 1);
    run_add(prompt, content.s, content.len);
    return ends ? turn_end(prompt) : 0;
}

/* What a tool said; neighbours share one turn of the user. */
static int tool_add(struct prompt *prompt, struct text_span content, bool begins, bool ends)
{
    static const char open[] = "\n<tool_response>\n", close[] = "\n</tool_response>";
    int r = begins ? turn_begin(prompt, "user", 4) : 0;

    if (r < 0)
        return r;
    run_add(prompt, open, sizeof open - 1);
    run_add(prompt, content.s, content.len);
    run_add(prompt, close, sizeof close - 1);
    return ends ? turn_end(prompt) : 0;
}

static int message_add(struct prompt *prompt, const struct family *family,
                       const struct text_message *messages, size_t n, size_t i,
                       bool add_generation_prompt)
{
    const struct text_message *m = &messages[i];
    bool last = i + 1 == n;

    if (family->tool_in_user && span_is(m->role, "tool"))
        return tool_add(prompt, m->content, i == 0 || !span_is(messages[i - 1].role, "tool"),
                        last || !span_is(messages[i + 1].role, "tool"));
    return turn_add(prompt, m->role, m->content,
                    !family->last_turn_open || !last || add_generation_prompt);
}

/* What can be wrong with the messages; *ret_index is the message, *ret_room the room that all of
 * their text needs, tags counted in. */
static int messages_check(const struct text_message *messages, size_t n, size_t *ret_index,
                          size_t *ret_room, char *why, size_t why_size)
{
    size_t offset;

    *ret_index = 0;
    *ret_room = 0;
    if (n == 0) {
        snprintf(why, why_size, "the conversation has no message");
        return -EINVAL;
    }
    for (size_t i = 0; i < n; i++) {
        const struct text_message *m = &messages[i];
        *ret_index = i;
        if (!role_known(m->role)) {
            snprintf(why, why_size,
                     "message %zu has a role that is none of system, user, assistant, tool", i);
            return -EINVAL;
        }
        if (!text_utf8_valid(m->content.s, m->content.len, &offset)) {
            snprintf(why, why_size, "message %zu is no valid UTF-8 at byte %zu", i, offset);
            return -EILSEQ;
        }
        if (__builtin_add_overflow(*ret_room, m->content.len + TAGS_ROOM, ret_room)) {
            snprintf(why, why_size, "the messages are too long");
            return -ENOMEM;
        }
    }
    return 0;
}

int text_chat_encode(const struct text_tokenizer *tokenizer, enum text_chat_family family,
                     const struct text_message *messages, size_t n, bool default_system,
                     bool add_generation_prompt, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size)
{
    const struct family *f = &families[family];
    const struct text_span system = {"system", 6}, stand_in = {f->system, strlen(f->system)};
    struct prompt prompt = {.tokenizer = tokenizer, .ids = ids, .max = max};
    size_t index, room;
    int r;

    if (text_tokenizer_ids(tokenizer)->im_start == TEXT_NO_ID ||
        text_tokenizer_ids(tokenizer)->im_end == TEXT_NO_ID) {
        snprintf(why, why_size,
                 "the model has no chat tokens (<|im_start|>, <|im_end|>): "
                 "give it plain text");
        return -ENOTSUP;
    }
    r = messages_check(messages, n, &index, &room, why, why_size);
    if (r < 0) {
        *ret_n = index;
        return r;
    }
    prompt.run = malloc(room + stand_in.len + TAGS_ROOM);
    if (!prompt.run) {
        r = -ENOMEM;
        goto say_why;
    }
    if (default_system && !span_is(messages[0].role, "system"))
        r = turn_add(&prompt, system, stand_in, true);
    for (size_t i = 0; i < n && r == 0; i++)
        r = message_add(&prompt, f, messages, n, i, add_generation_prompt);
    if (r == 0 && add_generation_prompt &&
        !(f->last_turn_open && span_is(messages[n - 1].role, "assistant"))) {
        r = turn_begin(&prompt, "assistant", 9);
        run_add(&prompt, "\n", 1);
    }
    if (r == 0)
        r = run_end(&prompt);
    free(prompt.run);
say_why:
    if (r < 0) {
        snprintf(why, why_size, "not enough memory for the prompt");
        return r;
    }
    *ret_n = prompt.n;
    if (prompt.n > max) {
        snprintf(why, why_size, "the prompt has %zu tokens, and there is room for %zu", prompt.n,
                 max);
        return -ENOSPC;
    }
    return 0;
}
