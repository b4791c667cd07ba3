/* Activations to blocks of int8: d = amax / 127, q = round(x · (127 / amax)) within ±127, ties to
 * even; a block whose amax is below OPS_AMAX_MIN is zero. Part of ops/arch/matmul_kernel.h. */

OPS_INLINE vec_f32 quantize_amax(const float *x, const int n_vectors)
{
    vec_f32 amax = vf_zero();

    for (int i = 0; i < n_vectors; i++)
        amax = vf_max(vf_abs(vf_load(x + 16 * i)), amax);
    return amax;
}

/* Quantizes block b of 16 n_vectors floats to q (runs of 32 bytes, run_stride apart), leaves the same
 * integers in `lanes` (n_vectors) and returns d. A row that is NULL is zeros. */
OPS_INLINE float quantize_block(const float *row, size_t b, const int n_vectors, int8_t *q,
                                size_t run_stride, vec_i32 *lanes)
{
    if (!row) {
        for (int i = 0; i < n_vectors; i++) {
            lanes[i] = vi_zero();
            vi_store_i8(q + (size_t)(i / 2) * run_stride + 16 * (i % 2), vi_zero());
        }
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
        lanes[i] = vf_to_i32(scaled);
        vi_store_i8(q + (size_t)(i / 2) * run_stride + 16 * (i % 2), lanes[i]);
    }
    return zero ? 0.0f : amax / 127.0f;
}

/* The sum of 16 integers, by way of floats: below 2^24 these are exact. */
OPS_INLINE int quantized_sum(vec_i32 lanes)
{
    return (int)vf_sum(vi_to_f32(lanes));
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

static void quantize32(const float *x, size_t n, const struct ops_quantized *to)
{
    static const int offsets[OPS_N_START] = {8, 16, 128};
#if !OPS_DOT_WIDE
    /* The inputs that the low half of a lane of a dot sees: the first two of every four. */
    static const int32_t low_inputs[16] = {-1, -1, 0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1, 0, 0};
    const vec_i32 is_low = vi_load(low_inputs);
#endif

    for (size_t b = 0; b < n / 32; b++) {
        const size_t at = b * to->width;
        vec_i32 lanes[2];
        const float d = quantize_block(x, b, 2, to->q + at * 32, 0, lanes);
        const vec_i32 both = vi_add(lanes[0], lanes[1]);
        const int sum = quantized_sum(both);

        to->d[at] = d;
        to->ds[at] = d * (float)sum;
#if !OPS_DOT_WIDE
        const int low_sum = quantized_sum(vi_and(both, is_low));
#endif
        for (int i = 0; i < OPS_N_START; i++) {
#if OPS_DOT_WIDE
            to->start[i][at] = -offsets[i] * sum;
#else
            const uint16_t low = (uint16_t)(-offsets[i] * low_sum);
            const uint16_t high = (uint16_t)(-offsets[i] * (sum - low_sum));
            to->start[i][at] = (int32_t)((uint32_t)low | (uint32_t)high << 16);
#endif
        }
    }
}

static void quantize256(const float *x, size_t n, const struct ops_quantized *to)
{
    for (size_t b = 0; b < n / 256; b++) {
        int8_t *q = to->q + b * to->width * 256;
        int32_t *pairs = to->sums + b * to->width * OPS_SUMS256_PAIRS;
        vec_i32 lanes[16];
        int sums16[16], sums32[8];

        to->d[b * to->width] = quantize_block(x, b, 16, q, (size_t)to->width * 32, lanes);
        for (int s = 0; s < 16; s++)
            sums16[s] = quantized_sum(lanes[s]);
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
