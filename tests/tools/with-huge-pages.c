/* with-huge-pages N COMMAND…: runs a command while the pool of 2 MiB huge pages has N more of them,
 * or as many as memory gives (hugepool.h). Exits as the command does. */
#include "tests/support/hugepool.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 3 || atoi(argv[1]) <= 0) {
        fputs("usage: with-huge-pages N COMMAND…\n", stderr);
        return 64;
    }
    unsigned grown = hugepool_grow(2048, (unsigned)atoi(argv[1]));
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    int status = 0;
    if (pid > 0)
        waitpid(pid, &status, 0);
    hugepool_shrink(2048, grown);
    if (pid < 0)
        return 71;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
