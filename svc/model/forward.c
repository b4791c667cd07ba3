/* Owns: the forward pass of the dense model, and the scratch that it needs.
 *
 * A step works on rows: one per new token, spans one after the other. In the last layer, after
 * keys and values are stored, only the rows go on whose logits (or hidden state) somebody asked
 * for. Work on one row is done on the calling thread where it is too short to be shared. */
#include "svc/model/forward.h"

#include "ops/vector.h"
#include "svc/model/moe.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROW_ALIGNMENT    16         /* floats: rows begin on 64 bytes */
#define SHARE_FLOATS_MIN (1u << 14) /* less is not worth a parallel region */
#define CHECK_GRAIN      (1u << 14)
#define EXPONENT_OF_BAD  0x7f800000u /* float bits, sign off: infinity; above it NaN */

struct row {
    uint32_t span;
    uint32_t token;
    uint32_t position;
    float *logits, *hidden; /* where they go, or NULL */
};

struct forward {
    const struct model *model;
    struct ops_pool *pool;
    struct mm_kv *kv;
    uint32_t max_tokens, max_context;
    uint32_t d_q, d_kv, d_qkv;
    size_t kv_slice_bytes;
    struct ops_attention *attention;
    struct ops_input *input;
    struct moe *moe; /* NULL if dense */

    struct mm_arena scratch; /* holds the float arrays */
    float *x;                /* (max_tokens, d_model): the residual stream */
    float *normed;           /* (max_tokens, d_model) */
    float *qkv;              /* (max_tokens, d_qkv) */
    float *mixed;            /* (max_tokens, d_q): the output of attention */
    float *gate, *up;        /* (max_tokens, d_ff) */

    struct row *rows;                 /* (max_tokens) */
    uint32_t n_rows;                  /* that the step works on now */
    struct ops_attention_span *spans; /* (max_tokens) */
    size_t n_spans;                   /* that are not dropped */
    uint8_t **pages;                  /* of all spans, of the layer in work */
    size_t n_pages;
    int *errors; /* (max_tokens), of each span */
};

/* ---- scratch ------------------------------------------------------------------------------ */

static struct ops_attention_shape attention_shape(const struct model_shape *shape,
                                                  enum ops_kv_type kv_type)
{
    return (struct ops_attention_shape){
        .n_heads = shape->n_heads,
        .n_kv_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
        .type = kv_type,
    };
}

/* The longest row that a product reads. */
static uint32_t max_cols(const struct model_shape *shape)
{
    uint32_t max = shape->d_model, d_q = shape->n_heads * shape->head_dim;
    const uint32_t widths[] = {d_q, shape->d_ff, shape->d_expert, shape->d_shared};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        if (widths[i] > max)
            max = widths[i];
    return max;
}

