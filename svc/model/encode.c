/* Owns: encoding of float32 rows for GGUF files, one value at a time; nothing here is hot. */
#include "svc/model/encode.h"

#include "ops/arch/half.h"

#include <errno.h>
#include <math.h>
#include <strings.h>

struct q8_0_block {
    uint16_t d; /* F16 */
    int8_t q[32];
};
_Static_assert(sizeof(struct q8_0_block) == 34, "Q8_0 block of the file format");

bool model_encode_type(const char *name, enum ops_type *ret)
{
    static const enum ops_type types[] = {OPS_F32, OPS_F16, OPS_BF16, OPS_Q8_0};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcasecmp(name, ops_type_info(types[i])->name) == 0) {
            *ret = types[i];
            return true;
        }
    return false;
}

static uint16_t bf16_of_float(float f)
{
    uint32_t bits = ops_bits_of_float(f);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void encode_q8_0(const float *x, struct q8_0_block *block)
{
    float amax = 0;
    for (int i = 0; i < 32; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    float d = amax / 127, inverse = d > 0 ? 1 / d : 0;
    block->d = ops_f16_of_float(d);
    for (int i = 0; i < 32; i++) {
        float q = nearbyintf(x[i] * inverse);
        block->q[i] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
    }
}

int model_encode_row(enum ops_type type, const float *x, size_t n, void *dst)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return -EDOM;
    switch (type) {
    case OPS_F32:
        memcpy(dst, x, n * sizeof *x);
        return 0;
    case OPS_F16:
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = ops_f16_of_float(x[i]);
        return 0;
    case OPS_BF16:
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = bf16_of_float(x[i]);
        return 0;
    case OPS_Q8_0:
        for (size_t i = 0; i < n / 32; i++)
            encode_q8_0(x + 32 * i, (struct q8_0_block *)dst + i);
        return 0;
    default:
        return -ENOTSUP;
    }
}
