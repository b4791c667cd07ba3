/* Construction of the double array: tokens are sorted, nodes visited in that order, depth first.
 * A node looks for a base from a cursor that moves on where cells get dense, one for nodes with
 * several children and one, behind it, for those with one, which fill the gaps. */
#define _GNU_SOURCE /* qsort_r */
#include "svc/text/trie.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_BEFORE_MOVING_ON = 128, NO_CHILD = 256 };

/* A node to be given a base: the sorted tokens [low, high) begin with its bytes, `depth` of them. */
struct node {
    uint32_t low, high;
    uint32_t cell; /* 0: the root */
    uint32_t depth;
};

struct builder {
    const struct trie_source *source;
    struct trie trie;
    uint32_t *order; /* (n_order) ids, sorted by bytes */
    uint32_t n_order;
    uint8_t *base_used; /* (n_cells) */
    struct node *stack; /* of nodes to visit */
    size_t n_stack, room_stack;
    uint32_t from_one;  /* where nodes with one child look for a cell */
    uint32_t from_many; /* where those with several do */
};

static const char *token_at(const struct trie_source *source, uint32_t id, uint32_t *ret_len)
{
    *ret_len = source->offsets[id + 1] - source->offsets[id];
    return source->bytes + source->offsets[id];
}

static int compare_tokens(const void *a, const void *b, void *context)
{
    uint32_t len_a, len_b;
    const char *s_a = token_at(context, *(const uint32_t *)a, &len_a);
    const char *s_b = token_at(context, *(const uint32_t *)b, &len_b);
    int order = memcmp(s_a, s_b, len_a < len_b ? len_a : len_b);

    return order != 0 ? order : (len_a > len_b) - (len_a < len_b);
}

/* Makes room for `need` cells, always 256 more than any base in use. */
static int cells_grow(struct builder *b, uint32_t need)
{
    struct trie *t = &b->trie;
    uint32_t n = t->n_cells > 0 ? t->n_cells : 4096;

    while (n < need)
        n += n / 2;
    if (need > TRIE_CELLS_MAX)
        return -E2BIG;
    uint32_t *cells = realloc(t->cells, sizeof *cells * n);
    if (cells)
        t->cells = cells;
    uint32_t *ids = realloc(t->ids, sizeof *ids * n);
    if (ids)
        t->ids = ids;
    uint8_t *used = realloc(b->base_used, n);
    if (used)
        b->base_used = used;
    if (!cells || !ids || !used)
        return -ENOMEM;
    for (uint32_t i = t->n_cells; i < n; i++) {
        cells[i] = TRIE_FREE;
        ids[i] = TRIE_NONE;
        used[i] = 0;
    }
    t->n_cells = n;
    return 0;
}

static bool is_free(const struct builder *b, uint32_t cell)
{
    return b->trie.cells[cell] == TRIE_FREE;
}

static bool base_fits(const struct builder *b, uint32_t base, const uint8_t *labels, unsigned n)
{
    if (b->base_used[base])
        return false;
    for (unsigned i = 0; i < n; i++)
        if (!is_free(b, base + labels[i]))
            return false;
    return true;
}

/* A base for a node whose children have these labels, ascending. 0 or -errno. */
static int base_find(struct builder *b, const uint8_t *labels, unsigned n, uint32_t *ret_base)
{
    uint32_t *from = n > 1 ? &b->from_many : &b->from_one;
    unsigned steps = 0;

    for (uint32_t cell = *from;; cell++) {
        int r = cell + 512 > b->trie.n_cells ? cells_grow(b, cell + 512) : 0;
        if (r < 0)
            return r;
        if (++steps > STEPS_BEFORE_MOVING_ON) {
            *from = cell;
            steps = 0;
        }
        if (is_free(b, cell) && base_fits(b, cell - labels[0], labels, n)) {
            *ret_base = cell - labels[0];
            return 0;
        }
    }
}

static int stack_push(struct builder *b, struct node node)
{
    if (b->n_stack == b->room_stack) {
        size_t room = b->room_stack > 0 ? 2 * b->room_stack : 1024;
        struct node *stack = realloc(b->stack, sizeof *stack * room);
        if (!stack)
            return -ENOMEM;
        b->stack = stack;
        b->room_stack = room;
    }
    b->stack[b->n_stack++] = node;
    return 0;
}

/* Gives a node its base and its children their cells; the children that have some go on the stack,
 * the last one first. */
static int node_visit(struct builder *b, struct node node, uint32_t ret_same[2])
{
    uint8_t labels[256];
    uint32_t starts[257], len, base;
    unsigned n = 0;
    int last = NO_CHILD;

    token_at(b->source, b->order[node.low], &len);
    if (len == node.depth && node.depth > 0) {
        b->trie.cells[node.cell] |= TRIE_TOKEN;
        b->trie.ids[node.cell] = b->order[node.low++];
        if (node.low < node.high &&
            (token_at(b->source, b->order[node.low], &len), len == node.depth)) {
            ret_same[0] = b->trie.ids[node.cell];
            ret_same[1] = b->order[node.low];
            return -EEXIST;
        }
    }
    for (uint32_t i = node.low; i < node.high; i++) {
        const char *s = token_at(b->source, b->order[i], &len);
        if ((uint8_t)s[node.depth] != last) {
            last = (uint8_t)s[node.depth];
            starts[n] = i;
            labels[n++] = (uint8_t)last;
        }
    }
    if (n == 0)
        return 0;
    starts[n] = node.high;
    int r = base_find(b, labels, n, &base);
    if (r < 0)
        return r;
    b->base_used[base] = 1;
    if (node.depth == 0)
        b->trie.root = base << TRIE_BASE_SHIFT;
    else
        b->trie.cells[node.cell] |= base << TRIE_BASE_SHIFT;
    for (unsigned i = 0; i < n; i++)
        b->trie.cells[base + labels[i]] = labels[i];
    for (unsigned i = n; i-- > 0 && r == 0;)
        r = stack_push(b,
                       (struct node){starts[i], starts[i + 1], base + labels[i], node.depth + 1});
    return r;
}

