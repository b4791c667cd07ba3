/* Plans a batch of attention and runs it on the pool.
 *
 * A task is a tile of consecutive tokens of one span × one KV head; it goes through the splits of
 * 1,024 positions in order and folds them as it goes. A span of one token (decode) at depth would
 * be one task per KV head, so its splits become tasks of their own, whose results wait in a table;
 * the task that finishes last folds them, in the same order, to the same bits. Such a task also
 * stores the token's key and value itself, which saves a barrier in every layer of every step. */
#include "ops/attention.h"

#include "ops/arch/attention_kernels.h"
#include "ops/isa.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT      64
#define TILE_ROWS      96 /* heads × tokens of a tile: its arrays stay in the L2 cache */
#define DEEP_SPANS     16 /* decoding spans whose splits may be tasks of their own */
#define TASKS_A_THREAD 4  /* aimed at, so that threads end together */
#define STORE_GRAIN    16 /* tokens; 16 neighbours share cache lines of keys */

static const struct ops_attention_kernels *const tables[OPS_N_ISA] = {
    [OPS_ISA_SCALAR] = &ops_attention_kernels_scalar,
    [OPS_ISA_AVX2] = &ops_attention_kernels_avx2,
    [OPS_ISA_AVX512] = &ops_attention_kernels_avx512,
    [OPS_ISA_AVX512VNNI] = &ops_attention_kernels_avx512,
    [OPS_ISA_AMX] = &ops_attention_kernels_avx512,
};

/* How one span of the running batch is cut. */
struct plan {
    size_t first_task;
    size_t first_token; /* among tokens of spans that are stored ahead */
    uint32_t tile_tokens;
    uint32_t n_tiles;
    uint32_t n_splits;    /* tasks per tile and head: 1, or each split its own */
    float *results;       /* (n_kv_heads, n_splits, group, result_len) where n_splits > 1 */
    atomic_uint *waiting; /* (n_kv_heads): splits not finished */
};

struct ops_attention {
    struct ops_attention_shape shape;
    uint32_t group; /* query heads of a KV head */
    float scale;    /* log2(e) / sqrt(head_dim) */
    size_t page_head_bytes;
    size_t max_tokens;
    uint32_t max_splits;
    size_t n_deep; /* spans that the table of results has room for */
    unsigned n_threads;
    struct ops_attention_scratch *scratch; /* (n_threads) */
    float *results;                        /* (n_deep, n_heads, max_splits, result_len) */
    atomic_uint *waiting;                  /* (n_deep, n_kv_heads) */
    struct plan *plans;                    /* (max_tokens) */
    void *memory;                          /* what the pointers above lie in */

    /* The running batch. */
    const struct ops_attention_kernels *kernels;
    const struct ops_attention_span *spans;
    size_t n_spans, n_tasks, q_stride, kv_stride, out_stride;
};

/* ---- sizes --------------------------------------------------------------------------------- */

static int shape_ok(const struct ops_attention_shape *s)
{
    return s->n_kv_heads > 0 && s->n_heads >= s->n_kv_heads && s->n_heads % s->n_kv_heads == 0 &&
           s->n_heads <= 65536 && s->head_dim >= 16 && s->head_dim <= 256 &&
           s->head_dim % 16 == 0 &&
           (s->type == OPS_KV_F32 || s->type == OPS_KV_F16 ||
            (s->type == OPS_KV_Q8_0 && s->head_dim % 32 == 0));
}

static size_t page_head_bytes(const struct ops_attention_shape *s)
{
    const size_t len = (size_t)2 * OPS_KV_PAGE * s->head_dim;

    if (s->type == OPS_KV_Q8_0)
        return len + len / 32 * sizeof(uint16_t);
    return len * (s->type == OPS_KV_F32 ? sizeof(float) : sizeof(uint16_t));
}

size_t ops_kv_page_bytes(const struct ops_attention_shape *shape)
{
    return shape_ok(shape) ? shape->n_kv_heads * page_head_bytes(shape) : 0;
}

/* Floats of one row's result of one split: max, sum, and out on a boundary of its own. */
static size_t result_len(uint32_t head_dim)
{
    return 16 + (size_t)head_dim;
}

/* A region that is laid out twice: first to be measured (base NULL), then to be cut up. */
struct region {
    uint8_t *base;
    size_t used;
    int overflow;
};

