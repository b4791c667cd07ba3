/* The matrix kernels, compiled for one instruction set. */
#define OPS_SET amx
#include "ops/arch/matmul_kernel.h"
