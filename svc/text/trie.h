/* A trie over the bytes of tokens, for the longest token that a text begins with.
 *
 * Edges live in one open-addressed table keyed by (node, byte). A node at which a token ends has
 * the token's id as its number, every other one a number from n_tokens up, so that the walk needs
 * no second table. For that to hold tokens are added in order of length. */
#ifndef QUERN_SVC_TEXT_TRIE_H
#define QUERN_SVC_TEXT_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRIE_NODES_MAX (1u << 24)
#define TRIE_NONE      UINT32_MAX

struct trie_edge {
    uint32_t key;   /* node << 8 | byte; 0xFFFFFFFF: free, as TRIE_NODES_MAX - 1 is never a node */
    uint32_t child; /* node */
};

struct trie {
    struct trie_edge *edges; /* (1 << bits) */
    unsigned bits;
    uint32_t n_edges;
    uint32_t n_taken;  /* tokens in the trie */
    uint32_t n_tokens; /* ids are below this; it is also the number of the root */
    uint32_t n_nodes;  /* numbers given out, the ids counted in */
};

/* The tokens that a trie is made of: i is bytes[offsets[i]] up to offsets[i + 1]. */
struct trie_source {
    const char *bytes;
    const uint32_t *offsets; /* (n_tokens + 1) */
    uint32_t n_tokens;       /* < TRIE_NODES_MAX - 1 */
};

/* A trie of the tokens for which `take` (n_tokens) holds; each has a byte or more. 0; -EEXIST: two
 * of them are the same, ret_same has their ids; -E2BIG: more than TRIE_NODES_MAX nodes; -ENOMEM. */
int trie_init(struct trie *trie, const struct trie_source *source, const bool *take,
              uint32_t ret_same[2]);
void trie_done(struct trie *trie);
size_t trie_bytes(const struct trie *trie);

static inline uint32_t trie_hash(const struct trie *trie, uint32_t key)
{
    return key * 0x9E3779B1u >> (32 - trie->bits);
}

/* The node that `byte` leads to from `node`, or TRIE_NONE. */
static inline uint32_t trie_step(const struct trie *trie, uint32_t node, uint8_t byte)
{
    uint32_t key = node << 8 | byte, mask = (1u << trie->bits) - 1;

    for (uint32_t i = trie_hash(trie, key);; i = (i + 1) & mask) {
        struct trie_edge edge = trie->edges[i];
        if (edge.key == key)
            return edge.child;
        if (edge.key == UINT32_MAX)
            return TRIE_NONE;
    }
}

/* The longest token that s (n bytes) begins with, and its length; TRIE_NONE (and 0) if there
 * is none. */
static inline uint32_t trie_longest(const struct trie *trie, const char *s, size_t n,
                                    size_t *ret_len)
{
    uint32_t node = trie->n_tokens, found = TRIE_NONE;

    *ret_len = 0;
    for (size_t i = 0; i < n; i++) {
        node = trie_step(trie, node, (uint8_t)s[i]);
        if (node == TRIE_NONE)
            break;
        if (node < trie->n_tokens) {
            found = node;
            *ret_len = i + 1;
        }
    }
    return found;
}

/* The token with exactly these bytes, or TRIE_NONE. */
uint32_t trie_find(const struct trie *trie, const char *s, size_t n);

#endif
