/* Owns: routing, the grouping of rows by expert, and the experts' products. */
#include "svc/model/moe.h"

#include "ops/vector.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHARE_FLOATS_MIN (1u << 14) /* less is not worth a parallel region */

struct choice {
    uint32_t row;
    float weight; /* the expert's probability */
};

struct moe {
    const struct model_shape *shape;
    struct ops_pool *pool;
    struct ops_input *input;
    uint32_t max_rows;

    struct mm_arena scratch; /* holds the float arrays */
    float *gathered;         /* (max_rows, d_model): rows of one expert */
    float *out;              /* (max_rows, d_model): what it makes of them */
    float *gate, *up;        /* (max_rows, the wider of d_expert and d_shared) */
    float *probabilities;    /* (max_rows, n_experts) */
    float *shared_weight;    /* (max_rows) */

    struct choice *choices; /* (max_rows * n_experts_used), by expert, then by row */
    uint32_t *begin;        /* (n_experts + 1): choices of an expert */
    uint8_t *chosen;        /* (max_rows, n_experts) */
    bool *bad;              /* (max_rows) */
};

/* ---- scratch ------------------------------------------------------------------------------ */

static uint32_t widest(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static size_t lay_out(struct moe *moe, const struct model_shape *shape, uint32_t max_rows,
                      float *base)
{
    uint32_t wide = widest(shape->d_expert, shape->d_shared);
    const struct {
        float **place;
        uint32_t width;
    } arrays[] = {
        {&moe->gathered, shape->d_model},
        {&moe->out, shape->d_model},
        {&moe->gate, wide},
        {&moe->up, wide},
        {&moe->probabilities, shape->n_experts},
        {&moe->shared_weight, 1},
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        if (base)
            *arrays[i].place = base + n;
        n += ((size_t)max_rows * arrays[i].width + 15) / 16 * 16;
    }
    return n * sizeof(float);
}

static uint32_t max_cols(const struct model_shape *shape)
{
    return widest(shape->d_model, widest(shape->d_expert, shape->d_shared));
}

size_t moe_bytes(const struct model_shape *shape, uint32_t max_rows)
{
    struct moe unused;
    if (!shape->n_experts)
        return 0;
    return lay_out(&unused, shape, max_rows, NULL) + ops_input_bytes(max_rows, max_cols(shape)) +
           max_rows * (shape->n_experts_used * sizeof(struct choice) + shape->n_experts + 1);
}

int moe_new(struct moe **ret, const struct model_shape *shape, struct ops_pool *pool,
            uint32_t max_rows, enum mm_huge_policy pages)
{
    struct moe *moe = calloc(1, sizeof *moe);
    if (!moe)
        return -ENOMEM;
    moe->shape = shape;
    moe->pool = pool;
    moe->max_rows = max_rows;
    int r = ops_input_new(&moe->input, max_rows, max_cols(shape));
    if (r == 0)
        r = mm_arena_map(&moe->scratch, lay_out(moe, shape, max_rows, NULL), pages, NULL, 0);
    if (r < 0)
        goto free_moe;
    lay_out(moe, shape, max_rows, (float *)moe->scratch.base);
    moe->choices = calloc((size_t)max_rows * shape->n_experts_used, sizeof *moe->choices);
    moe->begin = calloc(shape->n_experts + 1, sizeof *moe->begin);
    moe->chosen = calloc(max_rows, shape->n_experts);
    moe->bad = calloc(max_rows, sizeof *moe->bad);
    if (!moe->choices || !moe->begin || !moe->chosen || !moe->bad) {
        r = -ENOMEM;
        goto free_moe;
    }
    *ret = moe;
    return 0;
free_moe:
    moe_free(moe);
    return r;
}

void moe_free(struct moe *moe)
{
    if (!moe)
        return;
    if (moe->scratch.base)
        mm_arena_unmap(&moe->scratch);
    ops_input_free(moe->input);
    free(moe->choices);
    free(moe->begin);
    free(moe->chosen);
    free(moe->bad);
    free(moe);
}

bool moe_row_bad(const struct moe *moe, uint32_t row)
{
    return moe->bad[row];
}

/* ---- routing ------------------------------------------------------------------------------ */

/* Softmax of the row's router logits, then marks its experts. */
static void route_row(struct moe *moe, uint32_t row)
{
    uint32_t n = moe->shape->n_experts;
    float *p = moe->probabilities + (size_t)row * n;
    uint8_t *chosen = moe->chosen + (size_t)row * n;
    ops_softmax(p, n);
    memset(chosen, 0, n);
    for (uint32_t k = 0; k < moe->shape->n_experts_used; k++) {
        uint32_t best = n;
        for (uint32_t e = 0; e < n; e++)
            if (!chosen[e] && (best == n || p[e] > p[best]))
                best = e;
        chosen[best] = 1;
    }
}

/* Lists the rows of each expert. */
static void group_rows(struct moe *moe, uint32_t n_rows)
{
    uint32_t n_experts = moe->shape->n_experts, n = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        moe->begin[e] = n;
        for (uint32_t row = 0; row < n_rows; row++)
            if (moe->chosen[(size_t)row * n_experts + e])
                moe->choices[n++] = (struct choice){
                    .row = row, .weight = moe->probabilities[(size_t)row * n_experts + e]};
    }
    moe->begin[n_experts] = n;
}

