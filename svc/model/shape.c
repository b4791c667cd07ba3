/* Owns: what is known of a model before a weight is read.
 *
 * Sizes come from tensors wherever they speak: official files of the MoE models carry metadata that
 * contradicts them. Each number is bounded when it is read, so that later products fit 64 bits. */
#include "svc/model/shape.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct reader {
    const struct gguf *gguf;
    const char *architecture; /* key prefix */
    char *why;
    size_t why_size;
};

#define FAIL(reader, error, ...) (snprintf((reader)->why, (reader)->why_size, __VA_ARGS__), (error))

static int read_architecture(struct reader *reader);
static int read_sizes(const struct reader *reader, struct model_shape *shape);
static int read_experts(const struct reader *reader, struct model_shape *shape);
static int read_rope(const struct reader *reader, struct model_shape *shape);

int model_shape_read(struct model_shape *ret, const struct gguf *gguf, char *why, size_t why_size)
{
    struct reader reader = {.gguf = gguf, .why = why, .why_size = why_size};
    struct model_shape shape = {0};
    int r = read_architecture(&reader);
    if (r == 0)
        r = read_sizes(&reader, &shape);
    if (r == 0 && strcmp(reader.architecture, "qwen2moe") == 0)
        r = read_experts(&reader, &shape);
    if (r == 0)
        r = read_rope(&reader, &shape);
    if (r < 0)
        return r;
    *ret = shape;
    return 0;
}

/* ---- tensors ------------------------------------------------------------------------------ */

static void tensor_name(char *dst, size_t size, int64_t layer, const char *name)
{
    if (layer < 0)
        snprintf(dst, size, "%s", name);
    else
        snprintf(dst, size, "blk.%" PRId64 ".%s", layer, name);
}

const struct gguf_tensor *model_find_tensor(const struct gguf *gguf, int64_t layer,
                                            const char *name)
{
    char full[96];
    tensor_name(full, sizeof full, layer, name);
    return gguf_find_tensor(gguf, full);
}

int model_need_tensor(const struct gguf_tensor **ret, const struct gguf *gguf, int64_t layer,
                      const char *name, uint64_t dim0, uint64_t dim1, uint64_t dim2, char *why,
                      size_t why_size)
{
    char full[96];
    tensor_name(full, sizeof full, layer, name);
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, full);
    if (!tensor) {
        snprintf(why, why_size, "tensor %s is missing: the file is incomplete", full);
        return -EBADMSG;
    }
    if (!ops_type_info(tensor->type)) {
        snprintf(why, why_size,
                 "tensor %s has the type %s, which quern does not compute: quantize it otherwise",
                 full, ops_type_name(tensor->type));
        return -ENOTSUP;
    }
    if (tensor->dims[0] != dim0 || tensor->dims[1] != (dim1 ? dim1 : 1) ||
        tensor->dims[2] != (dim2 ? dim2 : 1) || tensor->dims[3] != 1) {
        snprintf(why, why_size,
                 "tensor %s has the shape %" PRIu64 " x %" PRIu64 " x %" PRIu64 " where %" PRIu64
                 " x %" PRIu64 " x %" PRIu64 " is expected",
                 full, tensor->dims[0], tensor->dims[1], tensor->dims[2], dim0, dim1 ? dim1 : 1,
                 dim2 ? dim2 : 1);
        return -EBADMSG;
    }
    *ret = tensor;
    return 0;
}

/* One dimension of a tensor that must be there, bounded. */
static int read_dim(const struct reader *reader, int64_t layer, const char *name, unsigned dim,
                    uint32_t max, uint32_t *ret)
{
    char full[96];
    tensor_name(full, sizeof full, layer, name);
    const struct gguf_tensor *tensor = gguf_find_tensor(reader->gguf, full);
    if (!tensor)
        return FAIL(reader, -EBADMSG, "tensor %s is missing: the file is incomplete", full);
    if (tensor->dims[dim] > max)
        return FAIL(reader, -EBADMSG,
                    "tensor %s has a dimension of %" PRIu64 ", more than the %" PRIu32
                    " that are possible",
                    full, tensor->dims[dim], max);
    *ret = (uint32_t)tensor->dims[dim];
    return 0;
}

/* ---- keys --------------------------------------------------------------------------------- */

static void key_name(const struct reader *reader, char *dst, size_t size, const char *name)
{
    snprintf(dst, size, "%s.%s", reader->architecture, name);
}

/* A number of the architecture within [min, max]; absent: -ENOENT, *ret untouched. */
static int optional_u32(const struct reader *reader, const char *name, uint32_t min, uint32_t max,
                        uint32_t *ret)
{
    char key[96];
    uint32_t value;
    key_name(reader, key, sizeof key, name);
    int r = gguf_get_u32(reader->gguf, key, &value, reader->why, reader->why_size);
    if (r < 0)
        return r;
    if (value < min || value > max)
        return FAIL(reader, -EBADMSG,
                    "key %s is %" PRIu32 "; %" PRIu32 " to %" PRIu32 " are possible", key, value,
                    min, max);
    *ret = value;
    return 0;
}

