/* A child process with less than the test has. */
#define _GNU_SOURCE /* setresuid */
#include "tests/support/confined.h"

#include <errno.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY         65534
#define DENIED_MAX     16
#define CONFINE_FAILED 127

static int deny(const int *syscalls)
{
    struct sock_filter filter[2 * DENIED_MAX + 2];
    unsigned short n = 0;
    filter[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; syscalls[i] >= 0 && i < DENIED_MAX; i++) {
        filter[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)syscalls[i], 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = n, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int confine(const struct confinement *confinement)
{
    if (confinement->memlock_bytes > 0) {
        struct rlimit limit = {confinement->memlock_bytes, confinement->memlock_bytes};
        if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0)
            return -1;
    }
    if (confinement->unprivileged && geteuid() == 0 &&
        (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
         setresuid(NOBODY, NOBODY, NOBODY) < 0))
        return -1;
    /* A change of user clears the flag, and without it /proc/self is root's. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    return confinement->denied_syscalls ? deny(confinement->denied_syscalls) : 0;
}

int confined_run(const struct confinement *confinement, int (*fn)(void *arg), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return -1;
    if (pid == 0) {
        /* cmocka's handlers would go on with the next test, in the child. */
        const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGABRT};
        for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++)
            signal(deadly[i], SIG_DFL);
        if (confine(confinement) < 0)
            _exit(CONFINE_FAILED);
        int result = fn(arg);
        fflush(NULL);
        _exit(result & 127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -1;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) == CONFINE_FAILED)
        return -1;
    return WEXITSTATUS(status);
}
