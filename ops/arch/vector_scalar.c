/* ops/arch/vector_kernel.h for scalar. */
#define OPS_SET scalar
#include "ops/arch/vector_kernel.h"
