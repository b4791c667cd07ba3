/* The guard of "a step allocates nothing": between begin and end, jemalloc's count of what this thread
 * has allocated may not move, else the process aborts with a sentence. Off until it is turned on
 * (debug builds, -DQUERN_DEBUG, and QUERN_GUARD=1 in the environment of quernd do); without jemalloc
 * it has no effect. One guarded piece of code a thread at a time. */
#ifndef QUERN_MM_GUARD_H
#define QUERN_MM_GUARD_H

/* Before threads are started. 0, or -ENOSYS: jemalloc does not serve this process. */
int mm_guard_turn_on(void);

void mm_guard_begin(void);
void mm_guard_end(const char *what);

/* Around what may allocate within the guarded piece. */
void mm_guard_pause(void);
void mm_guard_go_on(void);

#endif
