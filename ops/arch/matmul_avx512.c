/* The matrix kernels, compiled for one instruction set. */
#define OPS_SET avx512
#include "ops/arch/matmul_kernel.h"
