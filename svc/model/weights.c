/* Owns: the layout of weights in the arena, and their packing.
 *
 * Weights are read once, in file order, through the reader's staging buffers, and packed on all
 * cores into their place while further reads are under way: never two copies in memory. */
#include "svc/model/weights.h"

#include "mm/reader.h"
#include "ops/arch/half.h"
#include "svc/model/shape.h"
#include "svc/model/vocab.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define ARENA_ALIGNMENT   64
#define READ_BUFFER_BYTES (1u << 20)
#define READ_DEPTH        8 /* what the reader takes by itself */
#define PACK_GRAIN_GROUPS 4
#define OPTIONAL          1 /* flag of add_vector: biases may be absent */

/* A matrix (or a vector of float32) and both of its places. A stack of experts is as many
 * placements as experts, since each begins a group of rows of its own. */
struct model_placement {
    unsigned file;
    uint64_t file_offset;
    size_t file_bytes;
    size_t arena_offset, arena_bytes; /* bytes rounded up to the alignment */
    enum ops_type type;               /* in the file */
    uint32_t n_rows, n_cols;
    struct ops_matrix *matrix; /* filled in by the load; NULL for a vector */
    const float **vector;
};

struct plan {
    struct model_weights *weights;
    const struct gguf *gguf;
    const struct model_shape *shape;
    uint64_t bytes_by_type[OPS_BF16 + 1]; /* of matrices, in the file */
    char *why;
    size_t why_size;
};

#define FAIL(plan, error, ...) (snprintf((plan)->why, (plan)->why_size, __VA_ARGS__), (error))

/* ---- the plan ----------------------------------------------------------------------------- */

static int add_placement(struct plan *plan, const struct model_placement *placement,
                         size_t arena_bytes)
{
    struct model_weights *w = plan->weights;
    if (w->n_placements == w->max_placements) {
        size_t max = w->max_placements ? 2 * w->max_placements : 512;
        struct model_placement *grown = realloc(w->placements, max * sizeof *grown);
        if (!grown)
            return FAIL(plan, -ENOMEM, "no memory for the plan of the weights");
        w->placements = grown;
        w->max_placements = max;
    }
    size_t start = w->arena_bytes, end;
    if (__builtin_add_overflow(start, arena_bytes, &end) ||
        __builtin_add_overflow(end, ARENA_ALIGNMENT - 1, &end))
        return FAIL(plan, -EBADMSG, "the weights are larger than memory can be");
    w->placements[w->n_placements] = *placement;
    w->placements[w->n_placements++].arena_bytes = end / ARENA_ALIGNMENT * ARENA_ALIGNMENT - start;
    w->arena_bytes = end / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    w->file_bytes += placement->file_bytes;
    return 0;
}

/* n_matrices matrices of one tensor: 1, or the experts of a stack (then the tensor has a third
 * dimension). */
static int add_matrices(struct plan *plan, struct ops_matrix *matrices, uint32_t n_matrices,
                        bool stacked, int64_t layer, const char *name, uint32_t n_cols,
                        uint32_t n_rows)
{
    const struct gguf_tensor *tensor;
    int r = model_need_tensor(&tensor, plan->gguf, layer, name, n_cols, n_rows,
                              stacked ? n_matrices : 0, plan->why, plan->why_size);
    if (r < 0)
        return r;
    enum ops_type type = (enum ops_type)tensor->type;
    size_t packed = ops_matrix_bytes(type, n_rows, n_cols);
    if (packed == 0)
        return FAIL(plan, -ENOTSUP, "tensor %.*s has a size that quern does not compute",
                    (int)tensor->name.length, tensor->name.data);
    struct model_placement placement = {
        .file = tensor->file,
        .file_bytes = tensor->bytes / n_matrices,
        .type = type,
        .n_rows = n_rows,
        .n_cols = n_cols,
    };
    for (uint32_t i = 0; i < n_matrices && r == 0; i++) {
        placement.file_offset = tensor->offset + i * (uint64_t)placement.file_bytes;
        placement.matrix = &matrices[i];
        r = add_placement(plan, &placement, packed);
    }
    plan->bytes_by_type[type] += tensor->bytes;
    return r;
}

