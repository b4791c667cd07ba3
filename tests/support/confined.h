/* Runs a piece of a test in a child process with less than the test itself has: as a user without
 * capabilities, with little lockable memory, with a system call refused. Root hides limits that
 * every user of the service meets. */
#ifndef QUERN_TESTS_SUPPORT_CONFINED_H
#define QUERN_TESTS_SUPPORT_CONFINED_H

#include <stddef.h>

struct confinement {
    int unprivileged;           /* become "nobody" where we are root */
    size_t memlock_bytes;       /* RLIMIT_MEMLOCK; 0: as it is */
    const int *denied_syscalls; /* these return EPERM; ends with -1; or NULL */
};

/* Returns what `fn` returned in the child (0 … 127), or -1 where the child died of a signal, could
 * not be made or could not be confined. cmocka's assertions do not work inside `fn`: return a
 * number, e.g. __LINE__ % 128. */
int confined_run(const struct confinement *confinement, int (*fn)(void *arg), void *arg);

#endif
