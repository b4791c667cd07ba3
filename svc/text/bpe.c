/* Tables for the border test, and the walk that uses it. */
#include "svc/text/bpe.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t pair_hash(uint32_t left, uint32_t right)
{
    return ((uint64_t)left << BPE_ID_BITS | right) * 0x9E3779B97F4A7C15u;
}

/* The rank of the merge of two tokens, or TRIE_NONE. Most pairs have none, and a bit of a table of
 * 256 KiB says so. */
static inline uint32_t pair_rank(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t h = pair_hash(left, right), bit = h >> (62 - bpe->slot_bits);

    if (!(bpe->maybe[bit / 64] >> bit % 64 & 1))
        return TRIE_NONE;
    uint32_t mask = (1u << bpe->slot_bits) - 1, rank_mask = (1u << bpe->rank_bits) - 1;
    uint32_t print = (uint32_t)(h >> 8) & ~rank_mask;
    for (uint32_t i = (uint32_t)(h >> (64 - bpe->slot_bits));; i = (i + 1) & mask) {
        uint32_t slot = bpe->slots[i];
        if (slot == 0)
            return TRIE_NONE;
        if ((slot & ~rank_mask) == print) {
            uint32_t rank = (slot & rank_mask) - 1;
            const struct bpe_merge *m = &bpe->merges[rank];
            if (m->left == left && m->right == right)
                return rank;
        }
    }
}

static void pair_put(struct bpe *bpe, uint32_t rank)
{
    const struct bpe_merge *m = &bpe->merges[rank];
    uint64_t h = pair_hash(m->left, m->right), bit = h >> (62 - bpe->slot_bits);
    uint32_t mask = (1u << bpe->slot_bits) - 1, rank_mask = (1u << bpe->rank_bits) - 1;
    uint32_t i = (uint32_t)(h >> (64 - bpe->slot_bits));

    while (bpe->slots[i] != 0)
        i = (i + 1) & mask;
    bpe->slots[i] = ((uint32_t)(h >> 8) & ~rank_mask) | (rank + 1);
    bpe->maybe[bit / 64] |= (uint64_t)1 << bit % 64;
}

/* Whether no merge of a rank below `limit` joins across the border between two tokens while the
 * process makes them. Goes back in time: undoes the younger of the two that meet at the border, and
 * looks whether those that met before would have been joined first. At equal rank the process goes
 * left to right: it undoes the right one first, whose own merge then comes after one across. */
static bool border_holds(const struct bpe *bpe, uint32_t left, uint32_t right, uint32_t limit)
{
    struct bpe_token l = bpe->tokens[left], r = bpe->tokens[right];

    for (;;) {
        if (pair_rank(bpe, left, right) < limit)
            return false;
        if (l.born > r.born) {
            limit = l.born - 1; /* one of the same rank comes after */
            left = l.right;
            l = bpe->tokens[left];
        } else if (r.born > 0) {
            limit = r.born; /* one of the same rank comes before */
            right = r.left;
            r = bpe->tokens[right];
        } else {
            return true; /* two bytes */
        }
    }
}

/* Works out which merge makes each token when it stands alone; wherever the token appears, it came
 * about the same way, since no merge crossed its borders. Ranks ascend, so that the parts are known
 * when a merge is looked at; a merge whose part came later would break the order of time that
 * border_holds goes back along. */
static int tokens_define(struct bpe *bpe, const struct trie_source *source, char *why,
                         size_t why_size)
{
    for (uint32_t i = 0; i < bpe->n_tokens; i++) {
        bpe->tokens[i] = (struct bpe_token){.born = BPE_UNBORN, .left = i, .right = i}; /* so far */
        bpe->lens[i] = (uint16_t)(source->offsets[i + 1] - source->offsets[i]);
    }
    for (unsigned b = 0; b < 256; b++) {
        char byte = (char)b;
        uint32_t id = trie_find(&bpe->trie, &byte, 1);
        if (id == TRIE_NONE) {
            snprintf(why, why_size, "the vocabulary has no token for the byte 0x%02x", b);
            return -EINVAL;
        }
        bpe->tokens[id].born = 0;
    }
    for (uint32_t rank = 0; rank < bpe->n_merges; rank++) {
        const struct bpe_merge *m = &bpe->merges[rank];
        struct bpe_token *t = &bpe->tokens[m->token];
        if (bpe->tokens[m->left].born == BPE_UNBORN || bpe->tokens[m->right].born == BPE_UNBORN)
            continue; /* no text has such neighbours */
        if (pair_rank(bpe, m->left, m->right) != TRIE_NONE) {
            snprintf(why, why_size, "merge %u of tokens %u and %u is there twice", rank, m->left,
                     m->right);
            return -EINVAL;
        }
        bool alone = t->born == BPE_UNBORN && border_holds(bpe, m->left, m->right, rank);
        pair_put(bpe, rank);
        if (alone)
            *t = (struct bpe_token){.born = rank + 1, .left = m->left, .right = m->right};
    }
    for (uint32_t rank = 0; rank < bpe->n_merges; rank++) {
        const struct bpe_merge *m = &bpe->merges[rank];
        uint32_t left = bpe->tokens[m->left].born, right = bpe->tokens[m->right].born;
        if ((left != BPE_UNBORN && left > rank) || (right != BPE_UNBORN && right > rank)) {
            snprintf(why, why_size, "merge %u joins token %u, which only a later merge makes", rank,
                     left != BPE_UNBORN && left > rank ? m->left : m->right);
            return -EINVAL;
        }
    }
    return 0;
}

