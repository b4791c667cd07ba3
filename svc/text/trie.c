/* The table starts small and doubles at half load, so that what a vocabulary costs follows what it
 * holds and not what it claims. */
#include "svc/text/trie.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BITS_FIRST = 12 };

static int table_new(struct trie *trie, unsigned bits)
{
    size_t bytes = sizeof(struct trie_edge) << bits;
    struct trie_edge *edges = malloc(bytes);

    if (!edges)
        return -ENOMEM;
    memset(edges, 0xFF, bytes);
    trie->edges = edges;
    trie->bits = bits;
    return 0;
}

static void table_put(struct trie *trie, struct trie_edge edge)
{
    uint32_t mask = (1u << trie->bits) - 1, i = trie_hash(trie, edge.key);

    while (trie->edges[i].key != UINT32_MAX)
        i = (i + 1) & mask;
    trie->edges[i] = edge;
}

void trie_done(struct trie *trie)
{
    free(trie->edges);
    *trie = (struct trie){0};
}

size_t trie_bytes(const struct trie *trie)
{
    return sizeof(struct trie_edge) << trie->bits;
}

static int edge_add(struct trie *trie, uint32_t node, uint8_t byte, uint32_t child)
{
    if (trie->n_edges >= 1u << (trie->bits - 1)) {
        struct trie_edge *old = trie->edges;
        size_t n_old = (size_t)1 << trie->bits;
        int r = table_new(trie, trie->bits + 1);
        if (r < 0)
            return r;
        for (size_t i = 0; i < n_old; i++)
            if (old[i].key != UINT32_MAX)
                table_put(trie, old[i]);
        free(old);
    }
    table_put(trie, (struct trie_edge){.key = node << 8 | byte, .child = child});
    trie->n_edges++;
    return 0;
}

/* Adds token `id` with its n ≥ 1 bytes, none shorter than one added before. */
static int token_add(struct trie *trie, uint32_t id, const char *s, size_t n, uint32_t ret_same[2])
{
    uint32_t node = trie->n_tokens;

    for (size_t i = 0; i < n; i++) {
        uint32_t next = trie_step(trie, node, (uint8_t)s[i]);
        bool last = i + 1 == n;
        if (next == TRIE_NONE) {
            if (!last && trie->n_nodes >= TRIE_NODES_MAX - 1)
                return -E2BIG;
            next = last ? id : trie->n_nodes;
            int r = edge_add(trie, node, (uint8_t)s[i], next);
            if (r < 0)
                return r;
            trie->n_nodes += !last;
        } else if (last) {
            ret_same[0] = next;
            ret_same[1] = id;
            return -EEXIST;
        }
        node = next;
    }
    trie->n_taken++;
    return 0;
}

/* The ids of all tokens, shortest first. */
static uint32_t *order_by_length(const struct trie_source *source)
{
    const uint32_t *offsets = source->offsets;
    uint32_t longest = 0;

    for (uint32_t i = 0; i < source->n_tokens; i++)
        if (offsets[i + 1] - offsets[i] > longest)
            longest = offsets[i + 1] - offsets[i];
    uint32_t *starts = calloc((size_t)longest + 2, sizeof *starts);
    uint32_t *order = malloc(sizeof *order * ((size_t)source->n_tokens + 1));
    if (!starts || !order) {
        free(order);
        order = NULL;
        goto free_starts;
    }
    for (uint32_t i = 0; i < source->n_tokens; i++)
        starts[offsets[i + 1] - offsets[i] + 1]++;
    for (uint32_t len = 1; len <= longest; len++)
        starts[len] += starts[len - 1];
    for (uint32_t i = 0; i < source->n_tokens; i++)
        order[starts[offsets[i + 1] - offsets[i]]++] = i;
free_starts:
    free(starts);
    return order;
}

int trie_init(struct trie *ret, const struct trie_source *source, const bool *take,
              uint32_t ret_same[2])
{
    struct trie trie = {.n_tokens = source->n_tokens, .n_nodes = source->n_tokens + 1};
    uint32_t *order = order_by_length(source);
    int r = order ? table_new(&trie, BITS_FIRST) : -ENOMEM;

    for (uint32_t k = 0; k < source->n_tokens && r == 0; k++) {
        uint32_t i = order[k], start = source->offsets[i];
        if (take[i])
            r = token_add(&trie, i, source->bytes + start, source->offsets[i + 1] - start,
                          ret_same);
    }
    free(order);
    if (r < 0)
        trie_done(&trie);
    else
        *ret = trie;
    return r;
}

uint32_t trie_find(const struct trie *trie, const char *s, size_t n)
{
    uint32_t node = trie->n_tokens;

    for (size_t i = 0; i < n && node != TRIE_NONE; i++)
        node = trie_step(trie, node, (uint8_t)s[i]);
    return node < trie->n_tokens ? node : TRIE_NONE;
}