static int need_u32(const struct reader *reader, const char *name, uint32_t min, uint32_t max,
                    uint32_t *ret)
{
    int r = optional_u32(reader, name, min, max, ret);
    if (r == -ENOENT)
        return FAIL(reader, -EBADMSG, "key %s.%s is missing", reader->architecture, name);
    return r;
}

/* A finite number within [min, max]; absent: *ret untouched, 0. */
static int optional_f64(const struct reader *reader, const char *name, double min, double max,
                        double *ret)
{
    char key[96];
    float value;
    key_name(reader, key, sizeof key, name);
    int r = gguf_get_f32(reader->gguf, key, &value, reader->why, reader->why_size);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    if (!(value >= min && value <= max))
        return FAIL(reader, -EBADMSG, "key %s is %g; %g to %g are possible", key, (double)value,
                    min, max);
    *ret = value;
    return 0;
}

static int read_architecture(struct reader *reader)
{
    struct gguf_string name;
    int r =
        gguf_get_string(reader->gguf, "general.architecture", &name, reader->why, reader->why_size);
    if (r == -ENOENT)
        return FAIL(reader, -EBADMSG, "key general.architecture is missing: this is no model");
    if (r < 0)
        return r;
    static const char *const known[] = {"qwen2", "qwen2moe"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (name.length == strlen(known[i]) && memcmp(name.data, known[i], name.length) == 0) {
            reader->architecture = known[i];
            return 0;
        }
    char shown[33];
    size_t n = name.length < sizeof shown - 1 ? name.length : sizeof shown - 1;
    for (size_t i = 0; i < n; i++)
        shown[i] = name.data[i] >= 0x20 && name.data[i] < 0x7f ? name.data[i] : '?';
    shown[n] = 0;
    return FAIL(reader, -ENOTSUP,
                "key general.architecture is \"%s\": quern runs qwen2 and qwen2moe only", shown);
}

/* ---- sizes -------------------------------------------------------------------------------- */

/* Layers are counted by their tensors; a block_count beyond them means a cut file. */
static int read_layers(const struct reader *reader, struct model_shape *shape)
{
    uint32_t n = 0, claimed = 0;
    while (n <= MODEL_LAYERS_MAX && model_find_tensor(reader->gguf, n, "attn_norm.weight"))
        n++;
    int r = optional_u32(reader, "block_count", 1, MODEL_LAYERS_MAX, &claimed);
    if (r < 0 && r != -ENOENT)
        return r;
    if (n == 0 || claimed > n)
        return FAIL(reader, -EBADMSG,
                    "tensor blk.%" PRIu32 ".attn_norm.weight is missing: the file is incomplete",
                    n);
    if (n > MODEL_LAYERS_MAX)
        return FAIL(reader, -EBADMSG, "the file has more than %d layers", MODEL_LAYERS_MAX);
    shape->n_layers = n;
    return 0;
}

/* Heads: their number is only in the metadata; key and value heads follow from the tensors. */
static int read_heads(const struct reader *reader, struct model_shape *shape)
{
    uint32_t d_q, d_kv;
    int r = need_u32(reader, "attention.head_count", 1, MODEL_HEADS_MAX, &shape->n_heads);
    if (r == 0)
        r = read_dim(reader, 0, "attn_q.weight", 1, MODEL_WIDTH_MAX, &d_q);
    if (r == 0)
        r = read_dim(reader, 0, "attn_k.weight", 1, MODEL_WIDTH_MAX, &d_kv);
    if (r < 0)
        return r;
    if (d_q % shape->n_heads)
        return FAIL(reader, -EBADMSG,
                    "tensor blk.0.attn_q.weight has %" PRIu32
                    " rows, which %s.attention.head_count "
                    "of %" PRIu32 " does not divide",
                    d_q, reader->architecture, shape->n_heads);
    shape->head_dim = d_q / shape->n_heads;
    if (shape->head_dim % 16 || shape->head_dim > 256)
        return FAIL(reader, -ENOTSUP,
                    "heads of %" PRIu32 " values: quern computes multiples of 16 up to 256",
                    shape->head_dim);
    shape->n_kv_heads = d_kv / shape->head_dim;
    if (d_kv % shape->head_dim || shape->n_kv_heads == 0 || shape->n_heads % shape->n_kv_heads)
        return FAIL(reader, -EBADMSG,
                    "tensor blk.0.attn_k.weight has %" PRIu32 " rows, which do not fit %" PRIu32
                    " heads of %" PRIu32 " values",
                    d_kv, shape->n_heads, shape->head_dim);
    return 0;
}

static int read_sizes(const struct reader *reader, struct model_shape *shape)
{
    int r = read_dim(reader, -1, "token_embd.weight", 0, MODEL_WIDTH_MAX, &shape->d_model);
    if (r == 0)
        r = read_dim(reader, -1, "token_embd.weight", 1, 1u << 24, &shape->n_vocab);
    if (r == 0)
        r = read_layers(reader, shape);
    if (r == 0)
        r = read_heads(reader, shape);
    if (r == 0 && strcmp(reader->architecture, "qwen2") == 0)
        r = read_dim(reader, 0, "ffn_gate.weight", 1, MODEL_WIDTH_MAX, &shape->d_ff);
    if (r == 0)
        r = need_u32(reader, "context_length", 1, MODEL_CONTEXT_MAX, &shape->context_length);
    double epsilon = -1;
    if (r == 0)
        r = optional_f64(reader, "attention.layer_norm_rms_epsilon", 1e-12, 1e-1, &epsilon);
    if (r < 0)
        return r;
    if (epsilon < 0)
        return FAIL(reader, -EBADMSG, "key %s.attention.layer_norm_rms_epsilon is missing",
                    reader->architecture);
    shape->rms_eps = (float)epsilon;
    shape->n_tokens = shape->n_vocab;
    shape->tied_head = !model_find_tensor(reader->gguf, -1, "output.weight");
    return 0;
}

static int read_experts(const struct reader *reader, struct model_shape *shape)
{
    int r = read_dim(reader, 0, "ffn_gate_inp.weight", 1, MODEL_EXPERTS_MAX, &shape->n_experts);
    if (r == 0)
        r = need_u32(reader, "expert_used_count", 1, shape->n_experts, &shape->n_experts_used);
    if (r == 0)
        r = read_dim(reader, 0, "ffn_gate_exps.weight", 1, MODEL_WIDTH_MAX, &shape->d_expert);
    if (r == 0)
        r = read_dim(reader, 0, "ffn_gate_shexp.weight", 1, MODEL_WIDTH_MAX, &shape->d_shared);
    return r;
}

/* ---- RoPE --------------------------------------------------------------------------------- */

static int read_scaling(const struct reader *reader, struct model_shape *shape)
{
    char key[96];
    struct gguf_string type = {"none", 4};
    key_name(reader, key, sizeof key, "rope.scaling.type");
    int r = gguf_get_string(reader->gguf, key, &type, reader->why, reader->why_size);
    if (r < 0 && r != -ENOENT)
        return r;
    struct ops_rope_options *rope = &shape->rope;
    double attention = 0;
    rope->factor = 1;
    r = optional_f64(reader, "rope.scaling.factor", 1, 1024, &rope->factor);
    if (r < 0)
        return r;
    if (type.length == 4 && memcmp(type.data, "none", 4) == 0)
        return 0;
    if (type.length == 6 && memcmp(type.data, "linear", 6) == 0) {
        rope->scaling = OPS_ROPE_LINEAR;
        return 0;
    }
    if (type.length != 4 || memcmp(type.data, "yarn", 4) != 0)
        return FAIL(reader, -ENOTSUP, "key %s is none of \"none\", \"linear\" and \"yarn\"", key);
    rope->scaling = OPS_ROPE_YARN;
    rope->original_context = 0;
    r = need_u32(reader, "rope.scaling.original_context_length", 1, MODEL_CONTEXT_MAX,
                 &rope->original_context);
    if (r == 0)
        r = optional_f64(reader, "rope.scaling.yarn_beta_fast", 0, 1e6, &rope->beta_fast);
    if (r == 0)
        r = optional_f64(reader, "rope.scaling.yarn_beta_slow", 0, 1e6, &rope->beta_slow);
    if (r == 0)
        r = optional_f64(reader, "rope.scaling.attn_factor", 0, 1e3, &attention);
    /* The key multiplies the factor that YaRN computes itself. */
    if (r == 0 && attention > 0)
        rope->attention_factor = attention * (0.1 * log(rope->factor) + 1);
    return r;
}

static int read_rope(const struct reader *reader, struct model_shape *shape)
{
    shape->rope.head_dim = shape->head_dim;
    shape->rope.theta = 10000; /* the format's default */
    int r = optional_f64(reader, "rope.freq_base", 1, 1e12, &shape->rope.theta);
    uint32_t rotated = shape->head_dim;
    if (r == 0)
        r = optional_u32(reader, "rope.dimension_count", 0, UINT32_MAX, &rotated);
    if (r < 0 && r != -ENOENT)
        return r;
    if (rotated != shape->head_dim)
        return FAIL(reader, -ENOTSUP,
                    "key %s.rope.dimension_count is %" PRIu32 " where heads have %" PRIu32
                    " values: quern rotates whole heads only",
                    reader->architecture, rotated, shape->head_dim);
    return read_scaling(reader, shape);
}