/* A matrix that every token reads whole. */
static int add_matrix(struct plan *plan, struct ops_matrix *matrix, int64_t layer, const char *name,
                      uint32_t n_cols, uint32_t n_rows)
{
    uint64_t before = plan->weights->file_bytes;
    int r = add_matrices(plan, matrix, 1, false, layer, name, n_cols, n_rows);
    plan->weights->token_bytes += plan->weights->file_bytes - before;
    return r;
}

static int add_vector(struct plan *plan, const float **vector, int64_t layer, const char *name,
                      uint32_t n, int flags)
{
    const struct gguf_tensor *tensor = model_find_tensor(plan->gguf, layer, name);
    if (!tensor && flags & OPTIONAL)
        return 0;
    int r = model_need_tensor(&tensor, plan->gguf, layer, name, n, 0, 0, plan->why, plan->why_size);
    if (r < 0)
        return r;
    if (tensor->type != OPS_F32 && tensor->type != OPS_F16 && tensor->type != OPS_BF16)
        return FAIL(plan, -ENOTSUP,
                    "tensor %.*s has the type %s: a vector must be F32, F16 or BF16",
                    (int)tensor->name.length, tensor->name.data, ops_type_name(tensor->type));
    struct model_placement placement = {
        .file = tensor->file,
        .file_offset = tensor->offset,
        .file_bytes = tensor->bytes,
        .type = (enum ops_type)tensor->type,
        .n_rows = 1,
        .n_cols = n,
        .vector = vector,
    };
    return add_placement(plan, &placement, n * sizeof(float));
}

static int plan_attention(struct plan *plan, struct model_layer *layer, int64_t i)
{
    const struct model_shape *s = plan->shape;
    uint32_t d_q = s->n_heads * s->head_dim, d_kv = s->n_kv_heads * s->head_dim;
    int r = add_vector(plan, &layer->attn_norm, i, "attn_norm.weight", s->d_model, 0);
    if (r == 0)
        r = add_vector(plan, &layer->bq, i, "attn_q.bias", d_q, OPTIONAL);
    if (r == 0)
        r = add_vector(plan, &layer->bk, i, "attn_k.bias", d_kv, OPTIONAL);
    if (r == 0)
        r = add_vector(plan, &layer->bv, i, "attn_v.bias", d_kv, OPTIONAL);
    if (r == 0)
        r = add_matrix(plan, &layer->wq, i, "attn_q.weight", s->d_model, d_q);
    if (r == 0)
        r = add_matrix(plan, &layer->wk, i, "attn_k.weight", s->d_model, d_kv);
    if (r == 0)
        r = add_matrix(plan, &layer->wv, i, "attn_v.weight", s->d_model, d_kv);
    if (r == 0)
        r = add_matrix(plan, &layer->wo, i, "attn_output.weight", d_q, s->d_model);
    if (r == 0)
        r = add_vector(plan, &layer->ffn_norm, i, "ffn_norm.weight", s->d_model, 0);
    return r;
}

static int plan_dense(struct plan *plan, struct model_layer *layer, int64_t i)
{
    const struct model_shape *s = plan->shape;
    int r = add_matrix(plan, &layer->gate, i, "ffn_gate.weight", s->d_model, s->d_ff);
    if (r == 0)
        r = add_matrix(plan, &layer->up, i, "ffn_up.weight", s->d_model, s->d_ff);
    if (r == 0)
        r = add_matrix(plan, &layer->down, i, "ffn_down.weight", s->d_ff, s->d_model);
    return r;
}

