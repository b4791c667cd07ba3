/* float16 and bfloat16 to float32 and back, one value at a time, with the bits of F16C: exact one
 * way, round to nearest even the other; a NaN stays a NaN and becomes quiet. */
#ifndef QUERN_OPS_ARCH_HALF_H
#define QUERN_OPS_ARCH_HALF_H

#include <stdint.h>
#include <string.h>

static inline float ops_float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint32_t ops_bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static inline float ops_float_of_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;

    if (magnitude > 0x7c00) /* NaN, made quiet */
        return ops_float_of_bits(sign | 0x7fc00000 | (magnitude & 0x3ff) << 13);
    if (magnitude == 0x7c00)
        return ops_float_of_bits(sign | 0x7f800000);
    if (magnitude >= 0x400)
        return ops_float_of_bits(sign | ((magnitude << 13) + ((127 - 15) << 23)));
    /* Denormal: magnitude · 2^-24, exact in float32. */
    return ops_float_of_bits(sign | ops_bits_of_float((float)magnitude * 0x1p-24f));
}

static inline uint16_t ops_f16_of_float(float f)
{
    const uint32_t bits = ops_bits_of_float(f), magnitude = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* rounds past 65504 */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        /* Below 2^-14: adding 0.5 puts the last place of the sum at 2^-24, and rounds to even. */
        const float sum = ops_float_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (ops_bits_of_float(sum) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - ((127 - 15) << 23)) >> 13));
}

static inline float ops_float_of_bf16(uint16_t h)
{
    return ops_float_of_bits((uint32_t)h << 16);
}

#endif
