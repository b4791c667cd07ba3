/* The block: a header with the counts, then one table after the other, each from a multiple of 64
 * on. Where a table lies follows from the counts, so that there are no offsets to check. */
#include "svc/text/tables.h"

#include "svc/text/tokenizer_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC       "QUERNTOK"
#define VERSION     1u
#define COVERED     24u    /* the checksum covers all bytes from here on */
#define SPARE_CELLS 65536u /* of a small trie: far more than the control tokens take */

struct tables_header {
    char magic[8];
    uint64_t bytes;    /* of the whole block */
    uint64_t checksum; /* XXH3-64 of what follows */
    uint32_t version;
    uint32_t n_tokens, n_merges;
    uint32_t n_token_bytes, n_template_bytes;
    uint32_t plain_root, n_plain_cells;
    uint32_t special_root, n_special_cells;
    uint32_t ids[6]; /* im_start, im_end, endoftext, bos, eos, pad */
    uint32_t reserved;
    uint64_t reserved2[5];
};

_Static_assert(sizeof(struct tables_header) == 128, "on disk");
_Static_assert(offsetof(struct tables_header, version) == COVERED, "on disk");
_Static_assert(offsetof(struct tables_header, ids) == 60, "on disk");
_Static_assert(sizeof(struct bpe_token) == 8 && sizeof(struct bpe_merge) == 12, "on disk");
_Static_assert(sizeof(struct text_ids) == sizeof((struct tables_header){0}.ids), "on disk");

enum section {
    TOKEN_BYTES,
    TOKEN_OFFSETS,
    TOKEN_KINDS,
    BPE_TOKENS,
    BPE_SHORTER,
    BPE_LENS,
    BPE_MERGES,
    BPE_MAYBE,
    BPE_SLOTS,
    PLAIN_CELLS,
    PLAIN_IDS,
    SPECIAL_CELLS,
    SPECIAL_IDS,
    TEMPLATE,
    N_SECTIONS
};

struct layout {
    size_t offsets[N_SECTIONS], lengths[N_SECTIONS], bytes;
};

/* No count is so large that this could overflow: see counts_fit. */
static void lay_out(struct layout *ret, const struct tables_header *header)
{
    const size_t n = header->n_tokens;
    unsigned slot_bits, rank_bits;
    bpe_hash_bits(header->n_merges, &slot_bits, &rank_bits);
    *ret = (struct layout){.lengths = {[TOKEN_BYTES] = header->n_token_bytes,
                                       [TOKEN_OFFSETS] = sizeof(uint32_t) * (n + 1),
                                       [TOKEN_KINDS] = n,
                                       [BPE_TOKENS] = sizeof(struct bpe_token) * n,
                                       [BPE_SHORTER] = sizeof(uint32_t) * n,
                                       [BPE_LENS] = sizeof(uint16_t) * n,
                                       [BPE_MERGES] = sizeof(struct bpe_merge) * header->n_merges,
                                       [BPE_MAYBE] = sizeof(uint64_t) << (slot_bits - 4),
                                       [BPE_SLOTS] = sizeof(uint32_t) << slot_bits,
                                       [PLAIN_CELLS] = sizeof(uint32_t) * header->n_plain_cells,
                                       [PLAIN_IDS] = sizeof(uint32_t) * header->n_plain_cells,
                                       [SPECIAL_CELLS] = sizeof(uint32_t) * header->n_special_cells,
                                       [SPECIAL_IDS] = sizeof(uint32_t) * header->n_special_cells,
                                       [TEMPLATE] = header->n_template_bytes}};
    size_t at = sizeof *header;
    for (unsigned i = 0; i < N_SECTIONS; i++) {
        at = (at + TEXT_TABLES_ALIGNMENT - 1) / TEXT_TABLES_ALIGNMENT * TEXT_TABLES_ALIGNMENT;
        ret->offsets[i] = at;
        at += ret->lengths[i];
    }
    ret->bytes = at;
}