static size_t padded(size_t n_floats)
{
    return (n_floats + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
}

/* Lays the float arrays out from `base` (which may be NULL: only the size is wanted). */
static size_t lay_out(struct forward *forward, const struct model_shape *shape, uint32_t max_tokens,
                      float *base)
{
    uint32_t d_q = shape->n_heads * shape->head_dim, d_kv = shape->n_kv_heads * shape->head_dim;
    struct {
        float **place;
        uint32_t width;
    } const arrays[] = {
        {&forward->x, shape->d_model},   {&forward->normed, shape->d_model},
        {&forward->qkv, d_q + 2 * d_kv}, {&forward->mixed, d_q},
        {&forward->gate, shape->d_ff},   {&forward->up, shape->d_ff},
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        if (base)
            *arrays[i].place = base + n;
        n += padded((size_t)max_tokens * arrays[i].width);
    }
    return n * sizeof(float);
}

static size_t max_pages(uint32_t max_tokens, uint32_t max_context)
{
    return max_tokens * ((size_t)max_context / OPS_KV_PAGE + 1);
}

size_t forward_kv_slice_bytes(const struct model *model, enum ops_kv_type kv_type)
{
    struct ops_attention_shape shape = attention_shape(model_shape(model), kv_type);
    return ops_kv_page_bytes(&shape);
}

size_t forward_bytes(const struct model *model, uint32_t max_tokens, uint32_t max_context,
                     unsigned n_threads)
{
    const struct model_shape *shape = model_shape(model);
    struct ops_attention_shape attention = attention_shape(shape, OPS_KV_F32);
    struct forward unused;
    return lay_out(&unused, shape, max_tokens, NULL) +
           ops_attention_bytes(&attention, max_tokens, max_context, n_threads) +
           ops_input_bytes(max_tokens, max_cols(shape)) + moe_bytes(shape, max_tokens) +
           max_tokens * (sizeof(struct row) + sizeof(struct ops_attention_span) + sizeof(int)) +
           max_pages(max_tokens, max_context) * sizeof(uint8_t *);
}

int forward_new(struct forward **ret, const struct model *model, struct ops_pool *pool,
                struct mm_kv *kv, enum ops_kv_type kv_type, uint32_t max_tokens,
                uint32_t max_context)
{
    const struct model_shape *shape = model_shape(model);
    struct ops_attention_shape attention = attention_shape(shape, kv_type);
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward)
        return -ENOMEM;
    *forward = (struct forward){
        .model = model,
        .pool = pool,
        .kv = kv,
        .max_tokens = max_tokens,
        .max_context = max_context,
        .d_q = shape->n_heads * shape->head_dim,
        .d_kv = shape->n_kv_heads * shape->head_dim,
        .kv_slice_bytes = ops_kv_page_bytes(&attention),
    };
    forward->d_qkv = forward->d_q + 2 * forward->d_kv;
    int r = forward->kv_slice_bytes ? 0 : -ENOTSUP;
    if (r == 0)
        r = ops_attention_new(&forward->attention, &attention, max_tokens, max_context,
                              ops_pool_n_threads(pool));
    if (r == 0)
        r = ops_input_new(&forward->input, max_tokens, max_cols(shape));
    if (r == 0 && shape->n_experts)
        r = moe_new(&forward->moe, shape, pool, max_tokens, model_scratch_pages(model));
    if (r == 0)
        r = mm_arena_map(&forward->scratch, lay_out(forward, shape, max_tokens, NULL),
                         model_scratch_pages(model), NULL, 0);
    if (r < 0)
        goto free_forward;
    lay_out(forward, shape, max_tokens, (float *)forward->scratch.base);
    forward->rows = calloc(max_tokens, sizeof *forward->rows);
    forward->spans = calloc(max_tokens, sizeof *forward->spans);
    forward->errors = calloc(max_tokens, sizeof *forward->errors);
    forward->pages = calloc(max_pages(max_tokens, max_context), sizeof *forward->pages);
    if (!forward->rows || !forward->spans || !forward->errors || !forward->pages) {
        r = -ENOMEM;
        goto free_forward;
    }
    *ret = forward;
    return 0;
free_forward:
    forward_free(forward);
    return r;
}

void forward_free(struct forward *forward)
{
    if (!forward)
        return;
    if (forward->scratch.base)
        mm_arena_unmap(&forward->scratch);
    ops_attention_free(forward->attention);
    ops_input_free(forward->input);
    moe_free(forward->moe);
    free(forward->rows);
    free(forward->spans);
    free(forward->errors);
    free(forward->pages);
    free(forward);
}

/* ---- work on rows ------------------------------------------------------------------------- */

/* One job over all rows of the step. */
struct row_job {
    const struct forward *forward;
    const float *weight; /* of a norm */
    const float *src;
    float *dst;
    uint32_t width;
};

/* Runs fn over the rows: shared where that pays. */
static void for_rows(const struct forward *forward, ops_pool_fn *fn, struct row_job *job)
{
    if ((size_t)forward->n_rows * job->width < SHARE_FLOATS_MIN)
        fn(job, 0, forward->n_rows, 0);
    else
        ops_pool_run(forward->pool, forward->n_rows, 1, fn, job);
}