static int plan_moe(struct plan *plan, struct model_layer *layer, int64_t i)
{
    const struct model_shape *s = plan->shape;
    layer->expert_gate = plan->weights->experts + (size_t)i * 3 * s->n_experts;
    layer->expert_up = layer->expert_gate + s->n_experts;
    layer->expert_down = layer->expert_up + s->n_experts;
    int r = add_matrix(plan, &layer->router, i, "ffn_gate_inp.weight", s->d_model, s->n_experts);
    uint64_t before = plan->weights->file_bytes;
    if (r == 0)
        r = add_matrices(plan, layer->expert_gate, s->n_experts, true, i, "ffn_gate_exps.weight",
                         s->d_model, s->d_expert);
    if (r == 0)
        r = add_matrices(plan, layer->expert_up, s->n_experts, true, i, "ffn_up_exps.weight",
                         s->d_model, s->d_expert);
    if (r == 0)
        r = add_matrices(plan, layer->expert_down, s->n_experts, true, i, "ffn_down_exps.weight",
                         s->d_expert, s->d_model);
    plan->weights->token_bytes +=
        (plan->weights->file_bytes - before) / s->n_experts * s->n_experts_used;
    if (r == 0)
        r = add_matrix(plan, &layer->shared_router, i, "ffn_gate_inp_shexp.weight", s->d_model, 1);
    if (r == 0)
        r = add_matrix(plan, &layer->shared_gate, i, "ffn_gate_shexp.weight", s->d_model,
                       s->d_shared);
    if (r == 0)
        r = add_matrix(plan, &layer->shared_up, i, "ffn_up_shexp.weight", s->d_model, s->d_shared);
    if (r == 0)
        r = add_matrix(plan, &layer->shared_down, i, "ffn_down_shexp.weight", s->d_shared,
                       s->d_model);
    return r;
}

static void summarize_types(struct plan *plan)
{
    char *summary = plan->weights->type_summary;
    size_t length = 0;
    uint64_t total = 0;
    for (size_t t = 0; t <= OPS_BF16; t++)
        total += plan->bytes_by_type[t];
    for (;;) {
        size_t most = 0;
        for (size_t t = 1; t <= OPS_BF16; t++)
            if (plan->bytes_by_type[t] > plan->bytes_by_type[most])
                most = t;
        if (plan->bytes_by_type[most] <= total / 100 ||
            length >= sizeof plan->weights->type_summary)
            return;
        length += (size_t)snprintf(summary + length, sizeof plan->weights->type_summary - length,
                                   "%s%s", length ? " + " : "", ops_type_name((uint32_t)most));
        plan->bytes_by_type[most] = 0;
    }
}

static int compare_places(const void *a, const void *b)
{
    const struct model_placement *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return (x->file_offset > y->file_offset) - (x->file_offset < y->file_offset);
}

/* The arena has the order of the file, so that it fills from its start on, behind the thread that
 * populates it. */
static void lay_out(struct model_weights *weights)
{
    qsort(weights->placements, weights->n_placements, sizeof *weights->placements, compare_places);
    size_t offset = 0;
    for (size_t i = 0; i < weights->n_placements; i++) {
        weights->placements[i].arena_offset = offset;
        offset += weights->placements[i].arena_bytes;
    }
}

/* What packing makes of a few rows that have every byte value: changes when the packing does. */
static void hash_packing(XXH3_state_t *hash, uint32_t type)
{
    enum { COLS = 256, ROWS = OPS_GROUP_ROWS - 1 };
    const struct ops_type_info *info = ops_type_info(type);
    size_t bytes = info ? ops_matrix_group_bytes((enum ops_type)type, COLS) : 0;
    if (bytes == 0)
        return;
    uint8_t rows[ROWS * COLS * sizeof(float)], *group;
    size_t row_bytes = COLS / info->block_len * info->block_bytes;
    assert(row_bytes * ROWS <= sizeof rows);
    for (size_t i = 0; i < sizeof rows; i++)
        rows[i] = (uint8_t)(i * 2654435761u >> 15);
    group = aligned_alloc(ARENA_ALIGNMENT, bytes);
    if (!group)
        return;
    ops_matrix_pack_group((enum ops_type)type, COLS, ROWS, rows, row_bytes, group);
    XXH3_64bits_update(hash, group, bytes);
    free(group);
}

