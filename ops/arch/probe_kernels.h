/* The inner loops of ops/probe.h, once per instruction set. */
#ifndef QUERN_OPS_ARCH_PROBE_KERNELS_H
#define QUERN_OPS_ARCH_PROBE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define OPS_PROBE_FMAS 12 /* of 16 lanes in one round of `fma` */

struct ops_probe_kernels {
    /* Reads n bytes (a multiple of 256); the result keeps the loads from being left out. */
    uint32_t (*read)(const uint8_t *data, size_t n);
    /* n rounds of OPS_PROBE_FMAS. */
    float (*fma)(size_t n);
};

extern const struct ops_probe_kernels ops_probe_kernels_scalar;
extern const struct ops_probe_kernels ops_probe_kernels_avx2;
extern const struct ops_probe_kernels ops_probe_kernels_avx512;

#endif
