/* make-model: writes a GGUF of any Qwen2 shape with random weights, streaming to disk.
 *
 * The weights are well conditioned: every matrix has the standard deviation 1/sqrt(inputs), so that
 * activations stay near 1, biases are there, norms vary around 1. A tensor's values depend on the
 * seed and its name alone, so that a model with fewer layers is the beginning of one with more.
 * F32, F16, BF16 and Q8_0 are encoded values; the other types get random blocks, in which every bit
 * pattern occurs (and scales that are denormal in F16: no model to measure speed on). */
#define _GNU_SOURCE /* asprintf */
#include "svc/model/encode.h"
#include "svc/model/gguf_write.h"
#include "tests/support/mixture.h"
#include "tests/support/random_weights.h"
#include "tests/support/vocabulary.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct shape {
    const char *name;
    uint32_t n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, n_vocab, context;
    bool tied;
    uint32_t n_experts, n_used, d_expert, d_shared;
};

/* The official shapes, and two small ones that have every part of them. n_vocab 0: the
 * vocabulary's own size. */
static const struct shape shapes[] = {
    {"tiny", 2, 256, 768, 4, 2, 64, 0, 4096, true, 0, 0, 0, 0},
    {"tiny-moe", 2, 256, 0, 4, 2, 64, 0, 4096, false, 12, 4, 256, 512},
    {"0.5b", 24, 896, 4864, 14, 2, 64, 151936, 32768, true, 0, 0, 0, 0},
    {"1.5b", 28, 1536, 8960, 12, 2, 128, 151936, 32768, true, 0, 0, 0, 0},
    {"7b", 28, 3584, 18944, 28, 4, 128, 152064, 32768, false, 0, 0, 0, 0},
    {"57b-a14b", 28, 3584, 18944, 28, 4, 128, 151936, 32768, false, 64, 8, 2560, 20480},
    {"1.5-moe", 24, 2048, 5632, 16, 16, 128, 151936, 8192, false, 60, 4, 1408, 5632},
    {"72b", 80, 8192, 29568, 64, 8, 128, 152064, 32768, false, 0, 0, 0, 0},
};

struct job {
    struct shape shape;
    enum ops_type type;
    bool mixed; /* by `mixture` in place of `type` */
    enum mixture mixture;
    bool empty;      /* weights are a hole in the file: all zero */
    double key_bias; /* standard deviation */
    uint64_t seed;
    double yarn_factor; /* 0: no RoPE scaling */
    uint32_t yarn_original;
    uint32_t n_merges; /* of the vocabulary file; 0: all */
    bool old_metadata; /* MoE files before expert_feed_forward_length */
    struct gguf_writer *writer;
};

#define EMBEDDING_STD 0.25
#define LOGITS_STD    3.0

static const char usage[] =
    "usage: make-model [options] OUT.gguf\n"
    "  --shape NAME     tiny|tiny-moe|0.5b|1.5b|7b|57b-a14b|1.5-moe|72b (tiny)\n"
    "  --type T         of the matrices (q8_0): any that quern computes\n"
    "  --mix NAME       types as llama.cpp's quantizer mixes them, q4_k_m for one\n"
    "  --empty          no weights: a file with a hole, for inspect\n"
    "  --key-bias STD   of attn_k.bias (0.5)\n"
    "  --seed N         of the random weights (1)\n"
    "  --vocab FILE     compact vocabulary, with --merges N of its merges (default: bytes only)\n"
    "  --layers N --d-model N --ff N --heads N --kv-heads N --head-dim N --n-vocab N --context N\n"
    "  --experts N --experts-used N --expert-ff N --shared-ff N\n"
    "  --tied | --untied\n"
    "  --yarn FACTOR    with --yarn-original N (32768)\n"
    "  --old-metadata   MoE sizes as the first GGUF converters wrote them\n";

/* ---- random numbers ---------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Near normal, mean 0, variance 1: the sum of four uniform 16-bit numbers. */
static float next_normal(uint64_t *state)
{
    uint64_t r = next_random(state);
    int32_t sum = (int32_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));
    return (float)(sum - 2 * 65535) * (float)(1.7320508 / 65536);
}

