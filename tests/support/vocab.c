/* The strings that a GGUF file would hold are made again from the pairs of ids, so that tests and
 * made models go the same way through the tokenizer as real files. */
#define _GNU_SOURCE /* mempcpy */
#include "tests/support/vocab.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char qwen2_template[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static uint32_t little(const uint8_t *p, unsigned n)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < n; i++)
        value |= (uint32_t)p[i] << 8 * i;
    return value;
}

/* GPT-2's byte coding of byte token i: its place in the order tells the character. */
static size_t byte_name(unsigned i, char *out)
{
    uint32_t cp = i < 94    ? 0x21 + i
                  : i < 106 ? 0xA1 + i - 94
                  : i < 188 ? 0xAE + i - 106
                            : 0x100 + i - 188;

    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    out[0] = (char)(0xC0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 0x3F));
    return 2;
}

static uint8_t *file_read(const char *path, size_t *ret_size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = NULL;
    long size = -1;

    if (f && fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) >= 16 && fseek(f, 0, SEEK_SET) == 0)
        data = malloc((size_t)size);
    if (data && fread(data, 1, (size_t)size, f) != (size_t)size) {
        free(data);
        data = NULL;
    }
    if (f)
        fclose(f);
    *ret_size = data ? (size_t)size : 0;
    return data;
}

/* The file's content: pairs of ids and the special tokens after them. */
struct content {
    uint8_t *data;
    size_t size;
    size_t n_all, n_merges, n_special; /* merges in the file, merges wanted */
};

static uint32_t part(const struct content *c, size_t merge, unsigned side)
{
    return little(c->data + 16 + 6 * merge + 3 * side, 3);
}

/* Reads and checks all but the special tokens; *ret_text is the room that the strings need. */
static int content_read(struct content *c, const char *path, size_t n_merges, size_t *ret_text)
{
    uint32_t *lens = NULL;
    char name[2];
    int r = -EINVAL;

    *c = (struct content){0};
    c->data = file_read(path, &c->size);
    if (!c->data)
        return -ENOENT;
    c->n_all = little(c->data + 8, 4);
    c->n_special = little(c->data + 12, 4);
    if (memcmp(c->data, "QVOC0001", 8) || c->n_all > 1u << 20 || c->n_special > 1000 ||
        16 + 6 * c->n_all > c->size)
        goto free_data;
    c->n_merges = n_merges == 0 || n_merges > c->n_all ? c->n_all : n_merges;
    lens = malloc(sizeof *lens * (256 + c->n_merges));
    r = -ENOMEM;
    if (!lens)
        goto free_data;
    *ret_text = 512 + c->size;
    for (unsigned i = 0; i < 256; i++)
        lens[i] = (uint32_t)byte_name(i, name);
    for (size_t i = 0; i < c->n_merges; i++) {
        uint32_t left = part(c, i, 0), right = part(c, i, 1);
        r = -EINVAL;
        if (left >= 256 + i || right >= 256 + i || lens[left] + lens[right] > 1u << 16)
            goto free_data;
        lens[256 + i] = lens[left] + lens[right];
        *ret_text += 2 * lens[256 + i] + 1; /* the token, and the merge with its space */
    }
    free(lens);
    return 0;

free_data:
    free(lens);
    free(c->data);
    return r;
}

/* Writes the strings of bytes and merges; the result is where they end. */
static char *strings_make(const struct content *c, struct text_span *tokens,
                          struct text_span *merges, char *out)
{
    for (unsigned i = 0; i < 256; i++) {
        tokens[i] = (struct text_span){out, byte_name(i, out)};
        out += tokens[i].len;
    }
    for (size_t i = 0; i < c->n_merges; i++) {
        struct text_span left = tokens[part(c, i, 0)], right = tokens[part(c, i, 1)];
        tokens[256 + i] = (struct text_span){out, left.len + right.len};
        out = mempcpy(mempcpy(out, left.s, left.len), right.s, right.len);
        merges[i] = (struct text_span){out, left.len + right.len + 1};
        out = mempcpy(out, left.s, left.len);
        *out++ = ' ';
        out = mempcpy(out, right.s, right.len);
    }
    return out;
}

/* The special tokens, and which of them end a text. 0 or -EINVAL. */
static int special_make(const struct content *c, struct text_span *tokens, char *out,
                        uint32_t *ret_im_end, uint32_t *ret_endoftext)
{
    const uint8_t *p = c->data + 16 + 6 * c->n_all, *end = c->data + c->size;

    *ret_im_end = *ret_endoftext = TEXT_NO_ID;
    for (size_t i = 256 + c->n_merges; i < 256 + c->n_merges + c->n_special; i++) {
        if (end - p < 2 || end - p - 2 < (long)little(p, 2))
            return -EINVAL;
        tokens[i] = (struct text_span){out, little(p, 2)};
        out = mempcpy(out, p + 2, tokens[i].len);
        p += 2 + tokens[i].len;
        if (tokens[i].len == 10 && !memcmp(tokens[i].s, "<|im_end|>", 10))
            *ret_im_end = (uint32_t)i;
        if (tokens[i].len == 13 && !memcmp(tokens[i].s, "<|endoftext|>", 13))
            *ret_endoftext = (uint32_t)i;
    }
    return 0;
}

int vocab_file_load(struct vocab_file *ret, const char *path, size_t n_merges)
{
    struct content c;
    size_t text;
    uint32_t im_end, endoftext;
    int r = content_read(&c, path, n_merges, &text);

    if (r < 0)
        return r;
    size_t n_tokens = 256 + c.n_merges + c.n_special;
    struct text_span *tokens =
        malloc(sizeof *tokens * (n_tokens + c.n_merges) + sizeof(int32_t) * n_tokens + text);
    if (!tokens) {
        r = -ENOMEM;
        goto free_data;
    }
    struct text_span *merges = tokens + n_tokens;
    int32_t *types = (int32_t *)(merges + c.n_merges);
    for (size_t i = 0; i < n_tokens; i++)
        types[i] = i < 256 + c.n_merges ? TEXT_TOKEN_NORMAL : TEXT_TOKEN_CONTROL;
    char *out = strings_make(&c, tokens, merges, (char *)(types + n_tokens));
    r = special_make(&c, tokens, out, &im_end, &endoftext);
    if (r < 0) {
        free(tokens);
        goto free_data;
    }
    ret->memory = tokens;
    ret->source = (struct text_vocab_source){
        .model = {"gpt2", 4},
        .pre = {"qwen2", 5},
        .tokens = tokens,
        .types = types,
        .n_tokens = n_tokens,
        .merges = merges,
        .n_merges = c.n_merges,
        .bos_id = endoftext,
        .eos_id = im_end,
        .pad_id = endoftext,
        .chat_template = {qwen2_template, sizeof qwen2_template - 1},
    };
free_data:
    free(c.data);
    return r;
}

void vocab_file_done(struct vocab_file *file)
{
    free(file->memory);
    *file = (struct vocab_file){0};
}

struct text_tokenizer *vocab_tokenizer(void)
{
    struct text_tokenizer *tokenizer;
    struct vocab_file file;
    char why[256];
    int r = vocab_file_load(&file, VOCAB_FILE_QWEN2, 0);

    if (r < 0) {
        fprintf(stderr, "%s: %s\n", VOCAB_FILE_QWEN2, strerror(-r));
        exit(1);
    }
    r = text_tokenizer_new(&tokenizer, &file.source, why, sizeof why);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", VOCAB_FILE_QWEN2, why);
        exit(1);
    }
    vocab_file_done(&file);
    return tokenizer;
}
