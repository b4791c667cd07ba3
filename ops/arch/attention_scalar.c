/* ops/arch/attention_kernel.h for scalar. */
#define OPS_SET scalar
#include "ops/arch/attention_kernel.h"