static void embed_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct row_job *job = arg;
    for (size_t i = begin; i < end; i++)
        ops_matrix_row(model_embedding(job->forward->model), job->forward->rows[i].token,
                       job->dst + i * job->width);
}

static void norm_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct row_job *job = arg;
    float eps = model_shape(job->forward->model)->rms_eps;
    for (size_t i = begin; i < end; i++)
        ops_rmsnorm(job->src + i * job->width, job->weight, eps, job->width,
                    job->dst + i * job->width);
}

/* Rotates the queries and keys, which lie side by side in a row of qkv. */
static void rotate_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct row_job *job = arg;
    const struct model_shape *shape = model_shape(job->forward->model);
    for (size_t i = begin; i < end; i++)
        ops_rope_apply(model_rope(job->forward->model), job->dst + i * job->width,
                       shape->n_heads + shape->n_kv_heads, job->forward->rows[i].position);
}

static void swiglu_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct row_job *job = arg;
    for (size_t i = begin; i < end; i++)
        ops_swiglu(job->dst + i * job->width, job->src + i * job->width, job->width,
                   job->dst + i * job->width);
}

static void norm(struct forward *forward, const float *weight)
{
    struct row_job job = {
        .forward = forward,
        .weight = weight,
        .src = forward->x,
        .dst = forward->normed,
        .width = model_shape(forward->model)->d_model,
    };
    for_rows(forward, norm_rows, &job);
}

/* Makes n_rows rows at x, of row `first` of the step and following, the input of products; a row
 * with NaN or infinity is an error of its span. */
static void set_input(struct forward *forward, const float *x, uint32_t width, uint32_t first,
                      uint32_t n_rows, const enum ops_type *types, size_t n_types)
{
    ops_input_set(forward->pool, forward->input, x, width, n_rows, width, types, n_types);
    for (uint32_t i = 0; i < n_rows; i++)
        if (ops_input_bad(forward->input, i))
            forward->errors[forward->rows[first + i].span] = -EDOM;
}

/* ---- the layers --------------------------------------------------------------------------- */

static void attend(struct forward *forward, const struct model_layer *layer)
{
    uint32_t d_model = model_shape(forward->model)->d_model;
    norm(forward, layer->attn_norm);
    const enum ops_type types[] = {layer->wq.type, layer->wk.type, layer->wv.type};
    set_input(forward, forward->normed, d_model, 0, forward->n_rows, types, 3);
    float *q = forward->qkv, *k = q + forward->d_q, *v = k + forward->d_kv;
    const struct ops_matmul_job jobs[] = {
        {.w = &layer->wq, .bias = layer->bq, .y = q, .y_stride = forward->d_qkv},
        {.w = &layer->wk, .bias = layer->bk, .y = k, .y_stride = forward->d_qkv},
        {.w = &layer->wv, .bias = layer->bv, .y = v, .y_stride = forward->d_qkv},
    };
    ops_matmul(forward->pool, forward->input, jobs, 3);
    struct row_job rotate = {.forward = forward, .dst = q, .width = forward->d_qkv};
    for_rows(forward, rotate_rows, &rotate);
    ops_attention_run(forward->pool, forward->attention, forward->spans, forward->n_spans,
                      forward->d_qkv, forward->d_qkv, forward->d_q);
}

static void project_out(struct forward *forward, const struct model_layer *layer)
{
    uint32_t d_model = model_shape(forward->model)->d_model;
    set_input(forward, forward->mixed, forward->d_q, 0, forward->n_rows, &layer->wo.type, 1);
    const struct ops_matmul_job job = {
        .w = &layer->wo, .y = forward->x, .y_stride = d_model, .add = true};
    ops_matmul(forward->pool, forward->input, &job, 1);
}

