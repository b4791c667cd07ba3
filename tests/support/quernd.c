/* A quernd of its own for a test (see quernd.h). */
#include "tests/support/quernd.h"

#include "client/quern.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 32, START_TRIES = 600 };

__attribute__((noreturn)) static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static const char *build(void)
{
    const char *folder = getenv("BUILD");
    return folder ? folder : "build";
}

static pid_t start(const char *program, const char *const *fixed, const char *const *more,
                   const char *log)
{
    char path[256];
    const char *argv[ARGUMENTS_MAX];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", build(), program);
    argv[n++] = path;
    for (; *fixed && n < ARGUMENTS_MAX - 1; fixed++)
        argv[n++] = *fixed;
    for (; more && *more && n < ARGUMENTS_MAX - 1; more++)
        argv[n++] = *more;
    argv[n] = NULL;
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that dies leaves no service behind */
    int fd = log ? open(log, O_CREAT | O_WRONLY | O_APPEND, 0600) : -1;
    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
    }
    execv(path, (char *const *)argv);
    perror(path);
    _exit(127);
}

void quernd_prepare(struct quernd *q, const char *const *model_options)
{
    int status;
    *q = (struct quernd){.folder = "/tmp/quern-service.XXXXXX"};
    if (!mkdtemp(q->folder))
        give_up(q->folder);
    snprintf(q->socket, sizeof q->socket, "%s/quern.sock", q->folder);
    snprintf(q->model, sizeof q->model, "%s/toy.gguf", q->folder);
    pid_t pid =
        start("tests/tools/make-model", model_options, (const char *const[]){q->model, NULL}, NULL);
    if (waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "make-model failed\n");
        exit(1);
    }
}

void quernd_start(struct quernd *q, const char *const *options)
{
    char log[96];
    snprintf(log, sizeof log, "%s/log", q->folder);
    q->pid =
        start("quernd", (const char *const[]){"--model", q->model, "--socket", q->socket, NULL},
              options, log);
    for (int i = 0; i < START_TRIES; i++) {
        quern *c;
        struct quern_request r;
        struct quern_result result;
        if (waitpid(q->pid, NULL, WNOHANG) != 0)
            break;
        usleep(50000);
        if (quern_connect(&c, q->socket) < 0)
            continue;
        quern_request_init(&r);
        r.op = QUERN_OP_INFO; /* answered when the model is loaded */
        int failed = quern_generate(c, &r, NULL, NULL, &result);
        quern_close(c);
        if (failed == 0)
            return;
    }
    fprintf(stderr, "quernd did not start; see %s\n", log);
    exit(1);
}

/* What it said last, such as a sanitizer's report: quernd_remove would take it away. */
static void show_log(const struct quernd *q)
{
    char path[96], text[16384];
    snprintf(path, sizeof path, "%s/log", q->folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    ssize_t n = size < 0 ? -1
                         : pread(fd, text, sizeof text,
                                 size > (off_t)sizeof text ? size - (off_t)sizeof text : 0);
    if (n > 0)
        (void)!write(STDERR_FILENO, text, (size_t)n);
    if (fd >= 0)
        close(fd);
}

int quernd_stop(struct quernd *q)
{
    int status = -1;
    kill(q->pid, SIGTERM);
    if (waitpid(q->pid, &status, 0) != q->pid)
        give_up("waitpid");
    q->pid = 0;
    if (status != 0) {
        fprintf(stderr, "quernd ended with status %x; its log ends so:\n", (unsigned)status);
        show_log(q);
    }
    return status;
}

void quernd_remove(struct quernd *q)
{
    DIR *d = opendir(q->folder);
    char path[400];
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", q->folder, e->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(q->folder);
}

/* ---- /proc --------------------------------------------------------------------------------- */

static unsigned count_entries(const struct quernd *q, const char *what)
{
    char path[64];
    unsigned n = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)q->pid, what);
    DIR *d = opendir(path);
    if (!d)
        give_up(path);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static size_t read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    if (n < 0)
        give_up(path);
    close(fd);
    text[n] = 0;
    return (size_t)n;
}

static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

struct quernd_usage quernd_usage(const struct quernd *q)
{
    struct quernd_usage u = {.n_fds = count_entries(q, "fd"),
                             .n_maps = count_entries(q, "map_files")};
    char path[300], text[4096];
    snprintf(path, sizeof path, "/proc/%d/task", (int)q->pid);
    DIR *d = opendir(path);
    if (!d)
        give_up(path);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/stat", (int)q->pid, e->d_name);
        read_file(path, text, sizeof text);
        unsigned long long user = 0, system = 0;
        char *after = strrchr(text, ')'); /* fields 14 and 15; the name may hold anything */
        if (after)
            sscanf(after, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                   &system);
        u.cpu_ticks += user + system;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/status", (int)q->pid, e->d_name);
        read_file(path, text, sizeof text);
        u.context_switches += number_after(text, "\nvoluntary_ctxt_switches:") +
                              number_after(text, "\nnonvoluntary_ctxt_switches:");
        u.resident_kib = number_after(text, "\nVmRSS:");
    }
    closedir(d);
    return u;
}

/* ---- status -------------------------------------------------------------------------------- */

struct status_text {
    size_t n;
    char text[8192];
};

static int collect(void *arg, const struct quern_event *event)
{
    struct status_text *s = arg;
    if (event->type == QUERN_EVENT_DATA && s->n + event->data_size < sizeof s->text) {
        memcpy(s->text + s->n, event->data, event->data_size);
        s->n += event->data_size;
        s->text[s->n] = 0;
    }
    return 0;
}

uint64_t quernd_status(const struct quernd *q, const char *key)
{
    struct status_text s = {.n = 1, .text = "\n"};
    struct quern_request r;
    struct quern_result result;
    quern *c;
    char line[80];
    int tries = 0;
    while (quern_connect(&c, q->socket) < 0) { /* a hang-up is noticed a moment after it */
        if (++tries == START_TRIES) {
            fprintf(stderr, "%s\n", quern_connect_error());
            exit(1);
        }
        usleep(20000);
    }
    quern_request_init(&r);
    r.op = QUERN_OP_STATUS;
    if (quern_generate(c, &r, collect, &s, &result) < 0)
        give_up("status");
    quern_close(c);
    snprintf(line, sizeof line, "\n%s=", key);
    if (!strstr(s.text, line)) {
        fprintf(stderr, "status has no %s:%s", key, s.text);
        exit(1);
    }
    return number_after(s.text, line);
}

unsigned quernd_log_count(const struct quernd *q, const char *text)
{
    char path[96], line[2048];
    unsigned n = 0;
    snprintf(path, sizeof path, "%s/log", q->folder);
    FILE *f = fopen(path, "re");
    if (!f)
        give_up(path);
    while (fgets(line, sizeof line, f))
        n += strstr(line, text) != NULL;
    fclose(f);
    return n;
}
