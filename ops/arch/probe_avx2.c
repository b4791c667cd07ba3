/* ops/arch/probe_kernel.h for avx2. */
#define OPS_SET avx2
#include "ops/arch/probe_kernel.h"