/* Leaves in the trie only the tokens that are their own encoding, and finds for each the next
 * shorter one. */
static void trie_finish(struct bpe *bpe, const struct trie_source *source)
{
    size_t len;

    for (uint32_t i = 0; i < bpe->n_tokens; i++) {
        const char *s = source->bytes + source->offsets[i];
        if (bpe->tokens[i].born == BPE_UNBORN && trie_find(&bpe->trie, s, bpe->lens[i]) == i)
            trie_drop(&bpe->trie, s, bpe->lens[i]);
    }
    for (uint32_t i = 0; i < bpe->n_tokens; i++)
        bpe->shorter[i] = bpe->tokens[i].born == BPE_UNBORN
                              ? TRIE_NONE
                              : trie_longest(&bpe->trie, source->bytes + source->offsets[i],
                                             bpe->lens[i] - 1u, &len);
}

void bpe_hash_bits(uint32_t n_merges, unsigned *ret_slot_bits, unsigned *ret_rank_bits)
{
    unsigned rank_bits = 1;

    while ((n_merges + 1) >> rank_bits)
        rank_bits++;
    *ret_rank_bits = rank_bits;
    *ret_slot_bits = rank_bits + 1; /* at most half full */
    if (*ret_slot_bits < 6)
        *ret_slot_bits = 6; /* a word of `maybe` at least */
}

int bpe_init(struct bpe *ret, const struct trie_source *source, struct trie *plain,
             struct bpe_merge *merges, uint32_t n_merges, char *why, size_t why_size)
{
    struct bpe bpe = {.n_tokens = source->n_tokens, .n_merges = n_merges};
    int r = -ENOMEM;

    bpe_hash_bits(n_merges, &bpe.slot_bits, &bpe.rank_bits);
    bpe.slots = calloc((size_t)1 << bpe.slot_bits, sizeof *bpe.slots);
    bpe.maybe = calloc((size_t)1 << (bpe.slot_bits - 4), sizeof *bpe.maybe);
    bpe.shorter = malloc(sizeof *bpe.shorter * bpe.n_tokens);
    bpe.tokens = malloc(sizeof *bpe.tokens * bpe.n_tokens);
    bpe.lens = malloc(sizeof *bpe.lens * bpe.n_tokens);
    if (!bpe.slots || !bpe.maybe || !bpe.shorter || !bpe.tokens || !bpe.lens)
        goto free_tables;
    bpe.trie = *plain;
    bpe.merges = merges;
    r = tokens_define(&bpe, source, why, why_size);
    if (r < 0)
        goto free_tables;
    trie_finish(&bpe, source);
    *plain = (struct trie){0};
    *ret = bpe;
    return 0;

free_tables:
    if (r == -ENOMEM)
        snprintf(why, why_size, "not enough memory for the merges of %u tokens", bpe.n_tokens);
    free(bpe.slots);
    free(bpe.maybe);
    free(bpe.shorter);
    free(bpe.tokens);
    free(bpe.lens);
    return r;
}

void bpe_done(struct bpe *bpe)
{
    trie_done(&bpe->trie);
    free(bpe->tokens);
    free(bpe->lens);
    free(bpe->merges);
    free(bpe->slots);
    free(bpe->maybe);
    free(bpe->shorter);
    *bpe = (struct bpe){0};
}

size_t bpe_size(const struct bpe *bpe)
{
    return trie_bytes(&bpe->trie) + (sizeof *bpe->slots << bpe->slot_bits) +
           (sizeof *bpe->maybe << (bpe->slot_bits - 4)) + sizeof *bpe->merges * bpe->n_merges +
           (sizeof *bpe->tokens + sizeof *bpe->lens + sizeof *bpe->shorter) * bpe->n_tokens;
}

size_t bpe_encode(const struct bpe *bpe, const char *s, size_t n, void *scratch,
                  const uint32_t **ret_ids)
{
    uint64_t *blocked = scratch; /* a bit a position: no encoding of the piece has a border here */
    uint32_t *ids = (uint32_t *)(blocked + n / 64 + 1);
    size_t pos = 0, n_ids = 0, len;
    uint32_t next = trie_longest(&bpe->trie, s, n, &len);

    *ret_ids = ids;
    if (len == n) {
        ids[0] = next;
        return 1;
    }
    memset(blocked, 0, (n / 64 + 1) * sizeof *blocked);
    while (pos < n) {
        size_t end = pos + len;
        if (!(blocked[end / 64] >> end % 64 & 1) &&
            (n_ids == 0 || border_holds(bpe, ids[n_ids - 1], next, TRIE_NONE))) {
            ids[n_ids++] = next;
            pos = end;
            if (pos < n)
                next = trie_longest(&bpe->trie, s + pos, n - pos, &len);
            continue;
        }
        next = bpe->shorter[next];
        if (next == TRIE_NONE) {
            /* Nothing fits here: so the token before was wrong. */
            assert(n_ids > 0);
            blocked[pos / 64] |= (uint64_t)1 << pos % 64;
            next = ids[--n_ids];
            pos -= bpe->lens[next];
        }
        len = bpe->lens[next];
    }
    return n_ids;
}

