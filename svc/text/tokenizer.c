/* The tokenizer put together: vocabulary, special tokens, split, merges. */
#include "svc/text/tokenizer.h"

#include "svc/text/normalize.h"
#include "svc/text/split.h"
#include "svc/text/tokenizer_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Pieces up to this long are merged in memory of the stack. */
enum { PIECE_STACK = 1024 };

_Static_assert(TEXT_TOKENS_MAX < BPE_IDS_MAX, "ids and ranks fit the tables of bpe");

static bool is_special_kind(uint8_t kind)
{
    return kind == VOCAB_CONTROL || kind == VOCAB_ADDED;
}

/* The families whose split pattern is Qwen2's. Files from before the key was invented have none. */
static int pre_check(struct text_span pre, char *why, size_t why_size)
{
    static const char *const known[] = {"", "qwen2", "deepseek-r1-qwen", "megrez"};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (pre.len == strlen(known[i]) && (pre.len == 0 || !memcmp(pre.s, known[i], pre.len)))
            return 0;
    snprintf(why, why_size,
             "the split pattern of the tokenizer (tokenizer.ggml.pre) is \"%.*s\", "
             "and only \"qwen2\" is known",
             (int)(pre.len < 64 ? pre.len : 64), pre.s);
    return -ENOTSUP;
}

/* ---- construction -------------------------------------------------------------------------- */

/* The merges of the file, as ids. `by_bytes` finds plain tokens. */
static int merges_read(const struct text_vocab_source *source, const struct trie *by_bytes,
                       struct bpe_merge **ret, char *why, size_t why_size)
{
    struct bpe_merge *merges = malloc(sizeof *merges * (source->n_merges + 1));
    char bytes[4 * TEXT_TOKEN_BYTES_MAX];
    const char *wrong;
    size_t i;

    if (!merges) {
        snprintf(why, why_size, "not enough memory for %zu merges", source->n_merges);
        return -ENOMEM;
    }
    for (i = 0; i < source->n_merges; i++) {
        struct text_span merge = source->merges[i];
        const char *gap = merge.len > 0 ? memchr(merge.s, ' ', merge.len) : NULL;
        wrong = "is no pair of two tokens";
        if (!gap || merge.len > sizeof bytes)
            goto refuse;
        struct text_span left = {merge.s, (size_t)(gap - merge.s)};
        struct text_span right = {gap + 1, merge.len - left.len - 1};
        wrong = "is not in GPT-2's byte coding";
        long n_left = vocab_decode_gpt2(left, bytes);
        if (n_left < 0)
            goto refuse;
        long n_right = vocab_decode_gpt2(right, bytes + n_left);
        if (n_right < 0)
            goto refuse;
        wrong = "names a token that is not in the vocabulary";
        merges[i].left = trie_find(by_bytes, bytes, (size_t)n_left);
        merges[i].right = trie_find(by_bytes, bytes + n_left, (size_t)n_right);
        merges[i].token = trie_find(by_bytes, bytes, (size_t)(n_left + n_right));
        if (merges[i].left == TRIE_NONE || merges[i].right == TRIE_NONE ||
            merges[i].token == TRIE_NONE)
            goto refuse;
    }
    *ret = merges;
    return 0;

refuse:
    snprintf(why, why_size, "merge %zu of the vocabulary %s", i, wrong);
    free(merges);
    return -EINVAL;
}

/* A trie of the plain tokens, or of the special ones. */
static int trie_of(struct trie *trie, const struct vocab *vocab, bool special, char *why,
                   size_t why_size)
{
    struct trie_source source = {vocab->bytes, vocab->offsets, vocab->n_tokens};
    bool *take = malloc(vocab->n_tokens + 1);
    uint32_t same[2];
    int r = -ENOMEM;

    if (take) {
        for (uint32_t i = 0; i < vocab->n_tokens; i++)
            take[i] = special ? is_special_kind(vocab->kinds[i]) : vocab->kinds[i] == VOCAB_PLAIN;
        r = trie_init(trie, &source, take, same);
        free(take);
    }
    if (r == -EEXIST)
        snprintf(why, why_size, "tokens %u and %u of the vocabulary are the same", same[0],
                 same[1]);
    else if (r == -E2BIG)
        snprintf(why, why_size, "the tokens of the vocabulary hold too many bytes");
    else if (r == -ENOMEM)
        snprintf(why, why_size, "not enough memory for %u tokens", vocab->n_tokens);
    return r == -EEXIST || r == -E2BIG ? -EINVAL : r;
}

int text_tokenizer_new(struct text_tokenizer **ret, const struct text_vocab_source *source,
                       char *why, size_t why_size)
{
    struct text_tokenizer *t = calloc(1, sizeof *t);
    struct trie plain = {0};
    struct bpe_merge *merges = NULL;
    int r = pre_check(source->pre, why, why_size);

    if (r < 0)
        goto free_all;
    if (!t || !(t->chat_template = malloc(source->chat_template.len + 1))) {
        snprintf(why, why_size, "not enough memory for a tokenizer");
        r = -ENOMEM;
        goto free_all;
    }
    if (source->chat_template.len > 0)
        memcpy(t->chat_template, source->chat_template.s, source->chat_template.len);
    t->chat_template_len = source->chat_template.len;
    if ((r = vocab_init(&t->vocab, source, why, why_size)) < 0 ||
        (r = trie_of(&t->specials, &t->vocab, true, why, why_size)) < 0 ||
        (r = trie_of(&plain, &t->vocab, false, why, why_size)) < 0 ||
        (r = merges_read(source, &plain, &merges, why, why_size)) < 0)
        goto free_all;
    struct trie_source tokens = {t->vocab.bytes, t->vocab.offsets, t->vocab.n_tokens};
    r = bpe_init(&t->bpe, &tokens, &plain, merges, (uint32_t)source->n_merges, why, why_size);
    if (r < 0)
        goto free_all;
    *ret = t;
    return 0;

free_all:
    free(merges);
    trie_done(&plain);
    text_tokenizer_free(t);
    return r;
}