static void *region_take(struct region *region, size_t n, size_t size)
{
    const size_t at = region->used;
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes) ||
        __builtin_add_overflow(bytes, (size_t)ALIGNMENT - 1, &bytes) ||
        __builtin_add_overflow(at, bytes / ALIGNMENT * ALIGNMENT, &region->used))
        region->overflow = 1;
    return region->base ? region->base + at : NULL;
}

static void lay_out(struct ops_attention *a, struct region *region)
{
    const size_t rows = a->group > TILE_ROWS ? a->group : TILE_ROWS;
    const size_t head_dim = a->shape.head_dim;
    size_t n_results;

    a->scratch = region_take(region, a->n_threads, sizeof(*a->scratch));
    a->plans = region_take(region, a->max_tokens, sizeof(*a->plans));
    a->waiting = region_take(region, a->n_deep * a->shape.n_kv_heads, sizeof(*a->waiting));
    if (__builtin_mul_overflow(a->n_deep * a->shape.n_heads, (size_t)a->max_splits, &n_results))
        region->overflow = 1;
    a->results = region_take(region, n_results, result_len(a->shape.head_dim) * sizeof(float));
    for (unsigned t = 0; t < a->n_threads; t++) {
        struct ops_attention_scratch s = {
            .q = region_take(region, rows * head_dim, sizeof(float)),
            .scores = region_take(region, rows * OPS_ATTENTION_BLOCK, sizeof(float)),
            .lanes = region_take(region, rows * 16, sizeof(float)),
            .shrink = region_take(region, rows, sizeof(float)),
            .keys = region_take(region, OPS_ATTENTION_BLOCK * head_dim, sizeof(float)),
            .values = region_take(region, OPS_ATTENTION_BLOCK * head_dim, sizeof(float)),
            .scales = region_take(region, OPS_ATTENTION_BLOCK * head_dim / 32, sizeof(float)),
            .max = region_take(region, rows, sizeof(float)),
            .sum = region_take(region, rows, sizeof(float)),
            .out = region_take(region, rows * head_dim, sizeof(float)),
            .all_max = region_take(region, rows, sizeof(float)),
            .all_sum = region_take(region, rows, sizeof(float)),
            .all_out = region_take(region, rows * head_dim, sizeof(float)),
        };
        if (region->base)
            a->scratch[t] = s;
    }
}

/* Fills in what follows from the arguments and measures; 0 for a shape that is not computed. */
static size_t measure(struct ops_attention *a, const struct ops_attention_shape *shape,
                      size_t max_tokens, uint32_t max_context, unsigned n_threads)
{
    struct region region = {0};

    if (!shape_ok(shape) || max_tokens == 0 || max_context == 0 || n_threads == 0)
        return 0;
    *a = (struct ops_attention){
        .shape = *shape,
        .group = shape->n_heads / shape->n_kv_heads,
        .scale = (float)(M_LOG2E / sqrt(shape->head_dim)),
        .page_head_bytes = page_head_bytes(shape),
        .max_tokens = max_tokens,
        .max_splits = (max_context - 1) / OPS_ATTENTION_SPLIT + 1,
        .n_threads = n_threads,
    };
    if (a->max_splits > 1)
        a->n_deep = max_tokens < DEEP_SPANS ? max_tokens : DEEP_SPANS;
    lay_out(a, &region);
    return region.overflow ? 0 : region.used;
}

size_t ops_attention_bytes(const struct ops_attention_shape *shape, size_t max_tokens,
                           uint32_t max_context, unsigned n_threads)
{
    struct ops_attention measured;

    return measure(&measured, shape, max_tokens, max_context, n_threads);
}

int ops_attention_new(struct ops_attention **ret, const struct ops_attention_shape *shape,
                      size_t max_tokens, uint32_t max_context, unsigned n_threads)
{
    struct ops_attention measured, *a;
    const size_t bytes = measure(&measured, shape, max_tokens, max_context, n_threads);

    if (bytes == 0)
        return -EINVAL;
    a = malloc(sizeof(*a));
    if (!a)
        return -ENOMEM;
    *a = measured;
    struct region region = {.base = aligned_alloc(ALIGNMENT, bytes)};
    if (!region.base)
        goto free_attention;
    memset(region.base, 0, bytes); /* touched now: the step loop takes no page faults */
    lay_out(a, &region);
    a->memory = region.base;
    *ret = a;
    return 0;

free_attention:
    free(a);
    return -ENOMEM;
}

void ops_attention_free(struct ops_attention *attention)
{
    if (!attention)
        return;
    free(attention->memory);
    free(attention);
}

