/* Scales for groups of values that share one: what every quantized type needs. */
#ifndef QUERN_SVC_MODEL_ENCODE_FIT_H
#define QUERN_SVC_MODEL_ENCODE_FIT_H

#include <stdbool.h>
#include <stdint.h>

/* The level of `n_levels` ascending ones that is nearest to x. */
int encode_nearest(const int8_t *levels, int n_levels, float x);

/* The scale d, of either sign, for which d · level comes near the n (at most 32) values at x, level
 * being the best of the ascending ones, of which the first is the largest in magnitude. The squared
 * error counts. 0 where all values are 0. */
float encode_fit_levels(const float *x, int n, const int8_t *levels, int n_levels);

/* d >= 0 and m for which d · q + m, q in 0 … top, comes near the values; m <= 0 where
 * `minimum_only`, since K-quants store -m without a sign. */
void encode_fit_affine(const float *x, int n, int top, bool minimum_only, float *ret_d,
                       float *ret_m);

/* rne((x - m) / d) within 0 … top; 0 where d is 0. */
int encode_step(float x, float d, float m, int top);

#endif
