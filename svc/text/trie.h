/* A trie over the bytes of tokens, for the longest token that a text begins with.
 *
 * A double array (Aoe, 1989) in one word a cell: the child of a node by byte b is cell base + b, and
 * is there if the cell's label is b. No two nodes have the same base, so that the label tells the
 * parent as well. Chains of single children lie in neighbouring cells: a walk touches few cache
 * lines, and Qwen2's whole vocabulary stays below 2 MiB. */
#ifndef QUERN_SVC_TEXT_TRIE_H
#define QUERN_SVC_TEXT_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRIE_NONE      UINT32_MAX
#define TRIE_CELLS_MAX (1u << 22) /* a base has 22 bits */

enum {
    TRIE_LABEL = 0x1FF, /* mask of the label; TRIE_FREE is no byte */
    TRIE_FREE = 0x100,
    TRIE_TOKEN = 0x200, /* a token ends here */
    TRIE_BASE_SHIFT = 10,
};

struct trie {
    uint32_t *cells; /* (n_cells) base << 10 | token << 9 | label; the first 256 stay free: a node
                        without children has base 0 */
    uint32_t *ids;   /* (n_cells) the token that ends at a cell, where one does */
    uint32_t root;   /* the root, as a cell */
    uint32_t n_cells;
};

/* The tokens that a trie is made of: i is bytes[offsets[i]] up to offsets[i + 1]. */
struct trie_source {
    const char *bytes;
    const uint32_t *offsets; /* (n_tokens + 1) */
    uint32_t n_tokens;
};

/* A trie of the tokens for which `take` (n_tokens) holds; each has a byte or more. 0; -EEXIST: two
 * of them are the same, ret_same has their ids; -E2BIG: more cells than possible; -ENOMEM. */
int trie_init(struct trie *trie, const struct trie_source *source, const bool *take,
              uint32_t ret_same[2]);
void trie_done(struct trie *trie);

/* Cells from the first on that a walk may look at: those behind them need not be kept. */
uint32_t trie_n_cells_used(const struct trie *trie);

/* Whether a trie that a stranger wrote holds exactly the tokens for which `take` holds, each at the
 * end of the path of its own bytes, and no walk leaves its cells. ret_prefix (n_tokens), if not
 * NULL, gets for each of them the longest other one that it begins with, or TRIE_NONE. 0, -EBADMSG
 * or -ENOMEM. */
int trie_check(const struct trie *trie, const struct trie_source *source, const bool *take,
               uint32_t *ret_prefix);
size_t trie_bytes(const struct trie *trie);

/* Takes out a token that the trie holds, n ≥ 1 bytes. */
void trie_drop(struct trie *trie, const char *s, size_t n);

/* The longest token that s (n bytes) begins with, and its length; TRIE_NONE (and 0) if there
 * is none. */
static inline uint32_t trie_longest(const struct trie *trie, const char *s, size_t n,
                                    size_t *ret_len)
{
    const uint32_t *cells = trie->cells;
    uint32_t cell = trie->root, found = 0;

    *ret_len = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t at = (cell >> TRIE_BASE_SHIFT) + (uint8_t)s[i];
        cell = cells[at];
        if ((cell & TRIE_LABEL) != (uint8_t)s[i])
            break;
        if (cell & TRIE_TOKEN) {
            found = at;
            *ret_len = i + 1;
        }
    }
    return found > 0 ? trie->ids[found] : TRIE_NONE;
}

/* The token with exactly these bytes, or TRIE_NONE. */
uint32_t trie_find(const struct trie *trie, const char *s, size_t n);

#endif
