/* attention_test with sizes that an emulated processor has time for. */
#define QUERN_TOY 1
#include "tests/unit/attention_test.c"
