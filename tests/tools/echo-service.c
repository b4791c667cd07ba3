/* The echo service of the tests as a program: echo-service SOCKET, until SIGTERM. */
#include "tests/support/echo_service.h"
#include <signal.h>
#include <stdio.h>

static struct echo_service *echo;

static void stop(int signal)
{
    (void)signal;
    echo_stop(echo);
}

int main(int argc, char **argv)
{
    struct echo_options options = {.limits = ipc_limits_default};

    if (argc != 2) {
        fprintf(stderr, "usage: echo-service SOCKET\n");
        return 64;
    }
    options.path = argv[1];
    /* Small rings, so that every test goes around them. */
    options.limits.preset = (struct ipc_sizes){8, 64, IPC_BYTES_MIN, IPC_BYTES_MIN};
    echo = echo_new(&options);
    signal(SIGTERM, stop);
    echo_run(echo, false);
    bool clean = echo_counts(echo)->violations == 0;
    echo_free(echo);
    return clean ? 0 : 1;
}