static uint64_t tensor_seed(uint64_t seed, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u ^ seed; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return next_random(&hash);
}

/* ---- tensors ----------------------------------------------------------------------------- */

/* What is asked of one tensor; walked twice, to declare and then to fill. */
typedef void tensor_fn(struct job *job, const char *name, enum ops_type type, uint32_t n_dims,
                       const uint64_t *dims, double mean, double std);

static void declare(struct job *job, const char *name, enum ops_type type, uint32_t n_dims,
                    const uint64_t *dims, double mean, double std)
{
    (void)mean;
    (void)std;
    gguf_writer_tensor(job->writer, name, strlen(name), type, n_dims, dims);
}

/* Whether rows of the type come from values, by the service's own encoder. */
static bool is_encoded(enum ops_type type)
{
    enum ops_type same;
    return model_encode_type(ops_type_info(type)->name, &same);
}

static void fill(struct job *job, const char *name, enum ops_type type, uint32_t n_dims,
                 const uint64_t *dims, double mean, double std)
{
    const struct ops_type_info *info = ops_type_info(type);
    uint64_t state = tensor_seed(job->seed, name), n_rows = 1, n = dims[0];
    for (uint32_t i = 1; i < n_dims; i++)
        n_rows *= dims[i];
    float *x = malloc(n * sizeof *x);
    uint8_t *row = malloc(n / info->block_len * info->block_bytes);
    if (!x || !row) {
        fprintf(stderr, "make-model: no memory for a row of %s\n", name);
        exit(70);
    }
    if (job->empty) {
        gguf_writer_hole(job->writer);
        n_rows = 0;
    }
    for (uint64_t r = 0; r < n_rows; r++) {
        if (is_encoded(type)) {
            for (uint64_t i = 0; i < n; i++)
                x[i] = (float)mean + (float)std * next_normal(&state);
            model_encode_row(type, x, n, row);
        } else {
            random_weights_fill_std(type, 1, n, std, &state, row);
        }
        gguf_writer_data(job->writer, row, n / info->block_len * info->block_bytes);
    }
    free(x);
    free(row);
}

static void vector(struct job *job, tensor_fn *fn, const char *prefix, const char *name, uint32_t n,
                   double mean, double std)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    fn(job, full, OPS_F32, 1, (uint64_t[]){n}, mean, std);
}

static enum ops_type matrix_type(const struct job *job, const char *prefix, const char *name,
                                 uint32_t n_cols)
{
    const struct shape *s = &job->shape;
    struct mixture_place place = {.tensor = name,
                                  .n_layers = s->n_layers,
                                  .n_gqa = s->n_heads / s->n_kv_heads,
                                  .n_cols = n_cols,
                                  .tied = s->tied};
    if (*prefix)
        place.layer = (uint32_t)strtoul(prefix + strlen("blk."), NULL, 10);
    return job->mixed ? mixture_type(job->mixture, &place) : job->type;
}

/* n_matrices 0 means a plain matrix of two dimensions. */
static void matrix(struct job *job, tensor_fn *fn, const char *prefix, const char *name,
                   uint32_t n_in, uint32_t n_out, uint32_t n_matrices, double std)
{
    char full[128];
    enum ops_type type = matrix_type(job, prefix, name, n_in);
    if (n_in % ops_type_info(type)->block_len) {
        fprintf(stderr, "make-model: rows of %s%s have %u values, no whole blocks of %s\n", prefix,
                name, n_in, ops_type_name(type));
        exit(64);
    }
    snprintf(full, sizeof full, "%s%s", prefix, name);
    fn(job, full, type, n_matrices ? 3 : 2, (uint64_t[]){n_in, n_out, n_matrices}, 0, std);
}

