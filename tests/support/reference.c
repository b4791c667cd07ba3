/* Owns: the model's definition, written after the published code of Hugging Face (modeling_qwen2,
 * modeling_qwen2_moe) and the papers: RMSNorm (Zhang and Sennrich 2019), RoPE (Su et al. 2021),
 * YaRN (Peng et al. 2023), GQA (Ainslie et al. 2023), SwiGLU (Shazeer 2020). */
#define _GNU_SOURCE /* M_PI */
#include "tests/support/reference.h"

#include "svc/model/gguf.h"
#include "tests/support/dequantize.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct reference {
    struct gguf *gguf;
    uint8_t *bytes; /* of the whole file */
    bool moe;
    size_t n_layers, d_model, n_heads, n_kv_heads, head_dim, n_vocab;
    double eps, theta;
    double yarn_factor; /* 0: plain RoPE */
    double yarn_original;
    size_t n_experts, n_used;
};

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static double *zeros(size_t n)
{
    double *x = calloc(n, sizeof *x);
    if (!x)
        die("reference: no memory");
    return x;
}

/* ---- the file ----------------------------------------------------------------------------- */

static const struct gguf_tensor *find(const struct reference *m, long layer, const char *name)
{
    char full[96];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blk.%ld.%s", layer, name);
    return gguf_find_tensor(m->gguf, full);
}

static const struct gguf_tensor *need(const struct reference *m, long layer, const char *name)
{
    const struct gguf_tensor *t = find(m, layer, name);
    if (!t)
        die("reference: no tensor %s in layer %ld", name, layer);
    return t;
}

/* Row `row` of a tensor, its dimensions past the first taken as one; to x. */
static void read_row(const struct reference *m, const struct gguf_tensor *t, size_t row, double *x)
{
    size_t n_rows = t->dims[1] * t->dims[2];
    dequantize_row(t->type, m->bytes + t->offset + row * (t->bytes / n_rows), t->dims[0], x);
}

static double number(const struct reference *m, const char *name, double otherwise)
{
    char key[96], why[256];
    uint32_t integer;
    float real;
    snprintf(key, sizeof key, "%s.%s", m->moe ? "qwen2moe" : "qwen2", name);
    if (gguf_get_u32(m->gguf, key, &integer, why, sizeof why) == 0)
        return integer;
    if (gguf_get_f32(m->gguf, key, &real, why, sizeof why) == 0)
        return real;
    return otherwise;
}

static void read_file(struct reference *m, const char *path)
{
    FILE *file = fopen(path, "rbe");
    size_t size = gguf_file_bytes(m->gguf, 0);
    m->bytes = malloc(size);
    if (!file || !m->bytes || fread(m->bytes, 1, size, file) != size)
        die("reference: cannot read %s", path);
    fclose(file);
}

struct reference *reference_new(const char *path)
{
    char why[256];
    struct reference *m = calloc(1, sizeof *m);
    if (!m || gguf_open(&m->gguf, path, why, sizeof why) < 0)
        die("reference: %s", why);
    read_file(m, path);
    m->moe = find(m, 0, "ffn_gate_inp.weight") != NULL;
    m->d_model = need(m, -1, "token_embd.weight")->dims[0];
    m->n_vocab = need(m, -1, "token_embd.weight")->dims[1];
    while (find(m, (long)m->n_layers, "attn_norm.weight"))
        m->n_layers++;
    m->n_heads = (size_t)number(m, "attention.head_count", 0);
    m->n_kv_heads = (size_t)number(m, "attention.head_count_kv", (double)m->n_heads);
    m->head_dim = need(m, 0, "attn_q.weight")->dims[1] / m->n_heads;
    m->eps = number(m, "attention.layer_norm_rms_epsilon", 0);
    m->theta = number(m, "rope.freq_base", 10000);
    m->yarn_original = number(m, "rope.scaling.original_context_length", 0);
    if (m->yarn_original > 0)
        m->yarn_factor = number(m, "rope.scaling.factor", 1);
    if (m->moe) {
        m->n_experts = need(m, 0, "ffn_gate_inp.weight")->dims[1];
        m->n_used = (size_t)number(m, "expert_used_count", 0);
    }
    return m;
}

void reference_free(struct reference *m)
{
    gguf_free(m->gguf);
    free(m->bytes);
    free(m);
}

uint32_t reference_n_vocab(const struct reference *m)
{
    return (uint32_t)m->n_vocab;
}

/* ---- the parts ---------------------------------------------------------------------------- */

