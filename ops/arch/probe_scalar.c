/* ops/arch/probe_kernel.h for scalar. */
#define OPS_SET scalar
#include "ops/arch/probe_kernel.h"