void text_tokenizer_free(struct text_tokenizer *t)
{
    if (!t)
        return;
    if (!t->borrowed) {
        bpe_done(&t->bpe);
        trie_done(&t->specials);
        vocab_done(&t->vocab);
        free(t->chat_template);
    }
    free(t);
}

size_t text_tokenizer_bytes(const struct text_tokenizer *t)
{
    if (t->borrowed)
        return sizeof *t;
    return sizeof *t + bpe_size(&t->bpe) + trie_bytes(&t->specials) + vocab_size(&t->vocab) +
           t->chat_template_len + 1;
}

/* ---- encoding ------------------------------------------------------------------------------ */

/* Where ids go: counted all, kept up to max. */
struct sink {
    uint32_t *ids;
    size_t max, n;
};

static void sink_put(struct sink *sink, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++, sink->n++)
        if (sink->n < sink->max)
            sink->ids[sink->n] = ids[i];
}

/* Encodes normalized text without special tokens. 0 or -ENOMEM. */
static int encode_normal(const struct text_tokenizer *t, const char *s, size_t n, struct sink *sink)
{
    uint64_t stack[BPE_SCRATCH_BYTES(PIECE_STACK) / sizeof(uint64_t) + 1];
    void *heap = NULL;
    size_t heap_len = 0, len;
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i += len) {
        const uint32_t *ids;
        len = text_split_next(s + i, n - i);
        if (len > PIECE_STACK && len > heap_len) {
            free(heap);
            heap_len = len;
            heap = malloc(BPE_SCRATCH_BYTES(len));
            if (!heap) {
                r = -ENOMEM;
                break;
            }
        }
        size_t k = bpe_encode(&t->bpe, s + i, len, len > PIECE_STACK ? heap : stack, &ids);
        sink_put(sink, ids, k);
    }
    free(heap);
    return r;
}

/* Encodes valid UTF-8 without special tokens. 0 or -ENOMEM. */
static int encode_plain(const struct text_tokenizer *t, const char *s, size_t n, struct sink *sink)
{
    char *normal;
    size_t n_normal;
    int r = text_normalize(s, n, &normal, &n_normal);

    if (r < 0)
        return r;
    r = normal ? encode_normal(t, normal, n_normal, sink) : encode_normal(t, s, n, sink);
    free(normal);
    return r;
}

/* Encodes valid UTF-8, its special tokens as such: leftmost first, longest first. They are
 * looked for before normalization, as the reference does. */
static int encode_special(const struct text_tokenizer *t, const char *s, size_t n,
                          struct sink *sink)
{
    size_t start = 0, len;
    int r;

    for (size_t i = 0; i < n; i += len) {
        uint32_t id = trie_longest(&t->specials, s + i, n - i, &len);
        if (id == TRIE_NONE) {
            len = 1;
            continue;
        }
        r = encode_plain(t, s + start, i - start, sink);
        if (r < 0)
            return r;
        sink_put(sink, &id, 1);
        start = i + len;
    }
    return encode_plain(t, s + start, n - start, sink);
}

int text_encode(const struct text_tokenizer *t, const char *utf8, size_t n, bool allow_special,
                uint32_t *ids, size_t max, size_t *ret_n)
{
    struct sink sink = {ids, max, 0};
    size_t offset;
    int r;

    if (!text_utf8_valid(utf8, n, &offset)) {
        *ret_n = offset;
        return -EILSEQ;
    }
    r = allow_special ? encode_special(t, utf8, n, &sink) : encode_plain(t, utf8, n, &sink);
    if (r < 0)
        return r;
    *ret_n = sink.n;
    return sink.n > max ? -ENOSPC : 0;
}

/* ---- what a token is ----------------------------------------------------------------------- */

static bool has_kind(const struct text_tokenizer *t, uint32_t id, enum vocab_kind kind)
{
    return id < t->vocab.n_tokens && t->vocab.kinds[id] == kind;
}

int text_token_bytes(const struct text_tokenizer *t, uint32_t id, const char **ret, size_t *ret_len)
{
    if (id >= t->vocab.n_tokens || t->vocab.kinds[id] == VOCAB_PADDING)
        return -EINVAL;
    *ret = t->vocab.bytes + t->vocab.offsets[id];
    *ret_len = t->vocab.offsets[id + 1] - t->vocab.offsets[id];
    return 0;
}

uint32_t text_n_vocab(const struct text_tokenizer *t)
{
    return t->vocab.n_tokens;
}

bool text_is_special(const struct text_tokenizer *t, uint32_t id)
{
    return has_kind(t, id, VOCAB_CONTROL) || has_kind(t, id, VOCAB_ADDED);
}

bool text_is_control(const struct text_tokenizer *t, uint32_t id)
{
    return has_kind(t, id, VOCAB_CONTROL);
}

bool text_is_eos(const struct text_tokenizer *t, uint32_t id)
{
    const struct text_ids *ids = &t->vocab.ids;

    return id != TEXT_NO_ID && (id == ids->eos || id == ids->im_end || id == ids->endoftext);
}

uint32_t text_special_id(const struct text_tokenizer *t, const char *name)
{
    return trie_find(&t->specials, name, strlen(name));
}

const struct text_ids *text_tokenizer_ids(const struct text_tokenizer *t)
{
    return &t->vocab.ids;
}

struct text_span text_tokenizer_template(const struct text_tokenizer *t)
{
    return (struct text_span){t->chat_template, t->chat_template_len};
}