int model_weights_plan(struct model_weights *ret, const struct gguf *gguf,
                       const struct model_shape *shape, char *why, size_t why_size)
{
    *ret = (struct model_weights){.n_layers = shape->n_layers, .arena.fd = -1};
    struct plan plan = {
        .weights = ret, .gguf = gguf, .shape = shape, .why = why, .why_size = why_size};
    ret->layers = calloc(shape->n_layers, sizeof *ret->layers);
    if (shape->n_experts)
        ret->experts = calloc((size_t)shape->n_layers * 3 * shape->n_experts, sizeof *ret->experts);
    int r = 0;
    if (!ret->layers || (shape->n_experts && !ret->experts))
        r = FAIL(&plan, -ENOMEM, "no memory for the plan of the weights");
    for (uint32_t i = 0; i < shape->n_layers && r == 0; i++) {
        r = plan_attention(&plan, &ret->layers[i], i);
        if (r == 0)
            r = shape->n_experts ? plan_moe(&plan, &ret->layers[i], i)
                                 : plan_dense(&plan, &ret->layers[i], i);
    }
    if (r == 0)
        r = add_vector(&plan, &ret->output_norm, -1, "output_norm.weight", shape->d_model, 0);
    /* Of the embedding a token reads one row only, unless it is the head, too. */
    if (r == 0)
        r = add_matrices(&plan, &ret->embedding, 1, false, -1, "token_embd.weight", shape->d_model,
                         shape->n_vocab);
    if (r == 0 && shape->tied_head)
        ret->token_bytes += ret->placements[ret->n_placements - 1].file_bytes;
    if (r == 0 && !shape->tied_head)
        r = add_matrix(&plan, &ret->head, -1, "output.weight", shape->d_model, shape->n_vocab);
    if (r < 0) {
        model_weights_done(ret);
        return r;
    }
    summarize_types(&plan);
    lay_out(ret);
    return 0;
}

uint64_t model_weights_layout(const struct model_weights *weights)
{
    XXH3_state_t *hash = XXH3_createState();
    if (!hash)
        return 0;
    XXH3_64bits_reset(hash);
    for (size_t i = 0; i < weights->n_placements; i++) {
        const struct model_placement *p = &weights->placements[i];
        const uint64_t fields[] = {p->type, p->n_rows,      p->n_cols,      p->matrix != NULL,
                                   p->file, p->file_offset, p->arena_offset};
        XXH3_64bits_update(hash, fields, sizeof fields);
    }
    for (uint32_t type = 0; type <= OPS_BF16; type++)
        hash_packing(hash, type);
    uint64_t layout = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return layout;
}

void model_weights_point(struct model_weights *weights)
{
    for (size_t i = 0; i < weights->n_placements; i++) {
        const struct model_placement *p = &weights->placements[i];
        const uint8_t *place = weights->arena.base + p->arena_offset;
        if (p->matrix)
            *p->matrix = (struct ops_matrix){p->type, p->n_rows, p->n_cols, place};
        else
            *p->vector = (const float *)place;
    }
    if (!weights->head.data)
        weights->head = weights->embedding;
}

void model_weights_done(struct model_weights *weights)
{
    if (weights->arena.base)
        mm_arena_unmap(&weights->arena);
    free(weights->layers);
    free(weights->experts);
    free(weights->placements);
    *weights = (struct model_weights){.arena.fd = -1};
}

/* ---- packing ------------------------------------------------------------------------------ */

struct load {
    struct model_weights *weights;
    const struct model_options *options;
    struct ops_pool *pool;
    const struct model_vocab_job *beside;
    XXH3_state_t *content; /* hash of what was read, in file order; NULL: nobody wants it */
    uint64_t done;
};

