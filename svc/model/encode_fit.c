/* Owns: the search for scales. A few starting scales around the one that just holds the largest
 * value; for each, the values are rounded and the scale is set to the least squares' solution for
 * these roundings; the one with the least error wins. Slow and plain: quantizing is done once. */
#include "svc/model/encode_fit.h"

#include <math.h>

enum { VALUES_MAX = 32, TRIES = 9 };

int encode_nearest(const int8_t *levels, int n_levels, float x)
{
    int best = 0;
    if (levels[n_levels - 1] - levels[0] == n_levels - 1) { /* whole numbers */
        float q = nearbyintf(x) - (float)levels[0];
        return q > (float)(n_levels - 1) ? n_levels - 1 : q > 0 ? (int)q : 0;
    }
    for (int i = 1; i < n_levels; i++)
        if (fabsf(x - (float)levels[i]) < fabsf(x - (float)levels[best]))
            best = i;
    return best;
}

float encode_fit_levels(const float *x, int n, const int8_t *levels, int n_levels)
{
    float top = 0, best_d = 0, best_error = INFINITY;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(top))
            top = x[i];
    for (int try = 0; try < TRIES && top != 0; try++) {
        /* the largest value at 100 % to 84 % of the largest level */
        float d = top / ((float)levels[0] * (1 - 0.02f * (float)try)), xq = 0, qq = 0, error = 0;
        for (int i = 0; i < n; i++) {
            float q = levels[encode_nearest(levels, n_levels, x[i] / d)];
            xq += x[i] * q;
            qq += q * q;
        }
        d = qq > 0 ? xq / qq : d;
        for (int i = 0; i < n && d != 0; i++) {
            float miss = x[i] - d * (float)levels[encode_nearest(levels, n_levels, x[i] / d)];
            error += miss * miss;
        }
        if (d != 0 && error < best_error) {
            best_error = error;
            best_d = d;
        }
    }
    return best_d;
}

int encode_step(float x, float d, float m, int top)
{
    float q = d > 0 ? nearbyintf((x - m) / d) : 0;
    return q > (float)top ? top : q > 0 ? (int)q : 0;
}

/* Least squares of d · q + m for given q; leaves both where the q are all equal. */
static void solve(const float *x, const int *q, int n, bool minimum_only, float *d, float *m)
{
    float sx = 0, sq = 0, sxq = 0, sqq = 0;
    for (int i = 0; i < n; i++) {
        float f = (float)q[i];
        sx += x[i];
        sq += f;
        sxq += x[i] * f;
        sqq += f * f;
    }
    float determinant = (float)n * sqq - sq * sq;
    if (determinant <= 0)
        return;
    float new_d = ((float)n * sxq - sx * sq) / determinant;
    float new_m = (sx - new_d * sq) / (float)n;
    if (minimum_only && new_m > 0) {
        new_m = 0;
        new_d = sxq / sqq;
    }
    if (new_d > 0) {
        *d = new_d;
        *m = new_m;
    }
}

void encode_fit_affine(const float *x, int n, int top, bool minimum_only, float *ret_d,
                       float *ret_m)
{
    float low = x[0], high = x[0], best_error = INFINITY;
    for (int i = 1; i < n; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    if (minimum_only && low > 0)
        low = 0;
    *ret_d = 0;
    *ret_m = minimum_only && low > 0 ? 0 : low;
    for (int try = 0; try < TRIES && high > low; try++) {
        float d = (high - low) / ((float)top * (1 + 0.03f * (float)try)), m = low, error = 0;
        int q[VALUES_MAX];
        for (int i = 0; i < n; i++)
            q[i] = encode_step(x[i], d, m, top);
        solve(x, q, n, minimum_only, &d, &m);
        for (int i = 0; i < n; i++) {
            float miss = x[i] - m - d * (float)encode_step(x[i], d, m, top);
            error += miss * miss;
        }
        if (error < best_error) {
            best_error = error;
            *ret_d = d;
            *ret_m = m;
        }
    }
}