static bool counts_fit(const struct tables_header *header)
{
    return header->n_tokens > 0 && header->n_tokens <= TEXT_TOKENS_MAX &&
           header->n_merges <= TEXT_TOKENS_MAX && header->n_plain_cells <= 2 * TRIE_CELLS_MAX &&
           header->n_special_cells <= 2 * TRIE_CELLS_MAX && header->reserved == 0;
}

static void fill_header(struct tables_header *ret, const struct text_tokenizer *t)
{
    const uint32_t n_plain = trie_n_cells_used(&t->bpe.trie);
    const uint32_t n_special = trie_n_cells_used(&t->specials);
    *ret = (struct tables_header){
        .version = VERSION,
        .n_tokens = t->vocab.n_tokens,
        .n_merges = t->bpe.n_merges,
        .n_token_bytes = t->vocab.offsets[t->vocab.n_tokens],
        .n_template_bytes = (uint32_t)t->chat_template_len,
        .plain_root = t->bpe.trie.root,
        .n_plain_cells = n_plain,
        .special_root = t->specials.root,
        .n_special_cells = n_special,
    };
    memcpy(ret->magic, MAGIC, sizeof ret->magic);
    memcpy(ret->ids, &t->vocab.ids, sizeof ret->ids);
}

size_t text_tables_bytes(const struct text_tokenizer *tokenizer)
{
    struct tables_header header;
    struct layout layout;
    fill_header(&header, tokenizer);
    lay_out(&layout, &header);
    return layout.bytes;
}

size_t text_tables_bytes_max(const struct text_vocab_source *source)
{
    struct tables_header header = {0};
    struct layout layout;
    size_t n_bytes = 0;
    if (source->n_tokens == 0 || source->n_tokens > TEXT_TOKENS_MAX ||
        source->n_merges > TEXT_TOKENS_MAX || source->chat_template.len > UINT32_MAX)
        return 0;
    for (size_t i = 0; i < source->n_tokens; i++)
        if (__builtin_add_overflow(n_bytes, source->tokens[i].len, &n_bytes) ||
            n_bytes > UINT32_MAX)
            return 0;
    /* A trie has a node for each byte of its tokens at most; where beginnings are shared, far fewer,
     * and so the cells that stay free have room, too. */
    const size_t n_cells = n_bytes + SPARE_CELLS;
    header.n_tokens = (uint32_t)source->n_tokens;
    header.n_merges = (uint32_t)source->n_merges;
    header.n_token_bytes = (uint32_t)n_bytes;
    header.n_template_bytes = (uint32_t)source->chat_template.len;
    header.n_plain_cells = n_cells < TRIE_CELLS_MAX ? (uint32_t)n_cells : TRIE_CELLS_MAX;
    header.n_special_cells = SPARE_CELLS;
    lay_out(&layout, &header);
    return layout.bytes;
}

void text_tables_write(const struct text_tokenizer *tokenizer, void *into)
{
    const struct text_tokenizer *t = tokenizer;
    struct tables_header header;
    struct layout layout;
    uint8_t *block = into;
    const void *const from[N_SECTIONS] = {
        [TOKEN_BYTES] = t->vocab.bytes,  [TOKEN_OFFSETS] = t->vocab.offsets,
        [TOKEN_KINDS] = t->vocab.kinds,  [BPE_TOKENS] = t->bpe.tokens,
        [BPE_SHORTER] = t->bpe.shorter,  [BPE_LENS] = t->bpe.lens,
        [BPE_MERGES] = t->bpe.merges,    [BPE_MAYBE] = t->bpe.maybe,
        [BPE_SLOTS] = t->bpe.slots,      [PLAIN_CELLS] = t->bpe.trie.cells,
        [PLAIN_IDS] = t->bpe.trie.ids,   [SPECIAL_CELLS] = t->specials.cells,
        [SPECIAL_IDS] = t->specials.ids, [TEMPLATE] = t->chat_template};
    fill_header(&header, t);
    lay_out(&layout, &header);
    header.bytes = layout.bytes;
    size_t end = sizeof header;
    for (unsigned i = 0; i < N_SECTIONS; i++) {
        memset(block + end, 0, layout.offsets[i] - end);
        if (layout.lengths[i] > 0)
            memcpy(block + layout.offsets[i], from[i], layout.lengths[i]);
        end = layout.offsets[i] + layout.lengths[i];
    }
    memcpy(block, &header, sizeof header);
    header.checksum = XXH3_64bits(block + COVERED, layout.bytes - COVERED);
    memcpy(block, &header, sizeof header);
}

