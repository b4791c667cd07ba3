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

int vocab_file_load(struct vocab_file *ret, const char *path, size_t n_merges)
{
    size_t size, all, n_special;
    uint8_t *data = file_read(path, &size);
    struct text_span *tokens = NULL, *merges;
    int r = -ENOENT;

    if (!data)
        return r;
    r = -EINVAL;
    all = little(data + 8, 4);
    n_special = little(data + 12, 4);
    if (memcmp(data, "QVOC0001", 8) || all > 1u << 20 || n_special > 1000 || 16 + 6 * all > size)
        goto free_data;
    if (n_merges == 0 || n_merges > all)
        n_merges = all;
    /* Merge i makes token 256 + i, and its text is that token's with a space in it. A token is at
     * most 256 bytes, 512 coded, but all of them together are far less; measure first. */
    size_t n_tokens = 256 + n_merges + n_special, text = 512;
    uint32_t *lens = malloc(sizeof *lens * n_tokens);
    char name[2];
    r = -ENOMEM;
    if (!lens)
        goto free_data;
    for (unsigned i = 0; i < 256; i++)
        lens[i] = (uint32_t)byte_name(i, name);
    for (size_t i = 0; i < n_merges; i++) {
        uint32_t left = little(data + 16 + 6 * i, 3), right = little(data + 19 + 6 * i, 3);
        r = -EINVAL;
        if (left >= 256 + i || right >= 256 + i || lens[left] + lens[right] > 1u << 16)
            goto free_lens;
        lens[256 + i] = lens[left] + lens[right];
        text += 2 * lens[256 + i] + 1;
    }
    r = -ENOMEM;
    int32_t *types = NULL;
    char *memory =
        malloc(sizeof *tokens * (n_tokens + n_merges) + sizeof *types * n_tokens + text + size);
    if (!memory)
        goto free_lens;
    tokens = (struct text_span *)memory;
    merges = tokens + n_tokens;
    types = (int32_t *)(merges + n_merges);
    char *out = (char *)(types + n_tokens);
    for (size_t i = 0; i < n_tokens; i++)
        types[i] = i < 256 + n_merges ? TEXT_TOKEN_NORMAL : TEXT_TOKEN_CONTROL;
    for (unsigned i = 0; i < 256; i++) {
        tokens[i] = (struct text_span){out, byte_name(i, out)};
        out += tokens[i].len;
    }
    for (size_t i = 0; i < n_merges; i++) {
        struct text_span left = tokens[little(data + 16 + 6 * i, 3)];
        struct text_span right = tokens[little(data + 19 + 6 * i, 3)];
        tokens[256 + i] = (struct text_span){out, left.len + right.len};
        out = mempcpy(mempcpy(out, left.s, left.len), right.s, right.len);
        merges[i] = (struct text_span){out, left.len + right.len + 1};
        out = mempcpy(out, left.s, left.len);
        *out++ = ' ';
        out = mempcpy(out, right.s, right.len);
    }
    const uint8_t *p = data + 16 + 6 * all, *end = data + size;
    uint32_t eos = TEXT_NO_ID, eot = TEXT_NO_ID;
    for (size_t i = 256 + n_merges; i < n_tokens; i++) {
        r = -EINVAL;
        if (end - p < 2 || end - p - 2 < (long)little(p, 2))
            goto free_memory;
        tokens[i] = (struct text_span){out, little(p, 2)};
        out = mempcpy(out, p + 2, tokens[i].len);
        p += 2 + tokens[i].len;
        if (tokens[i].len == 10 && !memcmp(tokens[i].s, "<|im_end|>", 10))
            eos = (uint32_t)i;
        if (tokens[i].len == 13 && !memcmp(tokens[i].s, "<|endoftext|>", 13))
            eot = (uint32_t)i;
    }
    ret->memory = memory;
    ret->source = (struct text_vocab_source){
        .model = {"gpt2", 4},
        .pre = {"qwen2", 5},
        .tokens = tokens,
        .types = types,
        .n_tokens = n_tokens,
        .merges = merges,
        .n_merges = n_merges,
        .bos_id = eot,
        .eos_id = eos,
        .pad_id = eot,
        .chat_template = {qwen2_template, sizeof qwen2_template - 1},
    };
    free(lens);
    free(data);
    return 0;

free_memory:
    free(memory);
free_lens:
    free(lens);
free_data:
    free(data);
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
