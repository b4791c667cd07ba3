/* Segments to ids (see chat.h). A run of text goes through the encoder as a whole, since the split
 * pattern sees across the borders of role, line end and content ("user\n" + "\nhello" has one piece
 * of two line ends). */
#include "svc/text/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum chat_family text_chat_family(const struct text_tokenizer *tokenizer,
                                  enum chat_known *ret_known)
{
    struct text_span jinja = text_tokenizer_template(tokenizer);

    return chat_family_of(jinja.s, jinja.len, ret_known);
}

/* Where the prompt grows: ids counted all, kept up to max. */
struct prompt {
    const struct text_tokenizer *tokenizer;
    uint32_t *ids;
    size_t max, n;
};

static int text_add(struct prompt *prompt, const char *s, size_t len)
{
    size_t room = prompt->n < prompt->max ? prompt->max - prompt->n : 0, n;
    int r = text_encode(prompt->tokenizer, s, len, false, room > 0 ? prompt->ids + prompt->n : NULL,
                        room, &n);

    if (r < 0 && r != -ENOSPC)
        return r;
    prompt->n += n;
    return 0;
}

static void id_add(struct prompt *prompt, uint32_t id)
{
    if (prompt->n < prompt->max)
        prompt->ids[prompt->n] = id;
    prompt->n++;
}

static uint32_t token_of(const struct text_tokenizer *tokenizer, const char *text,
                         const struct chat_segment *segment)
{
    char name[64];

    if (segment->kind == CHAT_TEXT || segment->length >= sizeof name ||
        memchr(text + segment->offset, 0, segment->length))
        return TEXT_NO_ID;
    memcpy(name, text + segment->offset, segment->length);
    name[segment->length] = '\0';
    return text_special_id(tokenizer, name);
}

/* How many segments from the first on are one text: those of kind text, and tokens that the
 * vocabulary does not have. They must lie end to end, as they do in what a template makes. */
static size_t run_of(const struct text_tokenizer *tokenizer, const char *text,
                     const struct chat_segment *segments, size_t n, size_t *ret_length)
{
    size_t i = 0, end = segments[0].offset;

    while (i < n && segments[i].offset == end && segments[i].kind != CHAT_CONTROL &&
           token_of(tokenizer, text, &segments[i]) == TEXT_NO_ID)
        end += segments[i++].length;
    *ret_length = end - segments[0].offset;
    return i;
}

int text_segments_encode(const struct text_tokenizer *tokenizer, const char *text,
                         const struct chat_segment *segments, size_t n, uint32_t *ids, size_t max,
                         size_t *ret_n, char *why, size_t why_size)
{
    struct prompt prompt = {.tokenizer = tokenizer, .ids = ids, .max = max};
    size_t length;
    int r;

    for (size_t i = 0; i < n;) {
        const struct chat_segment *s = &segments[i];
        uint32_t id = token_of(tokenizer, text, s);
        if (id != TEXT_NO_ID) {
            id_add(&prompt, id);
            i++;
            continue;
        }
        if (s->kind == CHAT_CONTROL) {
            snprintf(why, why_size,
                     "the model has no control token \"%.*s\": its vocabulary is not made for "
                     "this kind of prompt",
                     (int)(s->length < 64 ? s->length : 64), text + s->offset);
            return -ENOTSUP;
        }
        size_t n_run = run_of(tokenizer, text, s, n - i, &length);
        r = text_add(&prompt, text + s->offset, length);
        if (r == -EILSEQ) {
            snprintf(why, why_size, "segment %zu is no valid UTF-8", i);
            *ret_n = i;
            return r;
        }
        if (r < 0) {
            snprintf(why, why_size, "not enough memory for the prompt");
            return r;
        }
        i += n_run;
    }
    *ret_n = prompt.n;
    if (prompt.n > max) {
        snprintf(why, why_size, "the prompt has %zu tokens, and there is room for %zu", prompt.n,
                 max);
        return -ENOSPC;
    }
    return 0;
}

static int check_utf8(const struct chat_conversation *c, size_t *ret_index, char *why,
                      size_t why_size)
{
    size_t offset;

    for (size_t i = 0; i < c->n_messages; i++) {
        struct chat_span content = c->messages[i].content;
        if (text_utf8_valid(content.s, content.len, &offset))
            continue;
        snprintf(why, why_size, "message %zu is no valid UTF-8 at byte %zu", i, offset);
        *ret_index = i;
        return -EILSEQ;
    }
    return 0;
}