/* What is in the tables, where a stranger wrote them. */
static int prove(const struct text_tokenizer *t, size_t n_token_bytes)
{
    const struct trie_source source = {t->vocab.bytes, t->vocab.offsets, t->vocab.n_tokens};
    int r = vocab_check(&t->vocab, n_token_bytes);
    if (r < 0)
        return r;
    bool *special = malloc(source.n_tokens);
    if (!special)
        return -ENOMEM;
    for (uint32_t i = 0; i < source.n_tokens; i++) {
        const uint8_t kind = t->vocab.kinds[i];
        special[i] = kind == VOCAB_CONTROL || kind == VOCAB_ADDED;
        if (kind != VOCAB_PLAIN && t->bpe.tokens[i].born != BPE_UNBORN)
            r = -EBADMSG; /* text would become a control token */
    }
    if (r == 0)
        r = trie_check(&t->specials, &source, special, NULL);
    if (r == 0)
        r = bpe_check(&t->bpe, &source);
    free(special);
    return r;
}

/* The tables where they lie; they are only read. */
static void point(struct text_tokenizer *t, const struct tables_header *header,
                  const struct layout *layout, const void *block)
{
    void *at[N_SECTIONS];
    for (unsigned i = 0; i < N_SECTIONS; i++)
        at[i] = (void *)((uintptr_t)block + layout->offsets[i]);
    *t = (struct text_tokenizer){
        .vocab = {.bytes = at[TOKEN_BYTES],
                  .offsets = at[TOKEN_OFFSETS],
                  .kinds = at[TOKEN_KINDS],
                  .n_tokens = header->n_tokens},
        .bpe = {.trie = {at[PLAIN_CELLS], at[PLAIN_IDS], header->plain_root, header->n_plain_cells},
                .tokens = at[BPE_TOKENS],
                .shorter = at[BPE_SHORTER],
                .lens = at[BPE_LENS],
                .merges = at[BPE_MERGES],
                .maybe = at[BPE_MAYBE],
                .slots = at[BPE_SLOTS],
                .n_tokens = header->n_tokens,
                .n_merges = header->n_merges},
        .specials = {at[SPECIAL_CELLS], at[SPECIAL_IDS], header->special_root,
                     header->n_special_cells},
        .chat_template = at[TEMPLATE],
        .chat_template_len = header->n_template_bytes,
        .borrowed = true,
    };
    bpe_hash_bits(header->n_merges, &t->bpe.slot_bits, &t->bpe.rank_bits);
    memcpy(&t->vocab.ids, header->ids, sizeof t->vocab.ids);
}

int text_tables_open(struct text_tokenizer **ret, const void *block, size_t size, bool own,
                     char *why, size_t why_size)
{
    struct tables_header header;
    struct layout layout;
    assert((uintptr_t)block % TEXT_TABLES_ALIGNMENT == 0);
    if (size < sizeof header || memcmp(block, MAGIC, sizeof header.magic) != 0)
        return -ENOENT;
    memcpy(&header, block, sizeof header);
    if (header.version != VERSION || !counts_fit(&header))
        goto damaged;
    lay_out(&layout, &header);
    if (header.bytes != layout.bytes || layout.bytes > size ||
        XXH3_64bits((const uint8_t *)block + COVERED, layout.bytes - COVERED) != header.checksum)
        goto damaged;
    struct text_tokenizer *t = malloc(sizeof *t);
    if (!t)
        return -ENOMEM;
    point(t, &header, &layout, block);
    int r = own ? 0 : prove(t, header.n_token_bytes);
    if (r < 0) {
        free(t);
        if (r == -EBADMSG)
            goto damaged;
        return r;
    }
    *ret = t;
    return 0;

damaged:
    snprintf(why, why_size, "the tables of the tokenizer are damaged");
    return -EBADMSG;
}