static void feed_forward(struct forward *forward, const struct model_layer *layer)
{
    const struct model_shape *shape = model_shape(forward->model);
    norm(forward, layer->ffn_norm);
    const enum ops_type types[] = {layer->gate.type, layer->up.type};
    set_input(forward, forward->normed, shape->d_model, 0, forward->n_rows, types, 2);
    const struct ops_matmul_job wide[] = {
        {.w = &layer->gate, .y = forward->gate, .y_stride = shape->d_ff},
        {.w = &layer->up, .y = forward->up, .y_stride = shape->d_ff},
    };
    ops_matmul(forward->pool, forward->input, wide, 2);
    struct row_job swiglu = {
        .forward = forward, .src = forward->up, .dst = forward->gate, .width = shape->d_ff};
    for_rows(forward, swiglu_rows, &swiglu);
    set_input(forward, forward->gate, shape->d_ff, 0, forward->n_rows, &layer->down.type, 1);
    const struct ops_matmul_job down = {
        .w = &layer->down, .y = forward->x, .y_stride = shape->d_model, .add = true};
    ops_matmul(forward->pool, forward->input, &down, 1);
}

/* Routed and shared experts of the rows, added to the residual stream. */
static void mix_experts(struct forward *forward, const struct model_layer *layer)
{
    norm(forward, layer->ffn_norm);
    moe_run(forward->moe, layer, forward->normed, forward->n_rows, forward->x);
    for (uint32_t i = 0; i < forward->n_rows; i++)
        if (moe_row_bad(forward->moe, i))
            forward->errors[forward->rows[i].span] = -EDOM;
}

/* Keeps only the rows that somebody asked for: all that is left to compute is theirs alone. */
static void drop_unasked_rows(struct forward *forward)
{
    uint32_t d_model = model_shape(forward->model)->d_model, kept = 0;
    for (uint32_t i = 0; i < forward->n_rows; i++) {
        if (!forward->rows[i].logits && !forward->rows[i].hidden)
            continue;
        if (kept != i) {
            forward->rows[kept] = forward->rows[i];
            memcpy(forward->x + (size_t)kept * d_model, forward->x + (size_t)i * d_model,
                   d_model * sizeof(float));
            memcpy(forward->mixed + (size_t)kept * forward->d_q,
                   forward->mixed + (size_t)i * forward->d_q, forward->d_q * sizeof(float));
        }
        kept++;
    }
    forward->n_rows = kept;
}

/* ---- the head ----------------------------------------------------------------------------- */

struct check {
    const float *logits;
    int bad;
};

/* Looks for exponents of all ones: eight at a time, so that the compiler keeps them in flight. */
static void check_logits(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    struct check *check = arg;
    uint32_t most[8] = {0};
    size_t i = begin;
    for (; i + 8 <= end; i += 8) {
        uint32_t bits[8];
        memcpy(bits, check->logits + i, sizeof bits);
        for (int k = 0; k < 8; k++) {
            uint32_t magnitude = bits[k] & 0x7fffffff;
            most[k] = magnitude > most[k] ? magnitude : most[k];
        }
    }
    for (; i < end; i++) {
        uint32_t bits;
        memcpy(&bits, check->logits + i, sizeof bits);
        most[0] = (bits & 0x7fffffff) > most[0] ? bits & 0x7fffffff : most[0];
    }
    for (int k = 0; k < 8; k++)
        if (most[k] >= EXPONENT_OF_BAD)
            __atomic_store_n(&check->bad, 1, __ATOMIC_RELAXED);
}

