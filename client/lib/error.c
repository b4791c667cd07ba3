/* One sentence for each thread about its last call that failed. */
#include "client/lib/handle.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static _Thread_local const quern *failed_handle;
static _Thread_local char sentence[320];

int quern_fail(const quern *q, int r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    failed_handle = q;
    return r;
}

const char *quern_sentence(const quern *q)
{
    return failed_handle == q ? sentence : "";
}

QUERN_API const char *quern_error(const quern *q)
{
    return quern_sentence(q);
}

QUERN_API const char *quern_connect_error(void)
{
    return quern_sentence(NULL);
}

int quern_usable(const quern *q)
{
    if (*(const volatile uint32_t *)q->alive != QUERN_ALIVE)
        return quern_fail(q, -EOWNERDEAD,
                          "This process is a fork of the one that connected; connect again here.");
    return 0;
}
