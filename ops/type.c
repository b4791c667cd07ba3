/* The table of GGUF tensor types: the ids are the format's (ggml.h, enum ggml_type), the block
 * sizes those of its block definitions. */
#include "ops/type.h"

#include <stddef.h>

static const struct ops_type_info type_infos[] = {
    [OPS_F32] = {"F32", 1, 4},         [OPS_F16] = {"F16", 1, 2},
    [OPS_Q4_0] = {"Q4_0", 32, 18},     [OPS_Q4_1] = {"Q4_1", 32, 20},
    [OPS_Q5_0] = {"Q5_0", 32, 22},     [OPS_Q5_1] = {"Q5_1", 32, 24},
    [OPS_Q8_0] = {"Q8_0", 32, 34},     [OPS_Q2_K] = {"Q2_K", 256, 84},
    [OPS_Q3_K] = {"Q3_K", 256, 110},   [OPS_Q4_K] = {"Q4_K", 256, 144},
    [OPS_Q5_K] = {"Q5_K", 256, 176},   [OPS_Q6_K] = {"Q6_K", 256, 210},
    [OPS_IQ4_NL] = {"IQ4_NL", 32, 18}, [OPS_IQ4_XS] = {"IQ4_XS", 256, 136},
    [OPS_BF16] = {"BF16", 1, 2},
};

/* Types of the format without a kernel here; 4, 5, 31–33 and 36–38 were withdrawn from it. */
static const char *const type_names[] = {
    [9] = "Q8_1",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
    [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S",   [24] = "I8",     [25] = "I16",
    [26] = "I32",   [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",  [34] = "TQ1_0",
    [35] = "TQ2_0", [39] = "MXFP4",
};

const struct ops_type_info *ops_type_info(uint32_t gguf_type)
{
    if (gguf_type >= sizeof(type_infos) / sizeof(type_infos[0]) || !type_infos[gguf_type].name)
        return NULL;
    return &type_infos[gguf_type];
}

const char *ops_type_name(uint32_t gguf_type)
{
    const struct ops_type_info *info = ops_type_info(gguf_type);

    if (info)
        return info->name;
    if (gguf_type >= sizeof(type_names) / sizeof(type_names[0]))
        return NULL;
    return type_names[gguf_type];
}