static void walk_moe(struct job *job, tensor_fn *fn, const char *prefix)
{
    const struct shape *s = &job->shape;
    double in = 1 / sqrt(s->d_model);
    char router[128];
    snprintf(router, sizeof router, "%sffn_gate_inp.weight", prefix);
    fn(job, router, OPS_F32, 2, (uint64_t[]){s->d_model, s->n_experts}, 0, 2 * in);
    matrix(job, fn, prefix, "ffn_gate_exps.weight", s->d_model, s->d_expert, s->n_experts, in);
    matrix(job, fn, prefix, "ffn_down_exps.weight", s->d_expert, s->d_model, s->n_experts,
           1 / sqrt(s->d_expert));
    matrix(job, fn, prefix, "ffn_up_exps.weight", s->d_model, s->d_expert, s->n_experts, in);
    vector(job, fn, prefix, "ffn_gate_inp_shexp.weight", s->d_model, 0, in);
    matrix(job, fn, prefix, "ffn_gate_shexp.weight", s->d_model, s->d_shared, 0, in);
    matrix(job, fn, prefix, "ffn_down_shexp.weight", s->d_shared, s->d_model, 0,
           1 / sqrt(s->d_shared));
    matrix(job, fn, prefix, "ffn_up_shexp.weight", s->d_model, s->d_shared, 0, in);
}

static void walk_layer(struct job *job, tensor_fn *fn, uint32_t layer)
{
    const struct shape *s = &job->shape;
    uint32_t d_q = s->n_heads * s->head_dim, d_kv = s->n_kv_heads * s->head_dim;
    double in = 1 / sqrt(s->d_model);
    char prefix[32];
    snprintf(prefix, sizeof prefix, "blk.%" PRIu32 ".", layer);
    vector(job, fn, prefix, "attn_norm.weight", s->d_model, 1, 0.1);
    matrix(job, fn, prefix, "attn_q.weight", s->d_model, d_q, 0, in);
    vector(job, fn, prefix, "attn_q.bias", d_q, 0, 0.5);
    matrix(job, fn, prefix, "attn_k.weight", s->d_model, d_kv, 0, in);
    vector(job, fn, prefix, "attn_k.bias", d_kv, 0, job->key_bias);
    matrix(job, fn, prefix, "attn_v.weight", s->d_model, d_kv, 0, in);
    vector(job, fn, prefix, "attn_v.bias", d_kv, 0, 0.1);
    matrix(job, fn, prefix, "attn_output.weight", d_q, s->d_model, 0, 1 / sqrt(d_q));
    vector(job, fn, prefix, "ffn_norm.weight", s->d_model, 1, 0.1);
    if (s->n_experts) {
        walk_moe(job, fn, prefix);
        return;
    }
    matrix(job, fn, prefix, "ffn_gate.weight", s->d_model, s->d_ff, 0, in);
    matrix(job, fn, prefix, "ffn_up.weight", s->d_model, s->d_ff, 0, in);
    matrix(job, fn, prefix, "ffn_down.weight", s->d_ff, s->d_model, 0, 1 / sqrt(s->d_ff));
}

static void walk(struct job *job, tensor_fn *fn)
{
    const struct shape *s = &job->shape;
    double head_std = s->tied ? EMBEDDING_STD : 1 / sqrt(s->d_model);
    double norm = LOGITS_STD / (head_std * sqrt(s->d_model));
    matrix(job, fn, "", "token_embd.weight", s->d_model, s->n_vocab, 0, EMBEDDING_STD);
    for (uint32_t layer = 0; layer < s->n_layers; layer++)
        walk_layer(job, fn, layer);
    vector(job, fn, "", "output_norm.weight", s->d_model, norm, 0.1 * norm);
    if (!s->tied)
        matrix(job, fn, "", "output.weight", s->d_model, s->n_vocab, 0, head_std);
}

/* ---- metadata ---------------------------------------------------------------------------- */

static void put_u32(struct job *job, const char *name, uint32_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", job->shape.n_experts ? "qwen2moe" : "qwen2", name);
    gguf_writer_u32(job->writer, key, value);
}

static void put_f32(struct job *job, const char *name, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", job->shape.n_experts ? "qwen2moe" : "qwen2", name);
    gguf_writer_f32(job->writer, key, (float)value);
}

