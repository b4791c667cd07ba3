/* ChatML. A conversation becomes runs of text with control tokens between them; a run goes through
 * the encoder as a whole, since the split pattern sees across the borders of role, line end and
 * content ("user\n" + "\nhello" has one piece of two line ends). */
#define _GNU_SOURCE /* memmem */
#include "svc/text/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct family {
    const char *name;
    const char *system; /* the default system message */
};

static const struct family families[] = {
    [TEXT_CHAT_QWEN2] = {"qwen2", "You are a helpful assistant."},
    [TEXT_CHAT_QWEN1_5] = {"qwen1.5", "You are a helpful assistant"},
    [TEXT_CHAT_QWEN2_5] = {"qwen2.5",
                           "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
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
        family = TEXT_CHAT_QWEN1_5;
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

/* <|im_start|>role\ncontent<|im_end|> and the line end that begins the next run. */
static int turn_add(struct prompt *prompt, struct text_span role, struct text_span content)
{
    const struct text_ids *ids = text_tokenizer_ids(prompt->tokenizer);
    int r = run_end(prompt);

    if (r < 0)
        return r;
    control_add(prompt, ids->im_start);
    run_add(prompt, role.s, role.len);
    run_add(prompt, "\n", 1);
    run_add(prompt, content.s, content.len);
    r = run_end(prompt);
    if (r < 0)
        return r;
    control_add(prompt, ids->im_end);
    run_add(prompt, "\n", 1);
    return 0;
}

/* What can be wrong with the messages; *ret_index is the message, *ret_longest its most text. */
static int messages_check(const struct text_message *messages, size_t n, size_t *ret_index,
                          size_t *ret_longest, char *why, size_t why_size)
{
    size_t offset;

    *ret_index = 0;
    *ret_longest = 0;
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
        if (m->content.len > *ret_longest)
            *ret_longest = m->content.len;
    }
    return 0;
}

int text_chat_encode(const struct text_tokenizer *tokenizer, enum text_chat_family family,
                     const struct text_message *messages, size_t n, bool default_system,
                     bool add_generation_prompt, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size)
{
    const struct text_span system = {"system", 6}, assistant = {"assistant", 9};
    const struct text_span stand_in = {families[family].system, strlen(families[family].system)};
    struct prompt prompt = {.tokenizer = tokenizer, .ids = ids, .max = max};
    size_t index, longest;
    int r;

    if (text_tokenizer_ids(tokenizer)->im_start == TEXT_NO_ID ||
        text_tokenizer_ids(tokenizer)->im_end == TEXT_NO_ID) {
        snprintf(why, why_size,
                 "the model has no chat tokens (<|im_start|>, <|im_end|>): "
                 "give it plain text");
        return -ENOTSUP;
    }
    r = messages_check(messages, n, &index, &longest, why, why_size);
    if (r < 0) {
        *ret_n = index;
        return r;
    }
    /* a run is at most "assistant", a line end and the content; the default may be the longest */
    prompt.run = malloc(longest + stand_in.len + 16);
    if (!prompt.run) {
        r = -ENOMEM;
        goto say_why;
    }
    if (default_system && !span_is(messages[0].role, "system"))
        r = turn_add(&prompt, system, stand_in);
    for (size_t i = 0; i < n && r == 0; i++)
        r = turn_add(&prompt, messages[i].role, messages[i].content);
    if (r == 0)
        r = run_end(&prompt);
    if (r == 0 && add_generation_prompt) {
        control_add(&prompt, text_tokenizer_ids(tokenizer)->im_start);
        run_add(&prompt, assistant.s, assistant.len);
        run_add(&prompt, "\n", 1);
        r = run_end(&prompt);
    }
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