/* One part of a piece: whole groups of rows, the last perhaps not full. */
struct pack {
    const struct model_placement *placement;
    const uint8_t *src;
    uint8_t *dst;
    size_t row_bytes, group_bytes;
    uint32_t n_rows; /* in this part */
    XXH3_state_t *content;
    size_t length; /* bytes of the part */
};

/* Task 0 takes the part into the hash, while the other threads pack: task i is group i - 1. */
static void pack_groups(void *arg, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    const struct pack *pack = arg;
    const struct model_placement *p = pack->placement;
    if (begin == 0 && pack->content)
        XXH3_128bits_update(pack->content, pack->src, pack->length);
    for (size_t g = begin ? begin - 1 : 0; g + 1 < end; g++) {
        uint32_t left = pack->n_rows - (uint32_t)g * OPS_GROUP_ROWS;
        ops_matrix_pack_group(p->type, p->n_cols, left < OPS_GROUP_ROWS ? left : OPS_GROUP_ROWS,
                              pack->src + g * OPS_GROUP_ROWS * pack->row_bytes, pack->row_bytes,
                              pack->dst + g * pack->group_bytes);
    }
}

static int pack_part(const struct load *load, const struct model_placement *p, size_t done,
                     const void *data, size_t length)
{
    struct pack pack = {
        .placement = p,
        .src = data,
        .row_bytes = p->file_bytes / p->n_rows,
        .group_bytes = ops_matrix_group_bytes(p->type, p->n_cols),
        .content = load->content,
        .length = length,
    };
    size_t first_row = done / pack.row_bytes;
    assert(first_row % OPS_GROUP_ROWS == 0 && length % pack.row_bytes == 0);
    pack.n_rows = (uint32_t)(length / pack.row_bytes);
    size_t n_groups = (pack.n_rows + OPS_GROUP_ROWS - 1) / OPS_GROUP_ROWS;
    size_t offset = p->arena_offset + first_row / OPS_GROUP_ROWS * pack.group_bytes;
    int r = mm_arena_await(&load->weights->arena, offset + n_groups * pack.group_bytes);
    if (r < 0)
        return r;
    pack.dst = load->weights->arena.base + offset;
    /* A worker whose processor has the tokenizer's thread, too, makes everybody wait: then one packs,
     * which is faster than disks are. */
    if (model_vocab_is_building(load->beside))
        pack_groups(&pack, 0, n_groups + 1, 0);
    else
        ops_pool_run(load->pool, n_groups + 1, PACK_GRAIN_GROUPS, pack_groups, &pack);
    return 0;
}

static int convert_vector(const struct load *load, const struct model_placement *p,
                          const void *data, size_t length)
{
    int r = mm_arena_await(&load->weights->arena, p->arena_offset + p->arena_bytes);
    if (r < 0)
        return r;
    if (load->content)
        XXH3_128bits_update(load->content, data, length);
    float *dst = (float *)(load->weights->arena.base + p->arena_offset);
    for (uint32_t i = 0; i < p->n_cols; i++) {
        if (p->type == OPS_F32) {
            memcpy(dst + i, (const char *)data + i * sizeof(float), sizeof(float));
            continue;
        }
        uint16_t half;
        memcpy(&half, (const char *)data + i * sizeof half, sizeof half);
        dst[i] = p->type == OPS_F16 ? ops_float_of_f16(half) : ops_float_of_bf16(half);
    }
    return 0;
}

static int part_arrived(void *arg, const struct mm_read *piece, size_t done, const void *data,
                        size_t length)
{
    struct load *load = arg;
    const struct model_placement *p = piece->tag;
    int r =
        p->matrix ? pack_part(load, p, done, data, length) : convert_vector(load, p, data, length);
    if (r < 0)
        return r;
    load->done += length;
    if (load->options->progress)
        return load->options->progress(load->options->progress_arg, load->done,
                                       load->weights->file_bytes);
    return 0;
}

