/* ops/arch/vector_kernel.h for avx2. */
#define OPS_SET avx2
#include "ops/arch/vector_kernel.h"