/* Rows [first, first + n) whose logits lie `stride` floats apart: one product for all. */
static void compute_logits(struct forward *forward, uint32_t first, uint32_t n, size_t stride)
{
    const struct model_shape *shape = model_shape(forward->model);
    const struct ops_matrix *head = model_head(forward->model);
    set_input(forward, forward->normed + (size_t)first * shape->d_model, shape->d_model, first, n,
              &head->type, 1);
    const struct ops_matmul_job job = {
        .w = head, .y = forward->rows[first].logits, .y_stride = stride};
    ops_matmul(forward->pool, forward->input, &job, 1);
    for (uint32_t i = first; i < first + n; i++) {
        struct check check = {.logits = forward->rows[i].logits};
        ops_pool_run(forward->pool, shape->n_vocab, CHECK_GRAIN, check_logits, &check);
        if (check.bad)
            forward->errors[forward->rows[i].span] = -EDOM;
    }
}

/* Floats from the logits of row i to those of the next; 0 where they are not in order. */
static size_t logits_step(const struct forward *forward, uint32_t i, uint32_t n_vocab)
{
    uintptr_t a = (uintptr_t)forward->rows[i].logits, b = (uintptr_t)forward->rows[i + 1].logits;
    if (!b || b <= a || (b - a) % sizeof(float) || (b - a) / sizeof(float) < n_vocab)
        return 0;
    return (b - a) / sizeof(float);
}

static void finish_rows(struct forward *forward)
{
    const struct model_shape *shape = model_shape(forward->model);
    norm(forward, model_output_norm(forward->model));
    for (uint32_t i = 0; i < forward->n_rows; i++)
        if (forward->rows[i].hidden)
            memcpy(forward->rows[i].hidden, forward->normed + (size_t)i * shape->d_model,
                   shape->d_model * sizeof(float));
    for (uint32_t i = 0; i < forward->n_rows;) {
        if (!forward->rows[i].logits) {
            i++;
            continue;
        }
        uint32_t n = 1;
        size_t stride = shape->n_vocab;
        if (i + 1 < forward->n_rows && logits_step(forward, i, shape->n_vocab)) {
            stride = logits_step(forward, i, shape->n_vocab);
            while (i + n < forward->n_rows &&
                   logits_step(forward, i + n - 1, shape->n_vocab) == stride)
                n++;
        }
        compute_logits(forward, i, n, stride);
        i += n;
    }
}

/* ---- a step ------------------------------------------------------------------------------- */

