/* Byte-pair merges in linear time.
 *
 * Byte-pair encoding is defined as a process: of all neighbours in a piece that a merge joins, join
 * the pair of best (lowest) rank, leftmost first, until none is left. What comes out can be told
 * without running it: a sequence of tokens is the encoding of its bytes exactly if each token is
 * the encoding of its own bytes and each two neighbours are the encoding of theirs, since the first
 * merge across a border depends on nothing beyond the two tokens that meet there. And every prefix
 * of a piece has one encoding only. So the encoder goes left to right, takes the longest token that
 * gets on with the one before, and steps back where no token fits: a place once left is never
 * entered again. bpe_pair_fits() undoes merges from both sides of a border, latest first, to see
 * whether the process would have joined across it.
 *
 * This needs merges whose parts were made by earlier merges; others are refused. */
#ifndef QUERN_SVC_TEXT_BPE_H
#define QUERN_SVC_TEXT_BPE_H

#include "svc/text/trie.h"

struct bpe_merge {
    uint32_t left, right; /* ids */
    uint32_t token;       /* the id that they make */
};

/* How a token comes about. `born` is 0 for a byte, else the rank of its merge + 1; BPE_UNBORN for
 * one that no text makes. Eight bytes, so that the table stays in the cache. */
enum { BPE_ID_BITS = 21 };
#define BPE_IDS_MAX ((1u << BPE_ID_BITS) - 1)
#define BPE_UNBORN  BPE_IDS_MAX

struct bpe_token {
    uint64_t born : BPE_ID_BITS;
    uint64_t left : BPE_ID_BITS; /* its own id for a byte */
    uint64_t right : BPE_ID_BITS;
    uint64_t unused : 1; /* named, so that it is zero: tables are kept as they lie */
};

struct bpe {
    struct trie trie;         /* of the tokens that are their own encoding */
    struct bpe_token *tokens; /* (n_tokens) */
    uint32_t *shorter;        /* (n_tokens) the longest token that is a true prefix, or TRIE_NONE */
    uint16_t *lens;           /* (n_tokens) bytes of each */
    struct bpe_merge *merges; /* (n_merges), best first */
    uint64_t *maybe;          /* (1 << slot_bits + 2 bits) 0: no merge has a pair of this hash */
    uint32_t *slots;          /* (1 << slot_bits) fingerprint << rank_bits | rank + 1; 0: free */
    uint32_t n_tokens, n_merges;
    unsigned slot_bits, rank_bits;
};

/* Builds the tables. `plain` is a trie of the tokens that text can make; among them must be every
 * single byte. Takes over `plain` and `merges` (malloc'd, n_merges) if it succeeds; there
 * are fewer than BPE_IDS_MAX tokens and merges. 0; -ENOMEM;
 * -EINVAL with a sentence in `why`. */
int bpe_init(struct bpe *bpe, const struct trie_source *source, struct trie *plain,
             struct bpe_merge *merges, uint32_t n_merges, char *why, size_t why_size);
void bpe_done(struct bpe *bpe);
size_t bpe_size(const struct bpe *bpe); /* bytes of memory held */

/* Bits of the hash table's index and of a rank for this many merges. */
void bpe_hash_bits(uint32_t n_merges, unsigned *ret_slot_bits, unsigned *ret_rank_bits);

/* Whether tables that a stranger wrote are those that bpe_init makes of these tokens and merges; the
 * counts, the bits of the hash table and the lengths of all arrays are right already. 0, -EBADMSG
 * or -ENOMEM. */
int bpe_check(const struct bpe *bpe, const struct trie_source *source);

/* Room that bpe_encode needs for a piece of n bytes: ids and one bit a byte. */
#define BPE_SCRATCH_BYTES(n) (sizeof(uint32_t) * (n) + ((n) / 64 + 1) * sizeof(uint64_t))

/* Encodes a piece of n ≥ 1 bytes; `scratch` has BPE_SCRATCH_BYTES(n) aligned to 8. The ids are
 * in the scratch memory at *ret_ids; the result is their number. */
size_t bpe_encode(const struct bpe *bpe, const char *s, size_t n, void *scratch,
                  const uint32_t **ret_ids);

#endif