int trie_init(struct trie *ret, const struct trie_source *source, const bool *take,
              uint32_t ret_same[2])
{
    struct builder b = {.source = source, .from_one = 256, .from_many = 256};
    int r = cells_grow(&b, 512);

    b.order = malloc(sizeof *b.order * ((size_t)source->n_tokens + 1));
    if (!b.order)
        r = -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < source->n_tokens; i++)
        if (take[i])
            b.order[b.n_order++] = i;
    if (r == 0 && b.n_order > 0) {
        qsort_r(b.order, b.n_order, sizeof *b.order, compare_tokens, (void *)source);
        b.base_used[0] = 1;
        r = stack_push(&b, (struct node){0, b.n_order, 0, 0});
    }
    while (r == 0 && b.n_stack > 0)
        r = node_visit(&b, b.stack[--b.n_stack], ret_same);
    free(b.order);
    free(b.base_used);
    free(b.stack);
    if (r < 0)
        trie_done(&b.trie);
    else
        *ret = b.trie;
    return r;
}

void trie_done(struct trie *trie)
{
    free(trie->cells);
    free(trie->ids);
    *trie = (struct trie){0};
}

size_t trie_bytes(const struct trie *trie)
{
    return (sizeof *trie->cells + sizeof *trie->ids) * trie->n_cells;
}

void trie_drop(struct trie *trie, const char *s, size_t n)
{
    uint32_t base = trie->root >> TRIE_BASE_SHIFT, at = 0;

    for (size_t i = 0; i < n; i++) {
        at = base + (uint8_t)s[i];
        base = trie->cells[at] >> TRIE_BASE_SHIFT;
    }
    trie->cells[at] &= ~(uint32_t)TRIE_TOKEN;
}

uint32_t trie_find(const struct trie *trie, const char *s, size_t n)
{
    size_t len;
    uint32_t id = trie_longest(trie, s, n, &len);

    return len == n ? id : TRIE_NONE;
}

uint32_t trie_n_cells_used(const struct trie *trie)
{
    uint32_t last = trie->root >> TRIE_BASE_SHIFT;

    for (uint32_t i = 0; i < trie->n_cells; i++) {
        uint32_t base = trie->cells[i] >> TRIE_BASE_SHIFT;
        if (!(trie->cells[i] & TRIE_FREE) && base > last)
            last = base;
    }
    return last + 256;
}

/* Every base leaves room for a byte, and is the base of one node only: so a cell whose label fits
 * has one parent, and one path leads to it. */
static int bases_check(const struct trie *trie)
{
    int r = trie->n_cells >= 256 ? 0 : -EBADMSG;
    uint8_t *seen = calloc(trie->n_cells / 8 + 1, 1);

    if (!seen)
        return -ENOMEM;
    for (uint32_t i = 0; r == 0 && i <= trie->n_cells; i++) {
        uint32_t cell = i < trie->n_cells ? trie->cells[i] : trie->root;
        uint32_t base = cell >> TRIE_BASE_SHIFT;
        if (i < trie->n_cells && (cell & TRIE_LABEL) >= TRIE_FREE) {
            if (cell != TRIE_FREE)
                r = -EBADMSG;
            continue;
        }
        if (i < 256 || base > trie->n_cells - 256 || (base > 0 && seen[base / 8] >> base % 8 & 1))
            r = -EBADMSG;
        else
            seen[base / 8] |= (uint8_t)(1u << base % 8);
    }
    free(seen);
    return r;
}

int trie_check(const struct trie *trie, const struct trie_source *source, const bool *take,
               uint32_t *ret_prefix)
{
    uint32_t n_ends = 0, len;
    int r = bases_check(trie);

    if (r < 0)
        return r;
    for (uint32_t i = 0; i < trie->n_cells; i++)
        n_ends += (trie->cells[i] & TRIE_TOKEN) != 0;
    for (uint32_t id = 0; id < source->n_tokens; id++) {
        if (!take[id])
            continue;
        const uint8_t *s = (const uint8_t *)token_at(source, id, &len);
        uint32_t cell = trie->root, at = 0, prefix = TRIE_NONE;
        for (uint32_t i = 0; i < len; i++) {
            if (i > 0 && cell & TRIE_TOKEN)
                prefix = trie->ids[at];
            at = (cell >> TRIE_BASE_SHIFT) + s[i];
            cell = trie->cells[at];
            if ((cell & TRIE_LABEL) != s[i])
                return -EBADMSG;
        }
        if (len == 0 || !(cell & TRIE_TOKEN) || trie->ids[at] != id)
            return -EBADMSG;
        if (ret_prefix)
            ret_prefix[id] = prefix;
        n_ends--; /* each token has an end of its own: its id stands there */
    }
    return n_ends == 0 ? 0 : -EBADMSG;
}
