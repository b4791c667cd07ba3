/* The parts of a training step that are not matrix products, each in one pass over memory. torch does them as five to
 * ten passes each, which took three quarters of the time. Built by fused.py with -Ofast: training needs no exact bits.
 *
 * bfloat16 is the upper half of a float32: widening is a shift, narrowing rounds to nearest even. */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float wide(bf16 x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline bf16 narrow(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void rmsnorm_forward(long rows, long n, const float *x, const float *weight, float eps, float *scale, bf16 *out)
{
#pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const float *v = x + r * n;
        float sum = 0;
        for (long i = 0; i < n; i++)
            sum += v[i] * v[i];
        float s = 1 / sqrtf(sum / (float)n + eps);
        scale[r] = s;
        for (long i = 0; i < n; i++)
            out[r * n + i] = narrow(v[i] * s * weight[i]);
    }
}

/* grad_weight (threads, n) starts as zeros: one row per thread, added up by the caller. */
void rmsnorm_backward(long rows, long n, long threads, const float *x, const float *weight, const float *scale,
                      const bf16 *grad, float *grad_x, float *grad_weight)
{
#pragma omp parallel for schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *gw = grad_weight + t * n;
        for (long r = rows * t / threads; r < rows * (t + 1) / threads; r++) {
            const float *v = x + r * n;
            float s = scale[r], along = 0;
            for (long i = 0; i < n; i++) {
                float g = wide(grad[r * n + i]), normed = v[i] * s;
                gw[i] += g * normed;
                along += g * weight[i] * normed;
            }
            along /= (float)n;
            for (long i = 0; i < n; i++)
                grad_x[r * n + i] = (wide(grad[r * n + i]) * weight[i] - v[i] * s * along) * s;
        }
    }
}

void swiglu_forward(long n, const bf16 *gate, const bf16 *up, bf16 *out)
{
#pragma omp parallel for
    for (long i = 0; i < n; i++) {
        float g = wide(gate[i]);
        out[i] = narrow(g / (1 + expf(-g)) * wide(up[i]));
    }
}

void swiglu_backward(long n, const bf16 *gate, const bf16 *up, const bf16 *grad, bf16 *grad_gate, bf16 *grad_up)
{
#pragma omp parallel for
    for (long i = 0; i < n; i++) {
        float g = wide(gate[i]), s = 1 / (1 + expf(-g)), d = wide(grad[i]);
        grad_up[i] = narrow(d * g * s);
        grad_gate[i] = narrow(d * wide(up[i]) * s * (1 + g * (1 - s)));
    }
}

/* out = x + h * keep, keep (rows, n) being the same at every position of a row */
void residual_forward(long rows, long length, long n, const float *x, const bf16 *h, const float *keep, float *out)
{
#pragma omp parallel for collapse(2)
    for (long r = 0; r < rows; r++)
        for (long t = 0; t < length; t++) {
            long at = (r * length + t) * n;
            for (long i = 0; i < n; i++)
                out[at + i] = x[at + i] + wide(h[at + i]) * keep[r * n + i];
        }
}

void residual_backward(long rows, long length, long n, const float *grad, const float *keep, bf16 *grad_h)
{
#pragma omp parallel for collapse(2)
    for (long r = 0; r < rows; r++)
        for (long t = 0; t < length; t++) {
            long at = (r * length + t) * n;
            for (long i = 0; i < n; i++)
                grad_h[at + i] = narrow(grad[at + i] * keep[r * n + i]);
        }
}

/* x (rows, length, heads, 2 * half); cos, sin (length, half); way is 1, or -1 to turn gradients back */
void rope(long rows, long length, long heads, long half, const bf16 *x, const float *cos, const float *sin, float way,
          bf16 *out)
{
#pragma omp parallel for collapse(2)
    for (long r = 0; r < rows; r++)
        for (long t = 0; t < length; t++)
            for (long h = 0; h < heads; h++) {
                const bf16 *a = x + ((r * length + t) * heads + h) * 2 * half;
                bf16 *o = out + (a - x);
                for (long i = 0; i < half; i++) {
                    float c = cos[t * half + i], s = way * sin[t * half + i];
                    float p = wide(a[i]), q = wide(a[half + i]);
                    o[i] = narrow(p * c - q * s);
                    o[half + i] = narrow(q * c + p * s);
                }
            }
}

/* scores (heads, length, past + length): causal softmax in place, of scores * scale */
void softmax_forward(long heads, long length, long past, float scale, bf16 *scores)
{
    long width = past + length;
#pragma omp parallel for collapse(2)
    for (long h = 0; h < heads; h++)
        for (long t = 0; t < length; t++) {
            bf16 *row = scores + (h * length + t) * width;
            long seen = past + t + 1;
            float top = -INFINITY, sum = 0;
            for (long i = 0; i < seen; i++)
                top = fmaxf(top, wide(row[i]));
            for (long i = 0; i < seen; i++)
                sum += expf((wide(row[i]) - top) * scale);
            for (long i = 0; i < seen; i++)
                row[i] = narrow(expf((wide(row[i]) - top) * scale) / sum);
            memset(row + seen, 0, (size_t)(width - seen) * sizeof *row);
        }
}

/* p as softmax_forward left it; grad becomes the gradient of the unscaled scores */
void softmax_backward(long rows, long width, float scale, const bf16 *p, bf16 *grad)
{
#pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        const bf16 *q = p + r * width;
        bf16 *g = grad + r * width;
        float dot = 0;
        for (long i = 0; i < width; i++)
            dot += wide(q[i]) * wide(g[i]);
        for (long i = 0; i < width; i++)
            g[i] = narrow(wide(q[i]) * (wide(g[i]) - dot) * scale);
    }
}

/* loss[r] = -log softmax(logits[r])[target[r]]; logits become the gradient of the sum of weight[r] loss[r] */
void cross_entropy(long rows, long n, bf16 *logits, const int64_t *target, const float *weight, float *loss)
{
#pragma omp parallel for
    for (long r = 0; r < rows; r++) {
        bf16 *row = logits + r * n;
        float top = -INFINITY, sum = 0, wanted = wide(row[target[r]]);
        for (long i = 0; i < n; i++)
            top = fmaxf(top, wide(row[i]));
        for (long i = 0; i < n; i++)
            sum += expf(wide(row[i]) - top);
        loss[r] = logf(sum) + top - wanted;
        float share = weight[r] / sum;
        for (long i = 0; i < n; i++)
            row[i] = narrow(expf(wide(row[i]) - top) * share);
        row[target[r]] = narrow((expf(wanted - top) / sum - 1) * weight[r]);
    }
}

/* AdamW as torch.optim's; grad is multiplied by `clip` first */
void adamw(long n, float *p, const float *grad, float *m, float *v, float clip, float rate, float decay, float beta1,
           float beta2, float correct1, float correct2)
{
#pragma omp parallel for
    for (long i = 0; i < n; i++) {
        float g = grad[i] * clip;
        m[i] = beta1 * m[i] + (1 - beta1) * g;
        v[i] = beta2 * v[i] + (1 - beta2) * g * g;
        p[i] = p[i] * (1 - rate * decay) - rate / correct1 * m[i] / (sqrtf(v[i] / correct2) + 1e-8f);
    }
}
