/* Sentences for a person, built in the caller's buffer. */
#include "mm/why.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void mm_why_set(char *why, size_t why_size, const char *format, ...)
{
    if (why == NULL || why_size == 0)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(why, why_size, format, args);
    va_end(args);
}

void mm_why_add(char *why, size_t why_size, const char *format, ...)
{
    if (why == NULL || why_size == 0)
        return;
    size_t used = strnlen(why, why_size);
    if (used > 0 && used + 1 < why_size)
        why[used++] = ' ';
    if (used >= why_size)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(why + used, why_size - used, format, args);
    va_end(args);
}
