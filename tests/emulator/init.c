/* Process 1 of the emulated machine: mounts what programs expect, runs each line of /tests in a
 * shell, prints its exit status on the serial line, and turns the machine off. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define POWER_PORT 0x8900 /* of Bochs: the word written to it turns the machine off */

static void run(const char *line)
{
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("EXIT %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void power_off(void)
{
    tcdrain(STDOUT_FILENO);
    sync();
    if (ioperm(POWER_PORT, 1, 1) == 0)
        for (const char *c = "Shutdown"; *c; c++)
            outb((unsigned char)*c, POWER_PORT);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

int main(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/tmp", 01777);
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    int serial = open("/dev/ttyS0", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(serial, fd);
    setvbuf(stdout, NULL, _IONBF, 0);
    chdir("/quern");
    puts("BEGIN");
    char line[1024];
    FILE *tests = fopen("/tests", "re");
    while (tests && fgets(line, sizeof line, tests))
        run(line);
    puts("END");
    power_off();
}
