/*
 * A lock in the kernel that is held until its holder is killed: the holder is in a call that faults in
 * a page which never comes. Here userfaultfd keeps the page back; a file of FUSE does it for any user.
 */
#ifndef QUERN_TESTS_TRAP_H
#define QUERN_TESTS_TRAP_H

#include <stdbool.h>

/* A child, in the caller's process group, takes the lock of fd: of an epoll, or (by write(2)) of a file
 * of 12 KiB or more. It closes close_fd before. False: there is no userfaultfd. */
bool trap_hold_lock(int fd, bool is_epoll, int close_fd);

#endif