static void write_metadata(struct job *job)
{
    const struct shape *s = &job->shape;
    const char *architecture = s->n_experts ? "qwen2moe" : "qwen2";
    gguf_writer_string(job->writer, "general.architecture", architecture, strlen(architecture));
    char name[96];
    snprintf(name, sizeof name, "random %s, seed %" PRIu64, s->name, job->seed);
    gguf_writer_string(job->writer, "general.name", name, strlen(name));
    put_u32(job, "block_count", s->n_layers);
    put_u32(job, "context_length", s->context);
    put_u32(job, "embedding_length", s->d_model);
    put_u32(job, "feed_forward_length",
            s->n_experts && job->old_metadata ? s->d_expert * s->n_used : s->d_ff);
    put_u32(job, "attention.head_count", s->n_heads);
    put_u32(job, "attention.head_count_kv", s->n_kv_heads);
    if (s->head_dim * s->n_heads != s->d_model) {
        put_u32(job, "attention.key_length", s->head_dim);
        put_u32(job, "attention.value_length", s->head_dim);
    }
    put_f32(job, "rope.freq_base", 1e6);
    put_f32(job, "attention.layer_norm_rms_epsilon", 1e-6);
    if (job->yarn_factor > 0) {
        char key[64];
        snprintf(key, sizeof key, "%s.rope.scaling.type", architecture);
        gguf_writer_string(job->writer, key, "yarn", 4);
        put_f32(job, "rope.scaling.factor", job->yarn_factor);
        put_u32(job, "rope.scaling.original_context_length", job->yarn_original);
    }
    if (s->n_experts) {
        put_u32(job, "expert_count", s->n_experts);
        put_u32(job, "expert_used_count", s->n_used);
        if (!job->old_metadata) {
            put_u32(job, "expert_feed_forward_length", s->d_expert);
            put_u32(job, "expert_shared_feed_forward_length", s->d_shared);
        }
    }
}

/* ---- options ----------------------------------------------------------------------------- */

enum option_id {
    OPT_SHAPE = 1,
    OPT_TYPE,
    OPT_MIX,
    OPT_EMPTY,
    OPT_KEY_BIAS,
    OPT_SEED,
    OPT_VOCAB,
    OPT_TIED,
    OPT_UNTIED,
    OPT_YARN,
    OPT_OLD_METADATA,
    OPT_NUMBER, /* and above: numbers of the shape, in the order of number_options */
};

static const struct option options[] = {
    {"shape", required_argument, NULL, OPT_SHAPE},
    {"type", required_argument, NULL, OPT_TYPE},
    {"mix", required_argument, NULL, OPT_MIX},
    {"empty", no_argument, NULL, OPT_EMPTY},
    {"key-bias", required_argument, NULL, OPT_KEY_BIAS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"vocab", required_argument, NULL, OPT_VOCAB},
    {"tied", no_argument, NULL, OPT_TIED},
    {"untied", no_argument, NULL, OPT_UNTIED},
    {"yarn", required_argument, NULL, OPT_YARN},
    {"old-metadata", no_argument, NULL, OPT_OLD_METADATA},
    {"layers", required_argument, NULL, OPT_NUMBER},
    {"d-model", required_argument, NULL, OPT_NUMBER + 1},
    {"ff", required_argument, NULL, OPT_NUMBER + 2},
    {"heads", required_argument, NULL, OPT_NUMBER + 3},
    {"kv-heads", required_argument, NULL, OPT_NUMBER + 4},
    {"head-dim", required_argument, NULL, OPT_NUMBER + 5},
    {"n-vocab", required_argument, NULL, OPT_NUMBER + 6},
    {"context", required_argument, NULL, OPT_NUMBER + 7},
    {"experts", required_argument, NULL, OPT_NUMBER + 8},
    {"experts-used", required_argument, NULL, OPT_NUMBER + 9},
    {"expert-ff", required_argument, NULL, OPT_NUMBER + 10},
    {"shared-ff", required_argument, NULL, OPT_NUMBER + 11},
    {"yarn-original", required_argument, NULL, OPT_NUMBER + 12},
    {"merges", required_argument, NULL, OPT_NUMBER + 13},
    {NULL, 0, NULL, 0},
};