/* y (n, rows) = x (n, cols) times rows [first, first + rows) of the tensor, plus the bias if the
 * layer has one of this name. */
static double *product(const struct reference *m, const double *x, size_t n,
                       const struct gguf_tensor *w, size_t first, size_t rows,
                       const struct gguf_tensor *bias)
{
    size_t cols = w->dims[0];
    double *y = zeros(n * rows), *row = zeros(cols), *b = zeros(rows);
    if (bias)
        read_row(m, bias, 0, b);
    for (size_t r = 0; r < rows; r++) {
        read_row(m, w, first + r, row);
        for (size_t t = 0; t < n; t++) {
            double sum = 0;
            for (size_t i = 0; i < cols; i++)
                sum += row[i] * x[t * cols + i];
            y[t * rows + r] = sum + b[r];
        }
    }
    free(row);
    free(b);
    return y;
}

static double *whole_product(const struct reference *m, const double *x, size_t n, long layer,
                             const char *name, const char *bias)
{
    const struct gguf_tensor *w = need(m, layer, name);
    return product(m, x, n, w, 0, w->dims[1], bias ? find(m, layer, bias) : NULL);
}

static double *rms_norm(const struct reference *m, const double *x, size_t n, long layer,
                        const char *name)
{
    size_t d = m->d_model;
    double *w = zeros(d), *y = zeros(n * d);
    read_row(m, need(m, layer, name), 0, w);
    for (size_t t = 0; t < n; t++) {
        double sum = 0;
        for (size_t i = 0; i < d; i++)
            sum += x[t * d + i] * x[t * d + i];
        double scale = 1 / sqrt(sum / (double)d + m->eps);
        for (size_t i = 0; i < d; i++)
            y[t * d + i] = x[t * d + i] * scale * w[i];
    }
    free(w);
    return y;
}

/* The dimension whose wavelength makes `turns` turns over the trained context. */
static double yarn_dimension(const struct reference *m, double turns)
{
    return (double)m->head_dim * log(m->yarn_original / (turns * 2 * M_PI)) / (2 * log(m->theta));
}

/* Angle per position of pair i, and (YaRN) the factor on cosine and sine. */
static double frequency(const struct reference *m, size_t i, double *attention_factor)
{
    double plain = pow(m->theta, -2.0 * (double)i / (double)m->head_dim);
    *attention_factor = 1;
    if (m->yarn_factor == 0)
        return plain;
    double low = fmax(floor(yarn_dimension(m, 32)), 0);
    double high = fmin(ceil(yarn_dimension(m, 1)), (double)m->head_dim - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
    *attention_factor = 0.1 * log(m->yarn_factor) + 1;
    return plain / m->yarn_factor * ramp + plain * (1 - ramp);
}

static void rotate(const struct reference *m, double *x, size_t n, size_t n_heads)
{
    size_t half = m->head_dim / 2;
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < n_heads; h++)
            for (size_t i = 0; i < half; i++) {
                double factor, angle = frequency(m, i, &factor) * (double)t;
                double *head = x + (t * n_heads + h) * m->head_dim;
                double a = head[i], b = head[i + half];
                head[i] = factor * (a * cos(angle) - b * sin(angle));
                head[i + half] = factor * (b * cos(angle) + a * sin(angle));
            }
}

/* One head at one position: softmax(q k) v over the positions so far. */
static void attend(const struct reference *m, const double *q, const double *k, const double *v,
                   size_t position, double *out)
{
    size_t stride = m->n_kv_heads * m->head_dim;
    double *p = zeros(position + 1), max = -INFINITY, sum = 0;
    for (size_t t = 0; t <= position; t++) {
        for (size_t i = 0; i < m->head_dim; i++)
            p[t] += q[i] * k[t * stride + i];
        p[t] /= sqrt((double)m->head_dim);
        max = fmax(max, p[t]);
    }
    for (size_t t = 0; t <= position; t++)
        sum += p[t] = exp(p[t] - max);
    for (size_t t = 0; t <= position; t++)
        for (size_t i = 0; i < m->head_dim; i++)
            out[i] += p[t] / sum * v[t * stride + i];
    free(p);
}