/* ---- the version ---------------------------------------------------------------------------- */

enum { SAMPLE_BYTES = 256, SAMPLE_MERGES = 40, SAMPLE_TOKENS = SAMPLE_BYTES + SAMPLE_MERGES + 1 };

/* A vocabulary of which a block has every table: the bytes, merges of two neighbours, a control
 * token. */
struct sample {
    struct text_span tokens[SAMPLE_TOKENS], merges[SAMPLE_MERGES];
    int32_t types[SAMPLE_TOKENS];
    char bytes[SAMPLE_BYTES][2], pairs[SAMPLE_MERGES][3], made[SAMPLE_MERGES][2];
};

static void sample_fill(struct sample *s)
{
    static const char control[] = "<|im_end|>";
    size_t n = 0;
    /* The characters of GPT-2's coding of bytes: printable ones, and as many more from U+0100 on. */
    for (uint32_t c = 0x21; n < SAMPLE_BYTES; c++) {
        if ((c >= 0x7F && c < 0xA1) || c == 0xAD)
            continue;
        s->bytes[n][0] = (char)(c < 0x80 ? c : 0xC0 | c >> 6);
        s->bytes[n][1] = (char)(0x80 | (c & 0x3F));
        s->tokens[n] = (struct text_span){s->bytes[n], c < 0x80 ? 1 : 2};
        s->types[n++] = TEXT_TOKEN_NORMAL;
    }
    for (size_t i = 0; i < SAMPLE_MERGES; i++, n++) {
        const char left = s->bytes[i][0], right = s->bytes[i + 1][0];
        memcpy(s->pairs[i], (const char[]){left, ' ', right}, 3);
        memcpy(s->made[i], (const char[]){left, right}, 2);
        s->merges[i] = (struct text_span){s->pairs[i], 3};
        s->tokens[n] = (struct text_span){s->made[i], 2};
        s->types[n] = TEXT_TOKEN_NORMAL;
    }
    s->tokens[n] = (struct text_span){control, sizeof control - 1};
    s->types[n] = TEXT_TOKEN_CONTROL;
}

uint64_t text_tables_version(void)
{
    struct sample sample;
    struct text_tokenizer *t;
    char why[128];
    sample_fill(&sample);
    const struct text_vocab_source source = {.model = {"gpt2", 4},
                                             .pre = {"qwen2", 5},
                                             .tokens = sample.tokens,
                                             .types = sample.types,
                                             .n_tokens = SAMPLE_TOKENS,
                                             .merges = sample.merges,
                                             .n_merges = SAMPLE_MERGES,
                                             .bos_id = TEXT_NO_ID,
                                             .eos_id = SAMPLE_TOKENS - 1,
                                             .pad_id = TEXT_NO_ID};
    if (text_tokenizer_new(&t, &source, why, sizeof why) < 0)
        return VERSION; /* no memory: nothing will be found, and nothing that is kept is lost */
    size_t bytes = text_tables_bytes(t);
    size_t room = (bytes + TEXT_TABLES_ALIGNMENT - 1) / TEXT_TABLES_ALIGNMENT;
    void *block = aligned_alloc(TEXT_TABLES_ALIGNMENT, room * TEXT_TABLES_ALIGNMENT);
    uint64_t version = VERSION;
    if (block) {
        text_tables_write(t, block);
        version = XXH3_64bits(block, bytes);
    }
    free(block);
    text_tokenizer_free(t);
    return version;
}
