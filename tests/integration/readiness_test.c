/* What quernd says to systemd, heard on a socket in systemd's place: activation by the first
 * connection, readiness, the watchdog armed for work and disarmed at rest, stopping. */
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct quernd service;
static char notify_path[108];

static int bound_socket(const char *path, int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Starts quernd as systemd would: the listening socket as descriptor 3. */
static pid_t activate(int listener)
{
    char program[256], number[16];
    const char *build = getenv("BUILD");
    snprintf(program, sizeof program, "%s/quernd", build ? build : "build");
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    dup2(listener, 3);
    fcntl(3, F_SETFD, 0);
    snprintf(number, sizeof number, "%d", (int)getpid());
    setenv("LISTEN_PID", number, 1);
    setenv("LISTEN_FDS", "1", 1);
    setenv("NOTIFY_SOCKET", notify_path, 1);
    setenv("WATCHDOG_USEC", "20000000", 1);
    unsetenv("WATCHDOG_PID");
    execl(program, program, "--model", service.model, "--context", "512", "--threads", "1", NULL);
    _exit(127);
}

/* Waits until a message with this line has come; messages before it are passed over, but none of
 * them may have the line `never`. */
static void expect(int fd, const char *line, const char *never)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char message[1024] = "\n";
        if (poll(&p, 1, 20000) != 1)
            fail_msg("\"%s\" did not come", line);
        ssize_t n = recv(fd, message + 1, sizeof message - 3, 0);
        assert_true(n > 0);
        strcpy(message + 1 + n, "\n");
        if (strstr(message, line))
            return;
        if (never && strstr(message, never))
            fail_msg("\"%s\" came before \"%s\"", never, line);
    }
}

static void one_answer(void)
{
    quern *q;
    struct quern_request r;
    struct quern_result result;
    if (quern_connect(&q, service.socket) < 0)
        fail_msg("%s", quern_connect_error());
    quern_request_init(&r);
    r.input = "The mill";
    r.input_size = 8;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS;
    r.max_tokens = 5;
    assert_int_equal(quern_generate(q, &r, NULL, NULL, &result), 0);
    assert_int_equal(result.final_.reason, QUERN_REASON_LENGTH);
    assert_int_equal(result.final_.generated, 5);
    quern_close(q);
}

static void says_what_systemd_needs_to_know(void **state)
{
    (void)state;
    int status;
    quernd_prepare(&service, (const char *const[]){"--shape", "tiny", NULL});
    snprintf(notify_path, sizeof notify_path, "%s/notify", service.folder);
    int notify = bound_socket(notify_path, SOCK_DGRAM);
    int listener = bound_socket(service.socket, SOCK_SEQPACKET);
    assert_int_equal(listen(listener, 16), 0);

    pid_t client = fork(); /* connects before there is a service: activation */
    if (client == 0) {
        one_answer();
        _exit(0);
    }
    pid_t pid = activate(listener);
    expect(notify, "\nREADY=1\n", "\nWATCHDOG_USEC=20000000\n");
    expect(notify, "\nWATCHDOG_USEC=20000000\n", "\nSTOPPING=1\n"); /* work */
    assert_int_equal(waitpid(client, &status, 0), client);
    assert_int_equal(status, 0);
    expect(notify, "\nWATCHDOG_USEC=0\n", "\nSTOPPING=1\n"); /* rest */
    one_answer();
    expect(notify, "\nWATCHDOG_USEC=20000000\n", "\nSTOPPING=1\n");

    kill(pid, SIGTERM);
    expect(notify, "\nSTOPPING=1\n", NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(access(service.socket, F_OK), 0); /* systemd's socket stays */
    close(notify);
    close(listener);
    quernd_remove(&service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_systemd_needs_to_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
