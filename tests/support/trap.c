/* Locks that are held for ever: see trap.h. */
#define _GNU_SOURCE
#include "tests/support/trap.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A page that never comes, until this process ends. NULL: not to be had. */
static void *missing_page(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)page, 4096},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    int fault_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    bool had = fault_fd >= 0 && ioctl(fault_fd, UFFDIO_API, &api) >= 0 &&
               ioctl(fault_fd, UFFDIO_REGISTER, &range) >= 0;

    return had ? page : NULL;
}

bool trap_hold_lock(int fd, bool is_epoll, int close_fd)
{
    int ready[2];
    char byte;

    if (pipe(ready) < 0)
        _exit(3);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(close_fd);
        void *page = missing_page();
        if (page == NULL)
            _exit(1);
        (void)!write(ready[1], "!", 1);
        if (is_epoll)
            epoll_wait(fd, page, 1, -1);
        else
            (void)!pwrite(fd, page, 4096, 8192);
        _exit(2);
    }
    close(ready[1]);
    bool held = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    usleep(100000); /* until it is in the call */
    return held;
}
