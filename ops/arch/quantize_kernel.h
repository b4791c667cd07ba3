/* Activations to blocks of int8: d = amax / 127, q = round(x · (127 / amax)) within ±127, ties to
 * even; a block whose amax is below OPS_AMAX_MIN is zero. Part of ops/arch/matmul_kernel.h. */

OPS_INLINE vec_f32 quantize_amax(const float *x, const int n_vectors)
{
    vec_f32 amax = vf_zero();

    for (int i = 0; i < n_vectors; i++)
        amax = vf_max(vf_abs(vf_load(x + 16 * i)), amax);
    return amax;
}

/* Quantizes block b of 16 n_vectors floats to q (runs of 32 bytes, run_stride apart) and returns d.
 * A row that is NULL is zeros. */
OPS_INLINE float quantize_block(const float *row, size_t b, const int n_vectors, int8_t *q,
                                size_t run_stride)
{
    if (!row) {
        for (int i = 0; i < n_vectors; i += 2)
            memset(q + (size_t)(i / 2) * run_stride, 0, 32);
        return 0.0f;
    }
    const float *x = row + b * 16 * (size_t)n_vectors;
    const float amax = vf_hmax(quantize_amax(x, n_vectors));
    const bool zero = !(amax >= OPS_AMAX_MIN);
    const vec_f32 inverse = vf_set1(zero ? 0.0f : 127.0f / amax);
    const vec_f32 most = vf_set1(127.0f), least = vf_set1(-127.0f);

    for (int i = 0; i < n_vectors; i++) {
        vec_f32 scaled = vf_mul(vf_load(x + 16 * i), inverse);
        scaled = vf_max(vf_min(scaled, most), least);
        vi_store_i8(q + (size_t)(i / 2) * run_stride + 16 * (i % 2), vf_to_i32(scaled));
    }
    return zero ? 0.0f : amax / 127.0f;
}

static bool finite_row(const float *x, size_t n)
{
    /* x · 0 is NaN for NaN and infinity, and a zero otherwise. */
    vec_f32 sum = vf_zero();
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        sum = vf_fma(vf_load(x + i), vf_zero(), sum);
    if (i < n)
        sum = vf_fma(vf_load_n(x + i, (unsigned)(n - i)), vf_zero(), sum);
    return vf_sum(sum) == 0.0f;
}

/* Sums of q over a run of 32: in all, and over the inputs that the two halves of a lane see. */
struct run_sums {
    int all, low, high;
};

OPS_INLINE struct run_sums sum_run(const int8_t *q)
{
    int low = 0, high = 0;

    for (int i = 0; i < 32; i += 4) {
        low += q[i] + q[i + 1];
        high += q[i + 2] + q[i + 3];
    }
    return (struct run_sums){low + high, low, high};
}

static void quantize32(const float *x, size_t n, const struct ops_quantized *to)
{
    static const int offsets[OPS_N_START] = {8, 16, 128};

    for (size_t b = 0; b < n / 32; b++) {
        int8_t *q = to->q + b * to->width * 32;
        const float d = quantize_block(x, b, 2, q, 0);
        const struct run_sums sums = sum_run(q);
        const size_t at = b * to->width;

        to->d[at] = d;
        to->ds[at] = d * (float)sums.all;
        for (int i = 0; i < OPS_N_START; i++) {
#if OPS_DOT_WIDE
            to->start[i][at] = -offsets[i] * sums.all;
#else
            const uint16_t low = (uint16_t)(-offsets[i] * sums.low);
            const uint16_t high = (uint16_t)(-offsets[i] * sums.high);
            to->start[i][at] = (int32_t)((uint32_t)low | (uint32_t)high << 16);
#endif
        }
    }
}

static void quantize256(const float *x, size_t n, const struct ops_quantized *to)
{
    for (size_t b = 0; b < n / 256; b++) {
        int8_t *q = to->q + b * to->width * 256;
        int sums16[16], sums32[8];
        int32_t *pairs = to->sums + b * to->width * OPS_SUMS256_PAIRS;

        to->d[b * to->width] = quantize_block(x, b, 16, q, (size_t)to->width * 32);
        for (int s = 0; s < 16; s++) {
            const int8_t *run = q + (size_t)(s / 2) * to->width * 32 + 16 * (s % 2);
            sums16[s] = 0;
            for (int i = 0; i < 16; i++)
                sums16[s] += run[i];
        }
        for (int s = 0; s < 8; s++)
            sums32[s] = sums16[2 * s] + sums16[2 * s + 1];
        for (int p = 0; p < OPS_SUMS256_PAIRS; p++) {
            const int *sums = p < 8 ? sums16 : sums32, i = p % 8;
            const int first = i / 2 * 4 + i % 2;
            pairs[p] = (int32_t)((uint32_t)(uint16_t)sums[first] |
                                 (uint32_t)(uint16_t)sums[first + 2] << 16);
        }
    }
}
