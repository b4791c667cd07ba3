/* Which instruction set the kernels use: the best that CPUID and the operating system (XCR0)
 * allow, or a lower one that the caller forces. Chosen once, before the first kernel runs.
 * Every set computes the same bits (docs/design.md, "Arithmetic"). */
#ifndef QUERN_OPS_ISA_H
#define QUERN_OPS_ISA_H

#include <stddef.h>

enum ops_isa {
    OPS_ISA_SCALAR,
    OPS_ISA_AVX2,
    OPS_ISA_AVX512,
    OPS_ISA_AVX512VNNI,
    OPS_ISA_AMX,
    OPS_N_ISA
};

/* Chooses the set: `name` is "scalar", "avx2", "avx512", "avx512vnni" or "amx", or NULL for the best.
 * Returns 0; -EINVAL for an unknown name; -ENOTSUP for a set that this machine cannot run. May be
 * called again (tests do, between runs, with no kernel running). */
int ops_isa_select(const char *name);

/* The set in use; selects the best one if nobody selected before. */
enum ops_isa ops_isa(void);

const char *ops_isa_name(enum ops_isa isa);

/* Whether this machine can run the set. */
int ops_isa_supported(enum ops_isa isa);

#endif