/* ---- tables that a stranger wrote ----------------------------------------------------------- */

/* Each token is a byte, or made by its merge of two that were made before, or never made. */
static int tokens_check(const struct bpe *bpe, const struct trie_source *source)
{
    for (uint32_t i = 0; i < bpe->n_tokens; i++) {
        struct bpe_token t = bpe->tokens[i];
        if (bpe->lens[i] != source->offsets[i + 1] - source->offsets[i])
            return -EBADMSG;
        if (t.born == BPE_UNBORN)
            continue;
        if (t.born == 0) {
            if (bpe->lens[i] != 1 || t.left != i || t.right != i)
                return -EBADMSG;
            continue;
        }
        if (t.born > bpe->n_merges || t.left >= bpe->n_tokens || t.right >= bpe->n_tokens)
            return -EBADMSG;
        const struct bpe_merge *m = &bpe->merges[t.born - 1];
        if (m->left != t.left || m->right != t.right || m->token != i ||
            bpe->tokens[t.left].born >= t.born || bpe->tokens[t.right].born >= t.born ||
            bpe->lens[t.left] + bpe->lens[t.right] != bpe->lens[i])
            return -EBADMSG;
    }
    return 0;
}

/* The hash table holds the merges of tokens that are made, each once, and nothing else. */
static int pairs_check(const struct bpe *bpe)
{
    uint32_t n_slots = 1u << bpe->slot_bits, rank_mask = (1u << bpe->rank_bits) - 1, n_used = 0;

    for (uint32_t i = 0; i < n_slots; i++) {
        uint32_t rank = bpe->slots[i] & rank_mask;
        if (bpe->slots[i] != 0 && (rank == 0 || rank > bpe->n_merges))
            return -EBADMSG;
        n_used += bpe->slots[i] != 0;
    }
    if (n_used > bpe->n_merges) /* fewer than slots: a search ends */
        return -EBADMSG;
    for (uint32_t rank = 0; rank < bpe->n_merges; rank++) {
        const struct bpe_merge *m = &bpe->merges[rank];
        if (m->left >= bpe->n_tokens || m->right >= bpe->n_tokens || m->token >= bpe->n_tokens)
            return -EBADMSG;
        if (bpe->tokens[m->left].born == BPE_UNBORN || bpe->tokens[m->right].born == BPE_UNBORN)
            continue;
        if (pair_rank(bpe, m->left, m->right) != rank)
            return -EBADMSG;
        n_used--;
    }
    return n_used == 0 ? 0 : -EBADMSG;
}

int bpe_check(const struct bpe *bpe, const struct trie_source *source)
{
    bool *made = malloc(bpe->n_tokens + 1);
    uint32_t *prefix = malloc(sizeof *prefix * (bpe->n_tokens + 1));
    int r = made && prefix ? 0 : -ENOMEM;

    for (uint32_t rank = 0; r == 0 && rank < bpe->n_merges; rank++) {
        const struct bpe_merge *m = &bpe->merges[rank];
        if (m->left >= bpe->n_tokens || m->right >= bpe->n_tokens || m->token >= bpe->n_tokens)
            r = -EBADMSG;
    }
    if (r == 0)
        r = tokens_check(bpe, source);
    if (r == 0)
        r = pairs_check(bpe);
    if (r < 0)
        goto free_all;
    for (uint32_t i = 0; i < bpe->n_tokens; i++)
        made[i] = bpe->tokens[i].born != BPE_UNBORN;
    r = trie_check(&bpe->trie, source, made, prefix);
    for (uint32_t i = 0; r == 0 && i < bpe->n_tokens; i++)
        if (bpe->shorter[i] != (made[i] ? prefix[i] : TRIE_NONE))
            r = -EBADMSG;
    for (unsigned b = 0; r == 0 && b < 256; b++) {
        char byte = (char)b;
        uint32_t id = trie_find(&bpe->trie, &byte, 1);
        if (id == TRIE_NONE || bpe->tokens[id].born != 0)
            r = -EBADMSG;
    }
    /* A token is made by the first merge that nothing else crosses, and by no other. */
    for (uint32_t rank = 0; r == 0 && rank < bpe->n_merges; rank++) {
        const struct bpe_merge *m = &bpe->merges[rank];
        if (!made[m->left] || !made[m->right])
            continue;
        uint32_t born = bpe->tokens[m->token].born;
        if (bpe->tokens[m->left].born > rank || bpe->tokens[m->right].born > rank)
            r = -EBADMSG;
        else if (born > rank && border_holds(bpe, m->left, m->right, rank) != (born == rank + 1))
            r = -EBADMSG;
    }

free_all:
    free(made);
    free(prefix);
    return r;
}
