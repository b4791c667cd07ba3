/* Which type each tensor of a quantized file has: the mixtures that llama.cpp's quantizer makes of a
 * Qwen2 ("Q4_K_M"), without an importance matrix, and its fallbacks where 256 does not divide a
 * row, as when the official files were made (later releases take Q4_0 in place of IQ4_NL). */
#ifndef QUERN_TESTS_SUPPORT_MIXTURE_H
#define QUERN_TESTS_SUPPORT_MIXTURE_H

#include "ops/type.h"

#include <stdbool.h>

enum mixture {
    MIX_Q4_0,
    MIX_Q4_1,
    MIX_Q5_0,
    MIX_Q5_1,
    MIX_Q8_0,
    MIX_Q2_K,
    MIX_Q3_K_S,
    MIX_Q3_K_M,
    MIX_Q3_K_L,
    MIX_Q4_K_S,
    MIX_Q4_K_M,
    MIX_Q5_K_S,
    MIX_Q5_K_M,
    MIX_Q6_K,
    MIX_IQ4_NL,
    MIX_IQ4_XS,
    N_MIXTURES
};

struct mixture_place {
    const char *tensor; /* the name without "blk.N." */
    uint32_t layer, n_layers;
    uint32_t n_gqa;  /* query heads to a key head */
    uint32_t n_cols; /* of the tensor */
    bool tied;       /* the embedding is the head */
};

const char *mixture_name(enum mixture mixture);

/* The mixture with this name in any case; false if there is none. */
bool mixture_find(const char *name, enum mixture *ret);

/* The type of a matrix (two dimensions or more; a router keeps F32). */
enum ops_type mixture_type(enum mixture mixture, const struct mixture_place *place);

#endif