static double *attention(const struct reference *m, const double *x, size_t n, long layer)
{
    double *normed = rms_norm(m, x, n, layer, "attn_norm.weight");
    double *q = whole_product(m, normed, n, layer, "attn_q.weight", "attn_q.bias");
    double *k = whole_product(m, normed, n, layer, "attn_k.weight", "attn_k.bias");
    double *v = whole_product(m, normed, n, layer, "attn_v.weight", "attn_v.bias");
    double *mixed = zeros(n * m->n_heads * m->head_dim);
    rotate(m, q, n, m->n_heads);
    rotate(m, k, n, m->n_kv_heads);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < m->n_heads; h++) {
            size_t kv = h / (m->n_heads / m->n_kv_heads) * m->head_dim;
            size_t at = (t * m->n_heads + h) * m->head_dim;
            attend(m, q + at, k + kv, v + kv, t, mixed + at);
        }
    double *y = whole_product(m, mixed, n, layer, "attn_output.weight", NULL);
    free(normed);
    free(q);
    free(k);
    free(v);
    free(mixed);
    return y;
}

/* down(silu(gate x) * up x); expert `e` of stacked tensors. */
static double *swiglu(const struct reference *m, const double *x, size_t n, long layer, size_t e,
                      const char *gate, const char *up, const char *down)
{
    const struct gguf_tensor *g = need(m, layer, gate), *d = need(m, layer, down);
    size_t width = g->dims[1];
    double *a = product(m, x, n, g, e * width, width, NULL);
    double *b = product(m, x, n, need(m, layer, up), e * width, width, NULL);
    for (size_t i = 0; i < n * width; i++)
        a[i] = a[i] / (1 + exp(-a[i])) * b[i];
    double *y = product(m, a, n, d, e * d->dims[1], d->dims[1], NULL);
    free(a);
    free(b);
    return y;
}

/* Adds the experts of one row. */
static void add_experts(const struct reference *m, const double *x, long layer, double *y)
{
    double *p = whole_product(m, x, 1, layer, "ffn_gate_inp.weight", NULL), max = p[0], sum = 0;
    for (size_t e = 0; e < m->n_experts; e++)
        max = fmax(max, p[e]);
    for (size_t e = 0; e < m->n_experts; e++)
        sum += p[e] = exp(p[e] - max);
    for (size_t k = 0; k < m->n_used; k++) {
        size_t best = 0;
        for (size_t e = 1; e < m->n_experts; e++)
            if (p[e] > p[best])
                best = e;
        double *out = swiglu(m, x, 1, layer, best, "ffn_gate_exps.weight", "ffn_up_exps.weight",
                             "ffn_down_exps.weight");
        for (size_t i = 0; i < m->d_model; i++)
            y[i] += p[best] / sum * out[i];
        p[best] = -1;
        free(out);
    }
    free(p);
}

static double *mixture(const struct reference *m, const double *x, size_t n, long layer)
{
    size_t d = m->d_model;
    const struct gguf_tensor *router = need(m, layer, "ffn_gate_inp_shexp.weight");
    double *gate = product(m, x, n, router, 0, 1, NULL);
    double *y = swiglu(m, x, n, layer, 0, "ffn_gate_shexp.weight", "ffn_up_shexp.weight",
                       "ffn_down_shexp.weight");
    for (size_t t = 0; t < n; t++) {
        for (size_t i = 0; i < d; i++)
            y[t * d + i] /= 1 + exp(-gate[t]);
        add_experts(m, x + t * d, layer, y + t * d);
    }
    free(gate);
    return y;
}

static void add_and_free(double *x, double *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
    free(y);
}

void reference_logits(const struct reference *m, const uint32_t *tokens, size_t n, double *logits)
{
    size_t d = m->d_model;
    double *x = zeros(n * d);
    for (size_t t = 0; t < n; t++)
        read_row(m, need(m, -1, "token_embd.weight"), tokens[t], x + t * d);
    for (long layer = 0; layer < (long)m->n_layers; layer++) {
        add_and_free(x, attention(m, x, n, layer), n * d);
        double *normed = rms_norm(m, x, n, layer, "ffn_norm.weight");
        add_and_free(x,
                     m->moe ? mixture(m, normed, n, layer)
                            : swiglu(m, normed, n, layer, 0, "ffn_gate.weight", "ffn_up.weight",
                                     "ffn_down.weight"),
                     n * d);
        free(normed);
    }
    double *normed = rms_norm(m, x, n, -1, "output_norm.weight");
    const char *head = find(m, -1, "output.weight") ? "output.weight" : "token_embd.weight";
    double *y = whole_product(m, normed, n, -1, head, NULL);
    memcpy(logits, y, n * m->n_vocab * sizeof *logits);
    free(y);
    free(normed);
    free(x);
}

double reference_error(const float *a, const double *b, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(difference / size);
}
