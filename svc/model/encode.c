/* Owns: encoding of float32 rows for GGUF files, one value at a time; nothing here is hot. */
#include "svc/model/encode.h"

#include "svc/model/encode_block.h"

#include "ops/arch/half.h"

#include <errno.h>
#include <math.h>
#include <strings.h>

bool model_encode_type(const char *name, enum ops_type *ret)
{
    for (uint32_t type = 0; type <= OPS_BF16; type++) {
        const struct ops_type_info *info = ops_type_info(type);
        if (info && strcasecmp(name, info->name) == 0) {
            *ret = type;
            return true;
        }
    }
    return false;
}

#define F16_MAX 65504.0f

static uint16_t bf16_of_float(float f)
{
    uint32_t bits = ops_bits_of_float(f);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

int model_encode_row(enum ops_type type, const float *x, size_t n, void *dst)
{
    const struct ops_type_info *info = ops_type_info(type);
    const float most = type == OPS_F32 || type == OPS_BF16 ? INFINITY : F16_MAX;
    if (!info || n % info->block_len)
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return -EDOM;
        else if (fabsf(x[i]) > most)
            return -ERANGE;
    if (type == OPS_F32) {
        memcpy(dst, x, n * sizeof *x);
        return 0;
    }
    for (size_t i = 0; i < n; i += info->block_len) {
        uint8_t *block = (uint8_t *)dst + i / info->block_len * info->block_bytes;
        if (info->block_len == 1) {
            uint16_t half = type == OPS_F16 ? ops_f16_of_float(x[i]) : bf16_of_float(x[i]);
            memcpy(block, &half, sizeof half);
        } else if (info->block_len == 32) {
            encode_block32(type, x + i, block);
        } else {
            encode_block256(type, x + i, block);
        }
    }
    return 0;
}
