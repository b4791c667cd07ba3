/* One block of each quantized type, from float32. The layouts are the format's (ggml-common.h of
 * github.com/ggml-org/ggml); x has block_len values, all finite and at most 65504 in magnitude, dst
 * block_bytes. Types: encode_block32 Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL; encode_block256 Q2_K to
 * Q6_K, IQ4_XS. */
#ifndef QUERN_SVC_MODEL_ENCODE_BLOCK_H
#define QUERN_SVC_MODEL_ENCODE_BLOCK_H

#include "ops/type.h"

/* The levels of IQ4_NL and IQ4_XS. */
extern const int8_t encode_iq4_levels[16];

void encode_block32(enum ops_type type, const float *x, uint8_t *dst);
void encode_block256(enum ops_type type, const float *x, uint8_t *dst);

#endif
