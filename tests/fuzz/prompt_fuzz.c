/* Prompt templates on arbitrary JSON: what is rendered is covered by its segments, control tokens are
 * only those of the template, and JSON that was spelled anew says the same.
 *
 * First byte: the family; second: the options; then messages, a zero byte, tools. */
#include "chat/conversation.h"
#include "chat/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

static void respelled(const json_t *value)
{
    struct chat_text text = {0}, again = {0};
    char why[200];

    chat_json_add(&text, value);
    json_t *back = chat_json_read(text.s, text.n, "it", why, sizeof why);
    check(back != NULL && json_equal(value, back));
    chat_json_add(&again, back);
    check(text.n == again.n && !memcmp(text.s, again.s, text.n));
    json_decref(back);
    chat_text_done(&text);
    chat_text_done(&again);
}

static void segments_cover(const struct chat_prompt *prompt)
{
    size_t at = 0;

    for (size_t i = 0; i < prompt->n; i++) {
        const struct chat_segment *s = &prompt->segments[i];
        const char *text = prompt->text.s + s->offset;
        check(s->offset == at && s->length > 0);
        if (s->kind == CHAT_CONTROL)
            check((s->length == 12 && !memcmp(text, "<|im_start|>", 12)) ||
                  (s->length == 10 && !memcmp(text, "<|im_end|>", 10)));
        else if (s->kind == CHAT_TOKEN)
            check((s->length == 11 && !memcmp(text, "<tool_call>", 11)) ||
                  (s->length == 12 && !memcmp(text, "</tool_call>", 12)));
        else
            check(i == 0 || prompt->segments[i - 1].kind != CHAT_TEXT);
        at += s->length;
    }
    check(at == prompt->text.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    enum chat_family family = (enum chat_family)(data[0] % CHAT_FAMILIES);
    const struct chat_options options = {data[1] & 1, data[1] & 2, data[1] & 4, data[1] & 8};
    const char *s = (const char *)data + 2;
    const char *zero = memchr(s, 0, size - 2);
    size_t n = zero ? (size_t)(zero - s) : size - 2;
    struct chat_document *document;
    struct chat_prompt prompt = {0};
    enum chat_known known;
    char why[200] = "";

    chat_family_of(s, n, &known);
    json_t *messages = chat_json_read(s, n, "it", why, sizeof why), *tools = NULL;
    if (messages)
        respelled(messages);
    if (zero)
        tools = chat_json_read(zero + 1, size - 3 - n, "it", why, sizeof why);
    if (messages && chat_document_new(&document, messages, tools, why, sizeof why) == 0) {
        int r = chat_render(&prompt, family, chat_document_conversation(document), &options, NULL,
                            why, sizeof why);
        check(r == 0 || (why[0] && prompt.text.s == NULL));
        segments_cover(&prompt);
        chat_prompt_done(&prompt);
        chat_document_free(document);
    } else {
        check(why[0] != '\0');
    }
    json_decref(messages);
    json_decref(tools);
    return 0;
}
