/* Instruction set detection and choice. CPUID says what the processor has, XCR0 what registers the
 * operating system saves: a set counts only if both agree. */
#define _GNU_SOURCE
#include "ops/isa.h"

#include <cpuid.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const isa_names[OPS_N_ISA] = {
    [OPS_ISA_SCALAR] = "scalar",         [OPS_ISA_AVX2] = "avx2", [OPS_ISA_AVX512] = "avx512",
    [OPS_ISA_AVX512VNNI] = "avx512vnni", [OPS_ISA_AMX] = "amx",
};

/* The set in use, or -1 before the first choice. Written by ops_isa_select alone. */
static atomic_int isa_in_use = -1;

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Whether the kernel lets this process use the tile registers. Asked once for all threads. */
static int may_use_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static enum ops_isa best_isa(void)
{
    enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, XCR0_TILES = 0x60000 };
    const unsigned amx_bits = 1u << 24 | 1u << 25; /* AMX-TILE, AMX-INT8 */
    const unsigned avx512_bits = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const unsigned leaf1_bits = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    unsigned a, b, c, d, b7, c7, d7;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1_bits) != leaf1_bits)
        return OPS_ISA_SCALAR;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 & bit_AVX2))
        return OPS_ISA_SCALAR;
    const uint64_t xcr0 = read_xcr0();
    if ((xcr0 & XCR0_AVX) != XCR0_AVX)
        return OPS_ISA_SCALAR;
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512 || (b7 & avx512_bits) != avx512_bits)
        return OPS_ISA_AVX2;
    if (!(c7 & bit_AVX512VNNI))
        return OPS_ISA_AVX512;
    if ((d7 & amx_bits) != amx_bits || (xcr0 & XCR0_TILES) != XCR0_TILES || !may_use_tiles())
        return OPS_ISA_AVX512VNNI;
    return OPS_ISA_AMX;
}

int ops_isa_supported(enum ops_isa isa)
{
    return isa <= best_isa();
}

const char *ops_isa_name(enum ops_isa isa)
{
    return isa_names[isa];
}

int ops_isa_select(const char *name)
{
    int isa = OPS_ISA_SCALAR;

    if (!name) {
        isa = best_isa();
    } else {
        while (isa < OPS_N_ISA && strcmp(name, isa_names[isa]) != 0)
            isa++;
        if (isa == OPS_N_ISA)
            return -EINVAL;
        if (!ops_isa_supported((enum ops_isa)isa))
            return -ENOTSUP;
    }
    atomic_store_explicit(&isa_in_use, isa, memory_order_relaxed);
    return 0;
}

enum ops_isa ops_isa(void)
{
    int isa = atomic_load_explicit(&isa_in_use, memory_order_relaxed);

    if (isa < 0) {
        /* Two first callers may both come here; they find the same set. */
        ops_isa_select(NULL);
        isa = atomic_load_explicit(&isa_in_use, memory_order_relaxed);
    }
    return (enum ops_isa)isa;
}
