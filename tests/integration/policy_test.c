/* Every limit of the policy, through the ring: a code and a sentence with the numbers, never a hang;
 * counted in status, logged once. As root also: clients of other users, the overflow uid. */
#include "client/quern.h"
#include "tests/support/quernd.h"
#include "tests/support/raw_client.h"
#include "tests/support/trap.h"

#include <errno.h>
#include <grp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 64, PAGES = 24 }; /* of the cache, as --kv-bytes below gives them */

static struct quernd service;
static uint32_t ids[300];
static atomic_int *may_exit; /* shared with children */

static void start(const char *policy)
{
    char path[120];
    snprintf(path, sizeof path, "%s/policy", service.folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(policy, f);
    fclose(f);
    quernd_start(&service,
                 (const char *const[]){"--policy", path, "--context", "1024", "--threads", "1",
                                       "--kv-bytes", "1572864", "--sequences", "4", NULL});
}

static void stop(void)
{
    assert_int_equal(quernd_stop(&service), 0);
}

static quern *connected(void)
{
    quern *q = NULL;
    for (int i = 0; i < 100 && quern_connect(&q, service.socket) < 0; i++)
        usleep(20000); /* a hang-up before is noticed a moment later */
    assert_non_null(q);
    return q;
}

static uint64_t submit(quern *q, uint32_t n_prompt, uint32_t n_tokens, enum quern_priority priority)
{
    struct quern_request r;
    uint64_t id;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    r.n_ids = n_prompt;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS;
    r.max_tokens = n_tokens;
    r.priority = priority;
    assert_int_equal(quern_submit(q, &r, &id), 0);
    return id;
}

/* Reads on to the final event of a request; its sentence stays in the event. */
static enum quern_code code_of(quern *q, uint64_t id, struct quern_event *event)
{
    do
        assert_int_equal(quern_next(q, id, event, 60000), 0);
    while (event->type != QUERN_EVENT_FINAL);
    return event->u.final_.code;
}

static void assert_says(const char *sentence, const char *a, const char *b)
{
    if (!strstr(sentence, a) || !strstr(sentence, b))
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", sentence, a, b);
}

static void connections_and_their_memory(void **state)
{
    quern *q[3];
    (void)state;
    start("[default]\nconnections = 2\n");
    q[0] = connected();
    q[1] = connected();
    assert_int_equal(quern_connect(&q[2], service.socket), -EBUSY);
    assert_says(quern_connect_error(), "2 connections", "close some");
    quern_close(q[0]);
    assert_int_equal(quernd_status(&service, "refused_connections") > 0, 1);
    quern_close(q[1]);
    stop();

    start("[default]\nregion-bytes = 3M\n"); /* a connection takes a little more than 2 MiB */
    q[0] = connected();
    assert_int_equal(quern_connect(&q[1], service.socket), -EBUSY);
    assert_says(quern_connect_error(), "3072 are allowed", "KiB of shared memory");
    quern_close(q[0]);
    q[1] = connected(); /* and it comes back */
    quern_close(q[1]);
    assert_int_equal(quernd_status(&service, "refused_region_bytes") > 0, 1);
    stop();
}

static void requests_and_queued_tokens(void **state)
{
    struct quern_event event = QUERN_EVENT_INIT;
    uint64_t id[8];
    (void)state;
    start("[default]\nrequests = 2\n");
    quern *q = connected();
    id[0] = submit(q, 10, 900, QUERN_PRIORITY_NORMAL);
    id[1] = submit(q, 10, 900, QUERN_PRIORITY_NORMAL);
    id[2] = submit(q, 10, 900, QUERN_PRIORITY_NORMAL);
    assert_int_equal(code_of(q, id[2], &event), QUERN_CODE_BUSY);
    assert_says(event.data, "has 2 requests", "try later");
    quern_cancel(q, id[0]);
    code_of(q, id[0], &event);
    id[3] = submit(q, 10, 5, QUERN_PRIORITY_NORMAL);
    assert_int_equal(code_of(q, id[3], &event), QUERN_CODE_OK);
    quern_cancel(q, id[1]);
    code_of(q, id[1], &event);
    for (int i = 0; i < 50; i++) { /* many refusals, and one line in the journal */
        id[0] = submit(q, 1, 1000, QUERN_PRIORITY_NORMAL);
        id[1] = submit(q, 1, 1000, QUERN_PRIORITY_NORMAL);
        id[2] = submit(q, 1, 1000, QUERN_PRIORITY_NORMAL);
        assert_int_equal(code_of(q, id[2], &event), QUERN_CODE_BUSY);
        quern_cancel(q, id[0]);
        quern_cancel(q, id[1]);
        code_of(q, id[0], &event);
        code_of(q, id[1], &event);
    }
    assert_int_equal(quernd_status(&service, "refused_requests"), 51);
    assert_int_equal(quernd_log_count(&service, "refused (requests)"), 1);
    quern_close(q);
    stop();

    start("[default]\nqueued-tokens = 500\n");
    q = connected();
    /* One request takes half of the cache, the next three wait for room. */
    for (int i = 0; i < 2; i++)
        id[i] = submit(q, 300, 600, QUERN_PRIORITY_NORMAL);
    usleep(100000); /* both are at work or at least were admitted or queued */
    id[2] = submit(q, 290, 700, QUERN_PRIORITY_NORMAL);
    id[3] = submit(q, 291, 700, QUERN_PRIORITY_NORMAL);
    id[4] = submit(q, 292, 700, QUERN_PRIORITY_NORMAL);
    assert_int_equal(code_of(q, id[4], &event), QUERN_CODE_BUSY);
    assert_says(event.data, "292", "500 may wait");
    for (int i = 0; i < 4; i++) {
        quern_cancel(q, id[i]);
        code_of(q, id[i], &event);
    }
    id[5] = submit(q, 300, 1, QUERN_PRIORITY_NORMAL); /* what waited was given back */
    assert_int_equal(code_of(q, id[5], &event), QUERN_CODE_OK);
    assert_int_equal(quernd_status(&service, "refused_queued_tokens") > 0, 1);
    quern_event_done(&event);
    quern_close(q);
    stop();
}

static void a_share_of_the_cache(void **state)
{
    struct quern_event event = QUERN_EVENT_INIT;
    (void)state;
    start("[default]\nkv-share = 50\n");
    quern *q = connected();
    assert_int_equal(quernd_status(&service, "kv_pages"), PAGES);
    uint64_t id = submit(q, 10, 900, QUERN_PRIORITY_NORMAL);
    assert_int_equal(code_of(q, id, &event), QUERN_CODE_DENIED);
    assert_says(event.data, "768", "50 %");
    uint64_t first = submit(q, 10, 600, QUERN_PRIORITY_NORMAL);
    do
        assert_int_equal(quern_next(q, first, &event, 60000), 0);
    while (event.type != QUERN_EVENT_TOKEN);
    uint64_t second = submit(q, 10, 600, QUERN_PRIORITY_NORMAL);
    do
        assert_int_equal(quern_next(q, second, &event, 60000), 0);
    while (event.type == QUERN_EVENT_ACCEPTED);
    assert_int_equal(event.type, QUERN_EVENT_QUEUED);
    assert_int_equal(event.u.queued.reason, QUERN_QUEUED_SHARE);
    assert_int_equal(event.u.queued.limit, PAGES / 2 * PAGE);
    assert_int_equal(code_of(q, first, &event), QUERN_CODE_OK); /* and then it has its turn */
    assert_int_equal(code_of(q, second, &event), QUERN_CODE_OK);
    assert_int_equal(quernd_status(&service, "refused_kv_share"), 1);
    quern_event_done(&event);
    quern_close(q);
    stop();
}

static void a_ceiling_for_priorities(void **state)
{
    struct quern_event event = QUERN_EVENT_INIT;
    (void)state;
    start("[default]\npriority = batch\n");
    quern *q = connected();
    uint64_t id = submit(q, 10, 3, QUERN_PRIORITY_INTERACTIVE);
    assert_int_equal(code_of(q, id, &event), QUERN_CODE_DENIED);
    assert_says(event.data, "interactive", "2 (batch)");
    id = submit(q, 10, 3, QUERN_PRIORITY_NORMAL);
    assert_int_equal(code_of(q, id, &event), QUERN_CODE_OK);
    id = submit(q, 10, 3, QUERN_PRIORITY_BATCH);
    assert_int_equal(code_of(q, id, &event), QUERN_CODE_OK);
    assert_int_equal(quernd_status(&service, "refused_priority"), 1);
    quern_event_done(&event);
    quern_close(q);
    stop();
}

/* Runs fn as another user; its result, 100 where that failed. */
static int as_user(uid_t uid, gid_t gid, gid_t other_group, int (*fn)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (setgroups(1, &other_group) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
            _exit(100);
        _exit(fn());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int is_denied(void)
{
    quern *q;
    char uid[20];
    snprintf(uid, sizeof uid, "ser %u ", (unsigned)getuid());
    return quern_connect(&q, service.socket) == -EACCES && strstr(quern_connect_error(), uid) ? 0
                                                                                              : 1;
}

static int is_served(void)
{
    quern *q;
    struct quern_request r;
    struct quern_result result;
    if (quern_connect(&q, service.socket) < 0)
        return 1;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    r.n_ids = 600 / 2;
    r.given = QUERN_GIVEN_MAX_TOKENS;
    r.max_tokens = 200;
    int failed = quern_generate(q, &r, NULL, NULL, &result) < 0 || result.final_.code != 0;
    quern_close(q);
    return failed;
}

static void other_users(void **state)
{
    struct quern_event event = QUERN_EVENT_INIT;
    (void)state;
    if (geteuid() != 0)
        skip();
    start("[user 12001]\nconnect = no\n[group 12050]\nconnect = no\n[user 12003]\nconnections = 5\n"
          "[user 0]\nkv-share = 50\n");
    assert_int_equal(as_user(12001, 12001, 12001, is_denied), 0);
    assert_int_equal(as_user(12002, 12002, 12002, is_served), 0);
    assert_int_equal(as_user(12002, 12050, 12002, is_denied), 0); /* primary group */
    assert_int_equal(as_user(12004, 12004, 12050, is_denied), 0); /* supplementary */
    assert_int_equal(as_user(12003, 12050, 12050, is_served), 0); /* has a section of its own */
    assert_int_equal(as_user(65534, 65534, 65534, is_denied), 0);
    assert_int_equal(quernd_status(&service, "refused_denied"), 3);
    assert_int_equal(quernd_status(&service, "refused_overflow_uid"), 1);
    assert_int_equal(quernd_log_count(&service, "refused (denied)"), 1);

    /* Who waits for his own share is passed over by others. */
    quern *q = connected();
    uint64_t first = submit(q, 10, 700, QUERN_PRIORITY_NORMAL);
    uint64_t second = submit(q, 10, 700, QUERN_PRIORITY_NORMAL);
    assert_int_equal(quern_next(q, second, &event, 60000), 0);
    assert_int_equal(as_user(12002, 12002, 12002, is_served), 0);
    assert_int_equal(code_of(q, first, &event), QUERN_CODE_OK);
    assert_int_equal(code_of(q, second, &event), QUERN_CODE_OK);
    quern_event_done(&event);
    quern_close(q);
    stop();
}

/* A connection ends with the process that made it, though a child of that process still holds the
 * socket (which is then not hung up): the kernel tells of the exit. */
static void a_connection_ends_with_its_process(void **state)
{
    int ready[2], status;
    pid_t holder;
    (void)state;
    start("[default]\n");
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct raw_client c;
        if (raw_connect(&c, service.socket, IPC_FEATURES) < 0)
            _exit(1);
        holder = fork();
        if (holder == 0) {
            alarm(60); /* whatever becomes of the test */
            for (;;)
                pause();
        }
        if (write(ready[1], &holder, sizeof holder) != sizeof holder)
            _exit(2);
        while (atomic_load(may_exit) == 0)
            usleep(1000);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &holder, sizeof holder), sizeof holder);
    assert_int_equal(quernd_status(&service, "clients"), 2);
    atomic_store(may_exit, 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < 500 && quernd_status(&service, "clients") != 1; i++)
        usleep(20000);
    assert_int_equal(quernd_status(&service, "clients"), 1);
    assert_int_equal(kill(holder, 0), 0); /* it was there all the time */
    kill(holder, SIGKILL);
    close(ready[0]);
    close(ready[1]);
    stop();
}

/* A client that is hung up on, but holds the lock of its region's file, so that the memory cannot be
 * taken back: others do not notice, and it stays on the client's account until it is. */
static void memory_that_is_held_back_counts(void **state)
{
    quern *q;
    (void)state;
    start("[default]\nconnections = 2\n");
    atomic_store(may_exit, 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct raw_client c;
        setpgid(0, 0);
        if (raw_connect(&c, service.socket, IPC_FEATURES) < 0)
            _exit(1);
        bool held = trap_hold_lock(c.fds[0], false, c.fd);
        raw_publish(&c, 1 << 20); /* a violation */
        if (!raw_wait_hang_up(&c, 20000))
            _exit(2);
        atomic_store(may_exit, held ? 1 : -1);
        for (;;)
            pause();
    }
    while (atomic_load(may_exit) == 0 && waitpid(pid, NULL, WNOHANG) == 0)
        usleep(1000);
    int fate = atomic_load(may_exit);
    if (fate == 1) {
        for (int i = 0; i < 1000 && quernd_status(&service, "clients") != 1; i++)
            usleep(20000);
        assert_int_equal(quernd_status(&service, "clients"), 1);
        q = connected();
        quern *second;
        assert_int_equal(quern_connect(&second, service.socket), -EBUSY);
        assert_says(quern_connect_error(), "2 connections", "close some");
        quern_close(q);
    }
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_not_equal(fate, 0);
    if (fate < 0)
        print_message("note: no userfaultfd: not tried\n");
    quern *both[2] = {connected(), connected()}; /* the memory has come back */
    quern_close(both[0]);
    quern_close(both[1]);
    stop();
}

/* Asks for ever for what is answered at once, and reads the answers: there is always one more. */
static _Noreturn void be_flood(void)
{
    struct ipc_request_record r = {.op = IPC_OP_STATUS};
    struct ipc_event_record last;
    struct raw_client c;
    uint64_t rung = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (raw_connect_wanting(&c, service.socket, IPC_FEATURES,
                            &(struct ipc_sizes){4096, 65536, 0, 16 << 20}) < 0)
        _exit(1);
    for (;;) {
        uint64_t tail = __atomic_load_n(&c.theirs->event_tail, __ATOMIC_ACQUIRE);
        if (tail != c.ours->event_head) {
            raw_wait_event(&c, tail - 1, &last, 0);
            __atomic_store_n(&c.ours->reply_head, last.pos + last.bytes, __ATOMIC_RELEASE);
            __atomic_store_n(&c.ours->event_head, tail, __ATOMIC_RELEASE);
        }
        while (r.id - c.theirs->submit_head < c.w.submit_entries) {
            raw_write_record(&c, r.id, &(struct ipc_request_record){.id = r.id + 1, .op = r.op});
            __atomic_store_n(&c.ours->submit_tail, ++r.id, __ATOMIC_SEQ_CST);
        }
        uint64_t wants = c.theirs->service_wants;
        if ((wants & IPC_WANT_MASK) != 0 && wants != rung)
            raw_publish(&c, r.id);
        rung = wants;
    }
}

/* A client whose ring is never empty gets no more than its turn. */
static void a_flood_holds_nobody_up(void **state)
{
    struct quern_event event = QUERN_EVENT_INIT;
    (void)state;
    start("[default]\n");
    quern *q = connected();
    pid_t pid = fork();
    if (pid == 0)
        be_flood();
    for (int i = 0; i < 1000 && quernd_status(&service, "clients") < 3; i++)
        usleep(10000);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(code_of(q, submit(q, 10, 20, QUERN_PRIORITY_NORMAL), &event),
                         QUERN_CODE_OK);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* it was there all the time */
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    quern_event_done(&event);
    quern_close(q);
    stop();
}

static int run_quernd(const char *policy_path)
{
    char program[256];
    int status;
    snprintf(program, sizeof program, "%s/quernd", getenv("BUILD") ? getenv("BUILD") : "build");
    pid_t pid = fork();
    if (pid == 0) {
        char log[120];
        snprintf(log, sizeof log, "%s/log", service.folder);
        if (!freopen(log, "a", stderr))
            _exit(100);
        execl(program, program, "--model", service.model, "--socket", service.socket, "--policy",
              policy_path, NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_wrong_file_is_a_sentence(void **state)
{
    char path[120];
    (void)state;
    snprintf(path, sizeof path, "%s/policy", service.folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("[default]\nconnections = lots\n", f);
    fclose(f);
    assert_int_equal(run_quernd(path), 64);
    assert_int_equal(quernd_log_count(&service, "policy, line 2: connections takes a number"), 1);
    assert_int_equal(run_quernd("/nonexistent/policy.conf"), 64);
    assert_int_equal(quernd_log_count(&service, "/nonexistent/policy.conf"), 1);
}

static int prepare(void **state)
{
    (void)state;
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        ids[i] = (uint32_t)(i * 7 % 250);
    may_exit =
        mmap(NULL, sizeof *may_exit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return may_exit == MAP_FAILED ? -1 : chmod(service.folder, 0755);
}

static int finish(void **state)
{
    (void)state;
    quernd_remove(&service);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connections_and_their_memory),
        cmocka_unit_test(requests_and_queued_tokens),
        cmocka_unit_test(a_share_of_the_cache),
        cmocka_unit_test(a_ceiling_for_priorities),
        cmocka_unit_test(other_users),
        cmocka_unit_test(a_connection_ends_with_its_process),
        cmocka_unit_test(memory_that_is_held_back_counts),
        cmocka_unit_test(a_flood_holds_nobody_up),
        cmocka_unit_test(a_wrong_file_is_a_sentence),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