/* ---- experts ------------------------------------------------------------------------------ */

/* Rows of one expert, or of the shared one, on their way in or out. */
struct rows_job {
    const struct moe *moe;
    const struct choice *choices; /* NULL: the shared expert, every row */
    const float *normed;
    float *x;
    uint32_t width;
};

static void gather_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct rows_job *job = arg;
    for (size_t i = begin; i < end; i++)
        memcpy(job->moe->gathered + i * job->width,
               job->normed + (size_t)job->choices[i].row * job->width, job->width * sizeof(float));
}

static void swiglu_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct rows_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        float *gate = job->moe->gate + i * job->width;
        ops_swiglu(gate, job->moe->up + i * job->width, job->width, gate);
    }
}

static void add_rows(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct rows_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        size_t row = job->choices ? job->choices[i].row : i;
        float weight =
            job->choices ? job->choices[i].weight : ops_sigmoid(job->moe->shared_weight[i]);
        ops_axpy(weight, job->moe->out + i * job->width, job->width, job->x + row * job->width);
    }
}

static void for_rows(const struct moe *moe, ops_pool_fn *fn, struct rows_job *job, uint32_t n)
{
    if ((size_t)n * job->width < SHARE_FLOATS_MIN)
        fn(job, 0, n, 0);
    else
        ops_pool_run(moe->pool, n, 1, fn, job);
}

/* Rows of the input that hold NaN or infinity become bad rows of the step. */
static void note_bad(struct moe *moe, const struct choice *choices, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ops_input_bad(moe->input, i))
            moe->bad[choices ? choices[i].row : i] = true;
}

/* From gate and up (n, width) to x: SwiGLU, down, weighted sum. */
static void finish_expert(struct moe *moe, const struct ops_matrix *down,
                          const struct choice *choices, uint32_t n, uint32_t width, float *x)
{
    uint32_t d_model = moe->shape->d_model;
    struct rows_job job = {.moe = moe, .choices = choices, .x = x, .width = width};
    for_rows(moe, swiglu_rows, &job, n);
    ops_input_set(moe->pool, moe->input, moe->gate, width, n, width, &down->type, 1);
    note_bad(moe, choices, n);
    const struct ops_matmul_job product = {.w = down, .y = moe->out, .y_stride = d_model};
    ops_matmul(moe->pool, moe->input, &product, 1);
    job.width = d_model;
    for_rows(moe, add_rows, &job, n);
}

static void run_expert(struct moe *moe, const struct model_layer *layer, uint32_t expert,
                       const float *normed, float *x)
{
    const struct choice *choices = moe->choices + moe->begin[expert];
    uint32_t n = moe->begin[expert + 1] - moe->begin[expert];
    uint32_t d_model = moe->shape->d_model, d_expert = moe->shape->d_expert;
    if (n == 0)
        return;
    struct rows_job job = {.moe = moe, .choices = choices, .normed = normed, .width = d_model};
    for_rows(moe, gather_rows, &job, n);
    const struct ops_matrix *gate = &layer->expert_gate[expert], *up = &layer->expert_up[expert];
    const enum ops_type types[] = {gate->type, up->type};
    ops_input_set(moe->pool, moe->input, moe->gathered, d_model, n, d_model, types, 2);
    const struct ops_matmul_job products[] = {
        {.w = gate, .y = moe->gate, .y_stride = d_expert},
        {.w = up, .y = moe->up, .y_stride = d_expert},
    };
    ops_matmul(moe->pool, moe->input, products, 2);
    finish_expert(moe, &layer->expert_down[expert], choices, n, d_expert, x);
}

void moe_run(struct moe *moe, const struct model_layer *layer, const float *normed, uint32_t n_rows,
             float *x)
{
    uint32_t d_model = moe->shape->d_model, d_shared = moe->shape->d_shared;
    memset(moe->bad, 0, n_rows * sizeof *moe->bad);
    const enum ops_type types[] = {layer->router.type, layer->shared_router.type,
                                   layer->shared_gate.type, layer->shared_up.type};
    ops_input_set(moe->pool, moe->input, normed, d_model, n_rows, d_model, types, 4);
    note_bad(moe, NULL, n_rows);
    const struct ops_matmul_job products[] = {
        {.w = &layer->router, .y = moe->probabilities, .y_stride = moe->shape->n_experts},
        {.w = &layer->shared_router, .y = moe->shared_weight, .y_stride = 1},
        {.w = &layer->shared_gate, .y = moe->gate, .y_stride = d_shared},
        {.w = &layer->shared_up, .y = moe->up, .y_stride = d_shared},
    };
    ops_matmul(moe->pool, moe->input, products, 4);
    for (uint32_t row = 0; row < n_rows; row++)
        route_row(moe, row);
    group_rows(moe, n_rows);
    /* The shared expert's products are at hand in gate and up, and go first. */
    finish_expert(moe, &layer->shared_down, NULL, n_rows, d_shared, x);
    for (uint32_t e = 0; e < moe->shape->n_experts; e++)
        run_expert(moe, layer, e, normed, x);
}