/* ---- storing ------------------------------------------------------------------------------- */

static void store_head(const struct ops_attention *a, const struct ops_attention_span *span,
                       uint32_t token, uint32_t kv_head)
{
    const uint32_t position = span->first_position + token;
    const size_t from = token * a->kv_stride + (size_t)kv_head * a->shape.head_dim;
    uint8_t *page = span->pages[position / OPS_KV_PAGE];

    a->kernels->store(a->shape.type, a->shape.head_dim, page + kv_head * a->page_head_bytes,
                      position % OPS_KV_PAGE, span->k + from, span->v + from);
}

/* Index: tokens of the spans that are stored ahead, one after another. */
static void store_tokens(void *arg, size_t begin, size_t end, unsigned thread)
{
    const struct ops_attention *a = arg;
    size_t s = 0;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        while (a->spans[s].n_tokens == 1 || i >= a->plans[s].first_token + a->spans[s].n_tokens)
            s++;
        for (uint32_t h = 0; h < a->shape.n_kv_heads; h++)
            store_head(a, &a->spans[s], (uint32_t)(i - a->plans[s].first_token), h);
    }
}

/* ---- tasks --------------------------------------------------------------------------------- */

static struct ops_attention_tile tile_at(const struct ops_attention *a,
                                         const struct ops_attention_span *span, uint32_t token,
                                         uint32_t n_tokens, uint32_t kv_head, unsigned thread)
{
    const uint32_t head_dim = a->shape.head_dim;
    const size_t head = (size_t)kv_head * a->group * head_dim;
    const size_t len = (size_t)a->group * head_dim;

    for (uint32_t t = 0; t < n_tokens; t++)
        a->kernels->scale(len, a->scale, span->q + (token + t) * a->q_stride + head,
                          a->scratch[thread].q + t * len);
    return (struct ops_attention_tile){
        .type = a->shape.type,
        .head_dim = head_dim,
        .group = a->group,
        .first_position = span->first_position + token,
        .n_tokens = n_tokens,
        .pages = span->pages,
        .head_offset = kv_head * a->page_head_bytes,
        .scratch = &a->scratch[thread],
    };
}

/* Adds the split in scratch to the fold, for rows [first, end); the first split is copied. */
static void fold_rows(const struct ops_attention *a, struct ops_attention_scratch *s,
                      uint32_t first, uint32_t end, int is_first_split)
{
    const size_t head_dim = a->shape.head_dim;

    if (is_first_split) {
        memcpy(s->all_max, s->max, end * sizeof(float));
        memcpy(s->all_sum, s->sum, end * sizeof(float));
        memcpy(s->all_out, s->out, end * head_dim * sizeof(float));
        return;
    }
    for (uint32_t r = first; r < end; r++)
        a->kernels->fold(a->shape.head_dim, s->max[r], s->sum[r], s->out + r * head_dim,
                         &s->all_max[r], &s->all_sum[r], s->all_out + r * head_dim);
}

/* What a thread reads next: the pages of a block, for one KV head. */
struct pages {
    const uint8_t *heads[OPS_ATTENTION_BLOCK_PAGES];
};

static struct pages pages_at(const struct ops_attention *a, const struct ops_attention_span *span,
                             uint32_t position, uint32_t kv_head)
{
    const uint32_t last = (span->first_position + span->n_tokens - 1) / OPS_KV_PAGE;
    uint32_t page = position / OPS_KV_PAGE;
    struct pages pages;

    for (size_t i = 0; i < OPS_ATTENTION_BLOCK_PAGES; i++, page += page < last)
        pages.heads[i] = span->pages[page] + kv_head * a->page_head_bytes;
    return pages;
}