/* Fills rows, attention spans and the table of pages (of layer 0). */
static void begin_step(struct forward *forward, const struct forward_span *spans, size_t n_spans)
{
    const struct model_shape *shape = model_shape(forward->model);
    uint32_t n = 0;
    forward->n_pages = 0;
    for (uint32_t s = 0; s < n_spans; s++) {
        const struct forward_span *span = &spans[s];
        assert(span->n_tokens > 0 && n + span->n_tokens <= forward->max_tokens &&
               span->first_position + span->n_tokens <= forward->max_context &&
               span->n_logits <= span->n_tokens && (!span->n_logits || span->logits));
        uint8_t **pages = forward->pages + forward->n_pages;
        uint32_t end = span->first_position + span->n_tokens;
        uint32_t n_pages = (end + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
        for (uint32_t p = 0; p < n_pages; p++)
            pages[p] = mm_kv_slice(forward->kv, span->pages[p], 0);
        forward->n_pages += n_pages;
        float *q = forward->qkv + (size_t)n * forward->d_qkv;
        forward->spans[s] = (struct ops_attention_span){
            .pages = pages,
            .first_position = span->first_position,
            .n_tokens = span->n_tokens,
            .q = q,
            .k = q + forward->d_q,
            .v = q + forward->d_q + forward->d_kv,
            .out = forward->mixed + (size_t)n * forward->d_q,
        };
        uint32_t first_logits = span->n_tokens - span->n_logits;
        uint32_t n_hidden = span->hidden ? span->n_hidden : 0;
        uint32_t first_hidden = span->n_tokens - n_hidden;
        for (uint32_t t = 0; t < span->n_tokens; t++, n++) {
            assert(span->tokens[t] < shape->n_vocab);
            forward->rows[n] = (struct row){
                .span = s,
                .token = span->tokens[t],
                .position = span->first_position + t,
                .logits = t < first_logits
                              ? NULL
                              : span->logits + (size_t)(t - first_logits) * shape->n_vocab,
                .hidden = t < first_hidden
                              ? NULL
                              : span->hidden + (size_t)(t - first_hidden) * shape->d_model,
            };
        }
        forward->errors[s] = 0;
    }
    forward->n_rows = n;
    forward->n_spans = n_spans;
}

/* The attention span of row `first` and following at another place among the rows. */
static struct ops_attention_span moved_span(const struct forward *forward,
                                            struct ops_attention_span span, uint32_t first)
{
    float *q = forward->qkv + (size_t)first * forward->d_qkv;
    span.q = q;
    span.k = q + forward->d_q;
    span.v = q + forward->d_q + forward->d_kv;
    span.out = forward->mixed + (size_t)first * forward->d_q;
    return span;
}

/* Between layers only the residual stream is alive: takes out the rows of spans that have an
 * error of -ECANCELED. */
static void drop_cancelled(struct forward *forward, const struct forward_span *spans)
{
    uint32_t d_model = model_shape(forward->model)->d_model, kept = 0, i = 0;
    size_t n_kept = 0;
    for (size_t s = 0; s < forward->n_spans; s++) {
        const struct ops_attention_span span = forward->spans[s];
        const uint32_t owner = forward->rows[i].span;
        if (spans[owner].error == -ECANCELED) {
            forward->errors[owner] = -ECANCELED;
        } else {
            if (kept != i) {
                memmove(forward->rows + kept, forward->rows + i,
                        span.n_tokens * sizeof *forward->rows);
                memmove(forward->x + (size_t)kept * d_model, forward->x + (size_t)i * d_model,
                        (size_t)span.n_tokens * d_model * sizeof(float));
            }
            forward->spans[n_kept++] = moved_span(forward, span, kept);
            kept += span.n_tokens;
        }
        i += span.n_tokens;
    }
    forward->n_spans = n_kept;
    forward->n_rows = kept;
}

static void look(struct forward *forward, struct forward_span *spans, size_t n_spans,
                 const struct forward_watch *watch)
{
    watch->look(watch->arg);
    for (size_t s = 0; s < n_spans; s++)
        if (spans[s].error == -ECANCELED && forward->errors[s] != -ECANCELED) {
            drop_cancelled(forward, spans);
            return;
        }
}

int forward_run(struct forward *forward, struct forward_span *spans, size_t n_spans,
                const struct forward_watch *watch)
{
    const struct model_shape *shape = model_shape(forward->model);
    assert(n_spans <= forward->max_tokens);
    for (size_t s = 0; s < n_spans; s++)
        spans[s].error = 0;
    begin_step(forward, spans, n_spans);
    struct row_job embed = {.forward = forward, .dst = forward->x, .width = shape->d_model};
    for_rows(forward, embed_rows, &embed);
    for (uint32_t i = 0; i < shape->n_layers; i++) {
        if (i > 0 && watch)
            look(forward, spans, n_spans, watch);
        if (forward->n_rows == 0)
            break;
        const struct model_layer *layer = &model_layers(forward->model)[i];
        attend(forward, layer);
        /* The slices of a page lie one after the other, one a layer. */
        for (size_t p = 0; p < forward->n_pages; p++)
            forward->pages[p] += forward->kv_slice_bytes;
        if (i + 1 == shape->n_layers)
            drop_unasked_rows(forward);
        if (forward->n_rows == 0)
            break;
        project_out(forward, layer);
        if (forward->moe)
            mix_experts(forward, layer);
        else
            feed_forward(forward, layer);
    }
    if (forward->n_rows)
        finish_rows(forward);
    for (size_t s = 0; s < n_spans; s++)
        spans[s].error = forward->errors[s];
    return forward->n_spans ? 0 : -ECANCELED;
}
