/* The matrix kernels, compiled for one instruction set. */
#define OPS_SET scalar
#include "ops/arch/matmul_kernel.h"