int text_chat_encode(const struct text_tokenizer *tokenizer, enum chat_family family,
                     const struct chat_conversation *conversation,
                     const struct chat_options *options, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size)
{
    struct chat_prompt prompt = {0};
    int r = check_utf8(conversation, ret_n, why, why_size);

    if (r == 0)
        r = chat_render(&prompt, family, conversation, options, ret_n, why, why_size);
    if (r == 0)
        r = text_segments_encode(tokenizer, prompt.text.s, prompt.segments, prompt.n, ids, max,
                                 ret_n, why, why_size);
    chat_prompt_done(&prompt);
    return r;
}

/* ---- templates that are executed ------------------------------------------------------------- */

static void token_name(const struct text_tokenizer *tokenizer, uint32_t id, char name[64])
{
    const char *text;
    size_t n;

    name[0] = '\0';
    if (id == TEXT_NO_ID || text_token_bytes(tokenizer, id, &text, &n) < 0 || n >= 64)
        return;
    memcpy(name, text, n);
    name[n] = '\0';
}

static int run_program(const struct text_chat *chat, struct chat_prompt *prompt,
                       const json_t *messages, bool no_generation_prompt, char *why,
                       size_t why_size)
{
    const struct jinja_options options = {.no_generation_prompt = no_generation_prompt,
                                          .bos_token = *chat->bos ? chat->bos : NULL,
                                          .eos_token = *chat->eos ? chat->eos : NULL};

    return jinja_render(chat->program, prompt, messages, NULL, &options, why, why_size);
}

int text_chat_init(struct text_chat *ret, const struct text_tokenizer *tokenizer, char *why,
                   size_t why_size)
{
    struct text_span jinja = text_tokenizer_template(tokenizer);
    struct text_chat chat = {.program_text = jinja};
    struct chat_prompt prompt = {0};
    int r;

    chat.family = text_chat_family(tokenizer, &chat.known);
    token_name(tokenizer, text_tokenizer_ids(tokenizer)->bos, chat.bos);
    token_name(tokenizer, text_tokenizer_ids(tokenizer)->eos, chat.eos);
    *why = '\0';
    if (chat.known != CHAT_KNOWN && jinja.len > 0) {
        json_t *hello = json_pack("[{s:s, s:s}]", "role", "user", "content", "Hello");
        r = hello ? jinja_new(&chat.program, jinja.s, jinja.len, why, why_size) : -ENOMEM;
        if (r == 0)
            r = run_program(&chat, &prompt, hello, false, why, why_size);
        json_decref(hello);
        chat_prompt_done(&prompt);
        if (r == -ENOMEM) {
            jinja_free(chat.program);
            return r;
        }
        if (r == 0) {
            chat.known = CHAT_EXECUTED;
        } else {
            jinja_free(chat.program);
            chat.program = NULL;
        }
    }
    *ret = chat;
    return 0;
}

void text_chat_done(struct text_chat *chat)
{
    jinja_free(chat->program);
    chat->program = NULL;
}

static json_t *messages_of(const struct chat_conversation *c)
{
    json_t *all = json_array();

    for (size_t i = 0; i < c->n_messages; i++) {
        const struct chat_message *m = &c->messages[i];
        json_t *message = json_pack("{s:s%, s:s%}", "role", m->role.s, m->role.len, "content",
                                    m->content.s, m->content.len);
        if (!message || json_array_append_new(all, message)) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

int text_chat_prompt(const struct text_tokenizer *tokenizer, const struct text_chat *chat,
                     const struct chat_conversation *conversation,
                     const struct chat_options *options, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size)
{
    struct chat_prompt prompt = {0};
    json_t *messages;
    int r;

    if (!chat->program)
        return text_chat_encode(tokenizer, chat->family, conversation, options, ids, max, ret_n,
                                why, why_size);
    if (conversation->n_messages == 0 ||
        (options->no_default_system && !chat_span_is(conversation->messages[0].role, "system"))) {
        snprintf(why, why_size,
                 "the model's chat template is a program of its own, which begins each prompt "
                 "anew: send the whole conversation");
        *ret_n = 0;
        return conversation->n_messages == 0 ? -EINVAL : -ENOTSUP;
    }
    r = check_utf8(conversation, ret_n, why, why_size);
    if (r < 0)
        return r;
    *ret_n = 0;
    messages = messages_of(conversation);
    if (!messages) {
        snprintf(why, why_size, "not enough memory for the prompt");
        return -ENOMEM;
    }
    r = run_program(chat, &prompt, messages, options->no_generation_prompt, why, why_size);
    json_decref(messages);
    if (r == 0)
        r = text_segments_encode(tokenizer, prompt.text.s, prompt.segments, prompt.n, ids, max,
                                 ret_n, why, why_size);
    chat_prompt_done(&prompt);
    return r;
}
