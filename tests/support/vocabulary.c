/* Owns: the vocabulary keys of generated models. */
#include "tests/support/vocabulary.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MADE_BYTES 16 /* of a token that is made here, its end included */

static const char *const controls[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
#define N_CONTROLS   3
#define N_BYTES      256
#define N_OWN_TOKENS (N_BYTES + N_CONTROLS)

/* GPT-2's order and coding of bytes: those that print stand for themselves and come first; the
 * others become U+0100 and following. */
static bool byte_prints(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

static void put_code_point(char *dst, unsigned c)
{
    if (c < 0x80) {
        dst[0] = (char)c;
        dst[1] = 0;
    } else {
        dst[0] = (char)(0xc0 | c >> 6);
        dst[1] = (char)(0x80 | (c & 0x3f));
        dst[2] = 0;
    }
}

static void make_bytes(char *made)
{
    unsigned id = 0, other = 0;
    for (int byte = 0; byte < N_BYTES; byte++)
        if (byte_prints(byte))
            put_code_point(made + MADE_BYTES * id++, (unsigned)byte);
    for (int byte = 0; byte < N_BYTES; byte++)
        if (!byte_prints(byte))
            put_code_point(made + MADE_BYTES * id++, 256 + other++);
    for (int i = 0; i < N_CONTROLS; i++)
        snprintf(made + MADE_BYTES * id++, MADE_BYTES, "%s", controls[i]);
}

int vocabulary_read(struct vocabulary *ret, const char *path, size_t n_merges, uint32_t *n_vocab,
                    char *why, size_t why_size)
{
    struct vocabulary v = {0};
    int r = path ? vocab_file_load(&v.file, path, n_merges) : 0;
    if (r < 0) {
        snprintf(why, why_size, "cannot read the vocabulary %s: %s", path, strerror(-r));
        return r;
    }
    uint32_t n_known = path ? (uint32_t)v.file.source.n_tokens : N_OWN_TOKENS;
    v.n_tokens = *n_vocab ? *n_vocab : (n_known + 63) / 64 * 64;
    if (v.n_tokens < n_known) {
        snprintf(why, why_size, "the vocabulary has %" PRIu32 " tokens, more than %" PRIu32,
                 n_known, v.n_tokens);
        r = -EINVAL;
        goto free_all;
    }
    r = -ENOMEM;
    v.tokens = calloc(v.n_tokens, sizeof *v.tokens);
    v.types = calloc(v.n_tokens, sizeof *v.types);
    v.made = calloc(v.n_tokens, MADE_BYTES);
    if (!v.tokens || !v.types || !v.made)
        goto free_all;
    if (!path)
        make_bytes(v.made);
    for (uint32_t i = 0; i < v.n_tokens; i++) {
        char *own = v.made + MADE_BYTES * (size_t)i;
        if (path && i < n_known) {
            struct text_span token = v.file.source.tokens[i];
            v.tokens[i] = (struct gguf_string){token.s, token.len};
            v.types[i] = v.file.source.types[i];
            continue;
        }
        if (i >= n_known)
            snprintf(own, MADE_BYTES, "[PAD%" PRIu32 "]", i);
        v.tokens[i] = (struct gguf_string){own, strlen(own)};
        v.types[i] = i >= n_known   ? TEXT_TOKEN_UNUSED
                     : i >= N_BYTES ? TEXT_TOKEN_CONTROL
                                    : TEXT_TOKEN_NORMAL;
    }
    *n_vocab = v.n_tokens;
    *ret = v;
    return 0;
free_all:
    vocabulary_done(&v);
    return r;
}

void vocabulary_done(struct vocabulary *vocabulary)
{
    if (vocabulary->file.memory)
        vocab_file_done(&vocabulary->file);
    free(vocabulary->tokens);
    free(vocabulary->types);
    free(vocabulary->made);
    *vocabulary = (struct vocabulary){0};
}

static void write_merges(const struct text_vocab_source *source, struct gguf_writer *writer)
{
    struct gguf_string *merges = calloc(source->n_merges + 1, sizeof *merges);
    if (!merges)
        abort();
    for (size_t i = 0; i < source->n_merges; i++)
        merges[i] = (struct gguf_string){source->merges[i].s, source->merges[i].len};
    gguf_writer_strings(writer, "tokenizer.ggml.merges", merges, source->n_merges);
    free(merges);
}

static void write_id(struct gguf_writer *writer, const char *key, uint32_t id)
{
    if (id != TEXT_NO_ID)
        gguf_writer_u32(writer, key, id);
}

void vocabulary_write(const struct vocabulary *vocabulary, struct gguf_writer *writer)
{
    static const struct text_vocab_source bytes = {
        .bos_id = N_BYTES, .eos_id = N_BYTES + 2, .pad_id = N_BYTES};
    const struct text_vocab_source *source =
        vocabulary->file.memory ? &vocabulary->file.source : &bytes;
    gguf_writer_string(writer, "tokenizer.ggml.model", "gpt2", 4);
    gguf_writer_string(writer, "tokenizer.ggml.pre", "qwen2", 5);
    gguf_writer_strings(writer, "tokenizer.ggml.tokens", vocabulary->tokens, vocabulary->n_tokens);
    gguf_writer_i32s(writer, "tokenizer.ggml.token_type", vocabulary->types, vocabulary->n_tokens);
    write_merges(source, writer);
    write_id(writer, "tokenizer.ggml.bos_token_id", source->bos_id);
    write_id(writer, "tokenizer.ggml.eos_token_id", source->eos_id);
    write_id(writer, "tokenizer.ggml.padding_token_id", source->pad_id);
    gguf_writer_bool(writer, "tokenizer.ggml.add_bos_token", false);
    if (source->chat_template.len)
        gguf_writer_string(writer, "tokenizer.chat_template", source->chat_template.s,
                           source->chat_template.len);
}
