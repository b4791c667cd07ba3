/* ops/arch/probe_kernel.h for avx512. */
#define OPS_SET avx512
#include "ops/arch/probe_kernel.h"