static void fail_usage(void)
{
    fputs(usage, stderr);
    exit(64);
}

static uint64_t number_of(const char *text, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || value > max) {
        fprintf(stderr, "make-model: %s is no number up to %" PRIu64 "\n", text, max);
        exit(64);
    }
    return value;
}

static void set_shape(struct shape *shape, const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (strcmp(shapes[i].name, name) == 0) {
            *shape = shapes[i];
            return;
        }
    fprintf(stderr, "make-model: no shape is called %s\n", name);
    exit(64);
}

static bool find_type(const char *name, enum ops_type *ret)
{
    for (uint32_t i = 0; i <= OPS_BF16; i++)
        if (ops_type_info(i) && strcasecmp(ops_type_info(i)->name, name) == 0) {
            *ret = (enum ops_type)i;
            return true;
        }
    return false;
}

/* --shape first, whatever its place, then the options that change it. */
static const char *parse(struct job *job, int argc, char **argv)
{
    const char *vocab = NULL;
    set_shape(&job->shape, "tiny");
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (c == OPT_SHAPE)
            set_shape(&job->shape, optarg);
    struct shape *s = &job->shape;
    uint32_t *const numbers[] = {&s->n_layers,        &s->d_model,   &s->d_ff,     &s->n_heads,
                                 &s->n_kv_heads,      &s->head_dim,  &s->n_vocab,  &s->context,
                                 &s->n_experts,       &s->n_used,    &s->d_expert, &s->d_shared,
                                 &job->yarn_original, &job->n_merges};
    optind = 1;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == '?')
            fail_usage();
        else if (c == OPT_TYPE && !find_type(optarg, &job->type))
            fail_usage();
        else if (c == OPT_MIX && !(job->mixed = mixture_find(optarg, &job->mixture)))
            fail_usage();
        else if (c == OPT_EMPTY)
            job->empty = true;
        else if (c == OPT_KEY_BIAS)
            job->key_bias = strtod(optarg, NULL);
        else if (c == OPT_SEED)
            job->seed = number_of(optarg, UINT64_MAX);
        else if (c == OPT_VOCAB)
            vocab = optarg;
        else if (c == OPT_TIED || c == OPT_UNTIED)
            s->tied = c == OPT_TIED;
        else if (c == OPT_YARN)
            job->yarn_factor = strtod(optarg, NULL);
        else if (c == OPT_OLD_METADATA)
            job->old_metadata = true;
        else if (c >= OPT_NUMBER)
            *numbers[c - OPT_NUMBER] = (uint32_t)number_of(optarg, 1u << 24);
    }
    return vocab;
}

int main(int argc, char **argv)
{
    struct job job = {.type = OPS_Q8_0, .seed = 1, .yarn_original = 32768, .key_bias = 0.5};
    const char *vocab = parse(&job, argc, argv);
    if (optind + 1 != argc)
        fail_usage();
    const char *path = argv[optind];

    char why[512] = "";
    struct vocabulary vocabulary;
    int r = vocabulary_read(&vocabulary, vocab, job.n_merges, &job.shape.n_vocab, why, sizeof why);
    if (r < 0)
        goto say_why;
    r = gguf_writer_new(&job.writer, path, why, sizeof why);
    if (r < 0)
        goto free_vocabulary;
    write_metadata(&job);
    vocabulary_write(&vocabulary, job.writer);
    walk(&job, declare);
    walk(&job, fill);
    r = gguf_writer_finish(job.writer, why, sizeof why);
    gguf_writer_free(job.writer);
free_vocabulary:
    vocabulary_done(&vocabulary);
say_why:
    if (r < 0) {
        fprintf(stderr, "make-model: %s\n", *why ? why : strerror(-r));
        return 70;
    }
    return 0;
}
