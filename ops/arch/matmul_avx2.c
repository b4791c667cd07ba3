/* The matrix kernels, compiled for one instruction set. */
#define OPS_SET avx2
#include "ops/arch/matmul_kernel.h"