/* All splits of a tile, on one thread. `next`: what this thread will probably read afterwards. */
static void run_tile(const struct ops_attention *a, const struct ops_attention_span *span,
                     uint32_t token, uint32_t n_tokens, uint32_t kv_head, const struct pages *next,
                     unsigned thread)
{
    const struct ops_attention_tile tile = tile_at(a, span, token, n_tokens, kv_head, thread);
    const uint32_t head_dim = a->shape.head_dim, past_last = tile.first_position + n_tokens;
    struct ops_attention_scratch *s = tile.scratch;

    for (uint32_t begin = 0; begin < past_last; begin += OPS_ATTENTION_SPLIT) {
        const uint32_t first_token = begin > tile.first_position ? begin - tile.first_position : 0;
        const bool is_last = past_last - begin <= OPS_ATTENTION_SPLIT;
        const struct pages more =
            is_last ? *next : pages_at(a, span, begin + OPS_ATTENTION_SPLIT, kv_head);
        a->kernels->split(&tile, begin, more.heads);
        fold_rows(a, s, first_token * a->group, n_tokens * a->group, begin == 0);
        if (is_last)
            break;
    }
    for (uint32_t r = 0; r < n_tokens * a->group; r++) {
        float *out = span->out + (token + r / a->group) * a->out_stride +
                     ((size_t)kv_head * a->group + r % a->group) * head_dim;
        a->kernels->finish(head_dim, s->all_sum[r], s->all_out + (size_t)r * head_dim, out);
    }
}

/* Folds the splits of one KV head, which now all lie in the table. */
static void merge_splits(const struct ops_attention *a, const struct ops_attention_span *span,
                         const struct plan *plan, uint32_t kv_head, unsigned thread)
{
    const uint32_t head_dim = a->shape.head_dim;
    const size_t len = result_len(head_dim);
    const float *results = plan->results + (size_t)kv_head * plan->n_splits * a->group * len;
    float *all_out = a->scratch[thread].all_out;

    for (uint32_t g = 0; g < a->group; g++) {
        const float *result = results + g * len;
        float max = result[0], sum = result[1];
        memcpy(all_out, result + 16, head_dim * sizeof(float));
        for (uint32_t i = 1; i < plan->n_splits; i++) {
            result += a->group * len;
            a->kernels->fold(head_dim, result[0], result[1], result + 16, &max, &sum, all_out);
        }
        a->kernels->finish(head_dim, sum, all_out,
                           span->out + ((size_t)kv_head * a->group + g) * head_dim);
    }
}

/* One split of a span of one token. */
static void run_split(const struct ops_attention *a, const struct ops_attention_span *span,
                      const struct plan *plan, uint32_t index, uint32_t kv_head,
                      const struct pages *next, unsigned thread)
{
    const struct ops_attention_tile tile = tile_at(a, span, 0, 1, kv_head, thread);
    const struct ops_attention_scratch *s = tile.scratch;
    const uint32_t head_dim = a->shape.head_dim;
    const size_t len = result_len(head_dim);
    float *result = plan->results + ((size_t)kv_head * plan->n_splits + index) * a->group * len;

    a->kernels->split(&tile, index * OPS_ATTENTION_SPLIT, next->heads);
    for (uint32_t g = 0; g < a->group; g++, result += len) {
        result[0] = s->max[g];
        result[1] = s->sum[g];
        memcpy(result + 16, s->out + (size_t)g * head_dim, head_dim * sizeof(float));
    }
    /* Releases this split's result, and acquires all others' in the task that counts to zero. */
    if (atomic_fetch_sub_explicit(&plan->waiting[kv_head], 1, memory_order_acq_rel) == 1)
        merge_splits(a, span, plan, kv_head, thread);
}

/* What a task of a span stands for. */
static uint32_t task_kv_head(const struct ops_attention *a, const struct plan *plan, size_t task)
{
    return (uint32_t)((task - plan->first_task) % a->shape.n_kv_heads);
}
static uint32_t task_index(const struct ops_attention *a, const struct plan *plan, size_t task)
{
    return (uint32_t)((task - plan->first_task) / a->shape.n_kv_heads);
}

/* The span that a task belongs to, which is `s` or a later one. */
static size_t span_of(const struct ops_attention *a, size_t s, size_t task)
{
    while (s + 1 < a->n_spans && a->plans[s + 1].first_task <= task)
        s++;
    return s;
}

/* What a task, of span `s` or a later one, reads first. */
static struct pages task_pages(const struct ops_attention *a, size_t s, size_t task)
{
    const struct plan *plan = &a->plans[s = span_of(a, s, task)];
    uint32_t split = 0;

    if (plan->n_splits > 1)
        split = plan->n_splits - 1 - task_index(a, plan, task);
    return pages_at(a, &a->spans[s], split * OPS_ATTENTION_SPLIT, task_kv_head(a, plan, task));
}

