/* The tokenizer on arbitrary text, and its construction from an arbitrary vocabulary.
 *
 * First byte 0: the rest is a vocabulary (lines: token, or "token token" for a merge, raw bytes
 * allowed) on top of the 256 bytes, and the last line is text for it. Else the rest is text for the
 * fixed vocabulary below. Encoding must be undone by decoding, and no id may come out of order. */
#include "svc/text/chat.h"
#include "svc/text/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LINES_MAX = 400 };

struct parts {
    struct text_span tokens[256 + LINES_MAX], merges[LINES_MAX];
    int32_t types[256 + LINES_MAX];
    char bytes[256][2];
    size_t n_tokens, n_merges;
};

static void check(int holds)
{
    if (!holds)
        abort();
}

static void bytes_add(struct parts *parts)
{
    unsigned other = 0x100;

    for (unsigned b = 0; b < 256; b++) {
        int own = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        unsigned cp = own ? b : other++;
        char *s = parts->bytes[b];
        s[0] = (char)(cp < 0x80 ? cp : 0xC0 | cp >> 6);
        s[1] = (char)(0x80 | (cp & 0x3F));
        parts->types[b] = TEXT_TOKEN_NORMAL;
        parts->tokens[parts->n_tokens++] = (struct text_span){s, cp < 0x80 ? 1 : 2};
    }
}

/* Takes lines off the text; what is left, the last line, is the text to encode. A token that starts
 * with "<|" is a control token, one with "<" an added one. */
static struct text_span lines_add(struct parts *parts, struct text_span text)
{
    const char *end;

    for (unsigned i = 0; i < LINES_MAX && (end = memchr(text.s, '\n', text.len)); i++) {
        struct text_span line = {text.s, (size_t)(end - text.s)};
        if (memchr(line.s, ' ', line.len)) {
            parts->merges[parts->n_merges++] = line;
        } else {
            int special = line.len > 1 && line.s[0] == '<';
            parts->types[parts->n_tokens] = !special           ? TEXT_TOKEN_NORMAL
                                            : line.s[1] == '|' ? TEXT_TOKEN_CONTROL
                                                               : TEXT_TOKEN_USER_DEFINED;
            parts->tokens[parts->n_tokens++] = line;
        }
        text = (struct text_span){end + 1, text.len - line.len - 1};
    }
    return text;
}

static struct text_tokenizer *tokenizer_of(const struct parts *parts)
{
    struct text_tokenizer *t = NULL;
    char why[200] = "";
    const struct text_vocab_source source = {
        .model = {"gpt2", 4},
        .pre = {"qwen2", 5},
        .tokens = parts->tokens,
        .types = parts->types,
        .n_tokens = parts->n_tokens,
        .merges = parts->merges,
        .n_merges = parts->n_merges,
        .bos_id = TEXT_NO_ID,
        .eos_id = 0,
        .pad_id = TEXT_NO_ID,
    };

    if (text_tokenizer_new(&t, &source, why, sizeof why) < 0) {
        check(why[0] != '\0' && t == NULL);
        return NULL;
    }
    return t;
}

static void text_try(const struct text_tokenizer *t, struct text_span text, bool special)
{
    size_t max = 3 * text.len; /* NFC may lengthen: "š" and a dot below are five bytes then */
    uint32_t *ids = malloc(sizeof *ids * (max + 1));
    size_t n, n_again, n_back;
    char *back;
    int r = text_encode(t, text.s, text.len, special, ids, max, &n);

    if (!text_utf8_valid(text.s, text.len, NULL)) {
        check(r == -EILSEQ && n < text.len);
    } else {
        check(r == 0 && n <= max);
        for (size_t i = 0; i < n; i++)
            check(ids[i] < text_n_vocab(t) && (special || !text_is_special(t, ids[i])));
        check(text_decode(t, ids, n, true, &back, &n_back) == 0);
        check(text_utf8_valid(back, n_back, NULL));
        free(back);
        if (n > 0) {
            check(text_encode(t, text.s, text.len, special, ids, n - 1, &n_again) == -ENOSPC);
            check(n_again == n);
        }
        const struct chat_message message = {.role = {"user", 4}, .content = {text.s, text.len}};
        const struct chat_conversation conversation = {.messages = &message, .n_messages = 1};
        const struct chat_options options = {0};
        char why[200];
        r = text_chat_encode(t, CHAT_QWEN2, &conversation, &options, ids, max, &n, why, sizeof why);
        check(r == 0 || r == -ENOSPC || r == -ENOTSUP);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] = "he\nll\nhell\nhello\naa\naaaa\nab\nbc\n<|im_start|>\n<|im_end|>\n"
                                "<tool_call>\nh e\nl l\nhe ll\nhell o\na a\naa aa\na b\nb c\n";
    static struct text_tokenizer *common;
    struct parts *parts = calloc(1, sizeof *parts);

    bytes_add(parts);
    if (!common) {
        lines_add(parts, (struct text_span){fixed, sizeof fixed - 1});
        common = tokenizer_of(parts);
        check(common != NULL);
    } else if (size > 0 && data[0] == 0) {
        struct text_span text = {(const char *)data + 1, size - 1};
        text = lines_add(parts, text);
        struct text_tokenizer *t = tokenizer_of(parts);
        if (t)
            text_try(t, text, true);
        text_tokenizer_free(t);
    } else if (size > 0) {
        struct text_span text = {(const char *)data + 1, size - 1};
        text_try(common, text, data[0] & 1);
    }
    free(parts);
    return 0;
}
