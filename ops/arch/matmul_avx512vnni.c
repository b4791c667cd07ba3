/* The matrix kernels, compiled for one instruction set. */
#define OPS_SET avx512vnni
#include "ops/arch/matmul_kernel.h"