/* `next`: what this thread will probably read afterwards. */
static void run_task(const struct ops_attention *a, size_t s, size_t task, const struct pages *next,
                     unsigned thread)
{
    const struct ops_attention_span *span = &a->spans[s];
    const struct plan *plan = &a->plans[s];
    const uint32_t kv_head = task_kv_head(a, plan, task), index = task_index(a, plan, task);

    if (span->n_tokens == 1 && index == 0) {
        /* The one split that reads the new position is the last, which is handed out first. */
        store_head(a, span, 0, kv_head);
    }
    if (plan->n_splits > 1) {
        run_split(a, span, plan, plan->n_splits - 1 - index, kv_head, next, thread);
    } else {
        /* Later tiles see more positions: longest first, so that threads end together. */
        const uint32_t token = (plan->n_tiles - 1 - index) * plan->tile_tokens;
        const uint32_t left = span->n_tokens - token;
        run_tile(a, span, token, left < plan->tile_tokens ? left : plan->tile_tokens, kv_head, next,
                 thread);
    }
}

static void run_tasks(void *arg, size_t begin, size_t end, unsigned thread)
{
    const struct ops_attention *a = arg;
    size_t s = 0, more = a->n_spans;

    /* The last span whose first task is not after `begin`. */
    while (more - s > 1) {
        const size_t middle = s + (more - s) / 2;
        if (a->plans[middle].first_task <= begin)
            s = middle;
        else
            more = middle;
    }
    for (size_t i = begin; i < end; i++) {
        /* Short runs of tasks go to the threads in turn; after the last nothing new is fetched. */
        const size_t after = i + 1 < end ? i + 1 : i + a->n_threads;
        s = span_of(a, s, i);
        const struct pages next = task_pages(a, s, after < a->n_tasks ? after : i);
        run_task(a, s, i, &next, thread);
    }
}

/* ---- the batch ----------------------------------------------------------------------------- */

static uint32_t tile_tokens(const struct ops_attention *a, uint32_t n_tokens)
{
    const uint32_t most = TILE_ROWS / a->group ? TILE_ROWS / a->group : 1;
    const size_t tasks = (size_t)TASKS_A_THREAD * a->n_threads;
    const size_t fair = ((size_t)n_tokens * a->shape.n_kv_heads + tasks - 1) / tasks;

    return fair < most ? (uint32_t)fair : most;
}

/* Cuts the batch up; returns the number of tasks, and of tokens that are to be stored ahead. */
static size_t make_plans(struct ops_attention *a, size_t *ret_n_store)
{
    size_t n_tasks = 0, n_store = 0, n_deep = 0;

    for (size_t i = 0; i < a->n_spans; i++) {
        const struct ops_attention_span *span = &a->spans[i];
        struct plan *plan = &a->plans[i];
        const uint32_t n_splits =
            (span->first_position + span->n_tokens - 1) / OPS_ATTENTION_SPLIT + 1;

        *plan = (struct plan){.first_task = n_tasks, .first_token = n_store, .n_splits = 1};
        plan->tile_tokens = tile_tokens(a, span->n_tokens);
        plan->n_tiles = (span->n_tokens - 1) / plan->tile_tokens + 1;
        if (span->n_tokens > 1) {
            n_store += span->n_tokens;
        } else if (n_splits > 1 && n_splits <= a->max_splits && n_deep < a->n_deep) {
            plan->n_splits = n_splits;
            plan->results = a->results + n_deep * a->shape.n_heads * a->max_splits *
                                             result_len(a->shape.head_dim);
            plan->waiting = a->waiting + n_deep * a->shape.n_kv_heads;
            for (uint32_t h = 0; h < a->shape.n_kv_heads; h++)
                atomic_init(&plan->waiting[h], n_splits);
            n_deep++;
        }
        n_tasks += (size_t)plan->n_tiles * plan->n_splits * a->shape.n_kv_heads;
    }
    *ret_n_store = n_store;
    return n_tasks;
}

void ops_attention_run(struct ops_pool *pool, struct ops_attention *attention,
                       const struct ops_attention_span *spans, size_t n_spans, size_t q_stride,
                       size_t kv_stride, size_t out_stride)
{
    struct ops_attention *a = attention;
    size_t n_store;

    if (n_spans == 0)
        return;
    a->kernels = tables[ops_isa()];
    a->spans = spans;
    a->n_spans = n_spans;
    a->q_stride = q_stride;
    a->kv_stride = kv_stride;
    a->out_stride = out_stride;
    a->n_tasks = make_plans(a, &n_store);
    if (n_store)
        ops_pool_run(pool, n_store, STORE_GRAIN, store_tokens, a);
    ops_pool_run(pool, a->n_tasks, 1, run_tasks, a);
}
