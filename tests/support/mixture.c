/* Owns: the rules of the mixtures, a fact of the files that people have. */
#include "tests/support/mixture.h"

#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    enum ops_type type; /* of what no rule picks out */
} mixtures[N_MIXTURES] = {
    [MIX_Q4_0] = {"q4_0", OPS_Q4_0},       [MIX_Q4_1] = {"q4_1", OPS_Q4_1},
    [MIX_Q5_0] = {"q5_0", OPS_Q5_0},       [MIX_Q5_1] = {"q5_1", OPS_Q5_1},
    [MIX_Q8_0] = {"q8_0", OPS_Q8_0},       [MIX_Q2_K] = {"q2_k", OPS_Q2_K},
    [MIX_Q3_K_S] = {"q3_k_s", OPS_Q3_K},   [MIX_Q3_K_M] = {"q3_k_m", OPS_Q3_K},
    [MIX_Q3_K_L] = {"q3_k_l", OPS_Q3_K},   [MIX_Q4_K_S] = {"q4_k_s", OPS_Q4_K},
    [MIX_Q4_K_M] = {"q4_k_m", OPS_Q4_K},   [MIX_Q5_K_S] = {"q5_k_s", OPS_Q5_K},
    [MIX_Q5_K_M] = {"q5_k_m", OPS_Q5_K},   [MIX_Q6_K] = {"q6_k", OPS_Q6_K},
    [MIX_IQ4_NL] = {"iq4_nl", OPS_IQ4_NL}, [MIX_IQ4_XS] = {"iq4_xs", OPS_IQ4_XS},
};

const char *mixture_name(enum mixture mixture)
{
    return mixtures[mixture].name;
}

bool mixture_find(const char *name, enum mixture *ret)
{
    for (int i = 0; i < N_MIXTURES; i++)
        if (strcasecmp(name, mixtures[i].name) == 0) {
            *ret = (enum mixture)i;
            return true;
        }
    return false;
}

/* Layers that the medium mixtures give more bits: the first eighth, the last, and every third. */
static bool is_favoured(uint32_t layer, uint32_t n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static enum ops_type attn_v(enum mixture mixture, const struct mixture_place *place)
{
    switch (mixture) {
    case MIX_Q2_K:
        return place->n_gqa >= 4 ? OPS_Q4_K : OPS_Q3_K;
    case MIX_Q3_K_M:
        return place->layer < 2 ? OPS_Q5_K : OPS_Q4_K;
    case MIX_Q3_K_L:
        return OPS_Q5_K;
    case MIX_Q4_K_S:
        return place->layer < 4 ? OPS_Q5_K : OPS_Q4_K;
    case MIX_Q4_K_M:
    case MIX_Q5_K_M:
        return is_favoured(place->layer, place->n_layers) ? OPS_Q6_K : mixtures[mixture].type;
    case MIX_IQ4_NL:
    case MIX_IQ4_XS:
        return place->n_gqa >= 4 ? OPS_Q5_K : mixtures[mixture].type;
    default:
        return mixtures[mixture].type;
    }
}

static enum ops_type ffn_down(enum mixture mixture, const struct mixture_place *place)
{
    const uint32_t layer = place->layer, n = place->n_layers;
    switch (mixture) {
    case MIX_Q2_K:
        return OPS_Q3_K;
    case MIX_Q3_K_M:
        return layer < n / 16 ? OPS_Q5_K : OPS_Q4_K;
    case MIX_Q3_K_L:
        return OPS_Q5_K;
    case MIX_Q4_K_M:
    case MIX_Q5_K_M:
        return is_favoured(layer, n) ? OPS_Q6_K : mixtures[mixture].type;
    case MIX_Q4_K_S:
    case MIX_IQ4_NL:
    case MIX_IQ4_XS:
        return layer < n / 8 ? OPS_Q5_K : mixtures[mixture].type;
    default:
        return mixtures[mixture].type;
    }
}

static enum ops_type attn_output(enum mixture mixture)
{
    return mixture == MIX_Q2_K     ? OPS_Q3_K
           : mixture == MIX_Q3_K_M ? OPS_Q4_K
           : mixture == MIX_Q3_K_L ? OPS_Q5_K
                                   : mixtures[mixture].type;
}

/* What stands in for a type of 256 values a block where those do not divide a row. */
static enum ops_type fall_back(enum ops_type type, uint32_t n_cols)
{
    if (n_cols % ops_type_info(type)->block_len == 0)
        return type;
    switch (type) {
    case OPS_Q2_K:
    case OPS_Q3_K:
    case OPS_IQ4_XS:
        return OPS_IQ4_NL;
    case OPS_Q4_K:
        return OPS_Q5_0;
    case OPS_Q5_K:
        return OPS_Q5_1;
    case OPS_Q6_K:
        return OPS_Q8_0;
    default:
        return OPS_F16;
    }
}

enum ops_type mixture_type(enum mixture mixture, const struct mixture_place *place)
{
    enum ops_type type = mixtures[mixture].type;
    if (!strcmp(place->tensor, "output.weight") ||
        (place->tied && !strcmp(place->tensor, "token_embd.weight"))) {
        if (place->n_cols % ops_type_info(type)->block_len)
            type = OPS_Q8_0;
        else if (type != OPS_Q8_0)
            type = OPS_Q6_K;
    } else if (!strcmp(place->tensor, "attn_v.weight")) {
        type = attn_v(mixture, place);
        if (place->n_layers == 80 && (type == OPS_Q3_K || type == OPS_Q4_K))
            type = OPS_Q5_K; /* the 72B model: eight heads share it */
    } else if (!strncmp(place->tensor, "ffn_down", 8)) {
        type = ffn_down(mixture, place);
    } else if (!strcmp(place->tensor, "attn_output.weight")) {
        type = attn_output(mixture);
    }
    return fall_back(type, place->n_cols);
}