/* The pieces, in file order as the placements are; *ret_unit is the largest that must arrive whole. */
static struct mm_read *make_reads(const struct model_weights *weights, size_t *ret_unit)
{
    struct mm_read *reads = calloc(weights->n_placements, sizeof *reads);
    if (!reads)
        return NULL;
    *ret_unit = 0;
    for (size_t i = 0; i < weights->n_placements; i++) {
        struct model_placement *p = &weights->placements[i];
        reads[i] = (struct mm_read){
            .file = p->file,
            .offset = p->file_offset,
            .length = p->file_bytes,
            .tag = p,
            .unit = p->matrix ? p->file_bytes / p->n_rows * OPS_GROUP_ROWS : p->file_bytes,
        };
        if (reads[i].unit > *ret_unit)
            *ret_unit = reads[i].unit;
    }
    return reads;
}

static int part_hashed(void *arg, const struct mm_read *piece, size_t done, const void *data,
                       size_t length)
{
    (void)piece;
    (void)done;
    XXH3_128bits_update(arg, data, length);
    return 0;
}

/* Every part of every tensor in file order. */
static int read_all(const struct model_weights *weights, const struct gguf *gguf, mm_reader_fn *fn,
                    void *arg, char *mode, size_t mode_size, char *why, size_t why_size)
{
    struct mm_reader *reader = NULL;
    size_t unit;
    struct mm_read *reads = make_reads(weights, &unit);
    if (!reads)
        return -ENOMEM;
    struct mm_reader_options options = {.buffer_bytes =
                                            unit > READ_BUFFER_BYTES ? unit : READ_BUFFER_BYTES};
    if (weights->file_bytes < READ_DEPTH * options.buffer_bytes) /* a small file: few buffers */
        options.depth = (unsigned)(weights->file_bytes / options.buffer_bytes) + 1;
    int r = mm_reader_new(&reader, &options, why, why_size);
    for (unsigned i = 0; i < gguf_n_files(gguf) && r == 0; i++) {
        unsigned file;
        r = mm_reader_add_file(reader, gguf_path(gguf, i), &file, why, why_size);
        assert(r < 0 || file == i);
    }
    if (r == 0)
        r = mm_reader_run(reader, reads, weights->n_placements, fn, arg, why, why_size);
    if (r == 0)
        snprintf(mode, mode_size, "%s", mm_reader_mode(reader));
    mm_reader_free(reader);
    free(reads);
    return r;
}

static void take_digest(const XXH3_state_t *content, uint64_t ret_content[2])
{
    XXH128_hash_t digest = XXH3_128bits_digest(content);
    ret_content[0] = digest.low64;
    ret_content[1] = digest.high64;
}

int model_weights_pack(struct model_weights *weights, const struct gguf *gguf,
                       const struct model_options *options, struct ops_pool *pool,
                       const struct model_vocab_job *beside, uint64_t ret_content[2], char *mode,
                       size_t mode_size, char *why, size_t why_size)
{
    struct load load = {
        .weights = weights,
        .options = options,
        .pool = pool,
        .beside = beside,
        .content = ret_content ? XXH3_createState() : NULL,
    };
    if (ret_content && !load.content)
        return -ENOMEM;
    if (load.content)
        XXH3_128bits_reset(load.content);
    int r = read_all(weights, gguf, part_arrived, &load, mode, mode_size, why, why_size);
    if (r == 0 && load.content)
        take_digest(load.content, ret_content);
    XXH3_freeState(load.content);
    return r;
}

int model_weights_hash(const struct model_weights *weights, const struct gguf *gguf,
                       uint64_t ret_content[2], char *why, size_t why_size)
{
    char mode[96];
    XXH3_state_t *content = XXH3_createState();
    if (!content)
        return -ENOMEM;
    XXH3_128bits_reset(content);
    int r = read_all(weights, gguf, part_hashed, content, mode, sizeof mode, why, why_size);
    if (r == 0)
        take_digest(content, ret_content);
    XXH3_freeState(content);
    return r;
}
