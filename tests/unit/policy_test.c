/* The policy file and the limits that it sets: what is read, which mistakes are told and how, whose
 * section counts, and that every limit refuses with its numbers and gives back what was counted. */
#include "svc/policy_file.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/quern-policy.XXXXXX";
static char why[400];

static int read_text(struct policy *policy, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    why[0] = 0;
    return policy_reload(policy, path, why, sizeof why);
}

static struct policy fresh(void)
{
    return (struct policy){
        .connections_max = 1000, .base = policy_limits_default, .preset = policy_limits_default};
}

static const struct policy_limits *limits_for(struct policy *policy, uid_t uid, gid_t gid)
{
    struct ipc_peer peer = {.fd = -1, .pidfd = -1, .uid = uid, .gid = gid};
    struct account *a = policy_account(policy, &peer);
    assert_non_null(a);
    return &a->limits;
}

static void sections_and_what_they_leave_out(void **state)
{
    struct policy p = fresh();
    (void)state;
    assert_int_equal(read_text(&p, "# a comment\n"
                                   "[default]\nconnections = 7\nregion-bytes=64M ; small\n"
                                   "[user 1001]\npriority = batch\nkv-share = 25\nweight = 3\n"
                                   "[group 50]\nconnect = no\n"
                                   "[user 1002]\nqueued-tokens = 2K\nrequests = 9\n"
                                   "[user root]\nconnections = 99\n"),
                     0);
    const struct policy_limits *l = limits_for(&p, 1, 1);
    assert_int_equal(l->connections, 7);
    assert_int_equal(l->region_bytes, 64 << 20);
    assert_int_equal(l->requests, policy_limits_default.requests);
    assert_true(l->connect);
    l = limits_for(&p, 1001, 50); /* the section of the uid comes before that of the group */
    assert_true(l->connect);
    assert_int_equal(l->best_priority, IPC_PRIORITY_BATCH);
    assert_int_equal(l->kv_percent, 25);
    assert_int_equal(l->weight, 3);
    assert_int_equal(l->connections, 7);
    assert_false(limits_for(&p, 1003, 50)->connect);
    l = limits_for(&p, 1002, 1002);
    assert_int_equal(l->queued_tokens, 2048);
    assert_int_equal(l->requests, 9);
    assert_int_equal(limits_for(&p, 0, 0)->connections, 99);
    policy_done(&p);
}

static void mistakes_name_the_line(void **state)
{
    static const struct {
        const char *text, *line, *word;
    } cases[] = {
        {"[default]\nconnections = many\n", "line 2", "number"},
        {"[default]\nconnections = 0\n", "line 2", "1048576"},
        {"[default]\nconnections = -1\n", "line 2", "number"},
        {"[default]\nkv-share = 101\n", "line 2", "percentage"},
        {"[default]\nweight = 1025\n", "line 2", "1024"},
        {"[default]\npriority = best\n", "line 2", "batch"},
        {"[default]\nconnect = maybe\n", "line 2", "yes or no"},
        {"[default]\nregion-bytes = 1X\n", "line 2", "64K"},
        {"[default]\nregion-bytes = 99999999999999999999\n", "line 2", "64K"},
        {"[default]\nregion-bytes = 18014398509481984K\n", "line 2", "64K"},
        {"[default]\n\ncolour = red\n", "line 3", "colour"},
        {"[user nobody-of-this-name]\nconnect = no\n", "line 2", "nobody-of-this-name"},
        {"[everyone]\nconnect = no\n", "line 2", "everyone"},
        {"[user 1]\nconnect = no\n[default]\nconnect = no\n", "line 4", "before"},
        {"[user 1]\nconnect = no\n[group 1]\nconnect = no\n[user 1]\nconnect = yes\n", "line 6",
         "already"},
        {"connect = no\n", "line 1", "[default]"},
        {"[default]\nnonsense\n", "line 2", "key = value"},
    };
    struct policy p = fresh();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(read_text(&p, cases[i].text), -EINVAL);
        if (!strstr(why, path) || !strstr(why, cases[i].line) || !strstr(why, cases[i].word))
            fail_msg("case %zu: %s", i, why);
        assert_null(p.rules); /* and nothing was taken over */
        assert_memory_equal(&p.preset, &policy_limits_default, sizeof p.preset);
    }
    assert_int_equal(policy_reload(&p, "/nonexistent/policy", why, sizeof why), -ENOENT);
    assert_non_null(strstr(why, "/nonexistent/policy"));
    policy_done(&p);
}

static void a_reload_begins_anew(void **state)
{
    struct policy p = fresh();
    (void)state;
    assert_int_equal(read_text(&p, "[default]\nconnections = 3\n[user 9]\nconnect = no\n"), 0);
    assert_false(limits_for(&p, 9, 9)->connect);
    assert_int_equal(limits_for(&p, 8, 8)->connections, 3);
    assert_int_equal(read_text(&p, "[default]\nconnections = none\n"), -EINVAL);
    assert_false(limits_for(&p, 9, 9)->connect); /* as it was */
    assert_int_equal(read_text(&p, "[default]\nrequests = 4\n"), 0);
    assert_true(limits_for(&p, 9, 9)->connect);
    assert_int_equal(limits_for(&p, 9, 9)->connections, policy_limits_default.connections);
    assert_int_equal(policy_reload(&p, NULL, why, sizeof why), 0);
    assert_int_equal(limits_for(&p, 9, 9)->requests, policy_limits_default.requests);
    policy_done(&p);
}

static void limits_refuse_with_numbers_and_give_back(void **state)
{
    struct policy p = fresh();
    struct policy_refusal refusal;
    struct ipc_peer peer = {.fd = -1, .pidfd = -1, .uid = 77, .gid = 77};
    uint64_t queued = 60;
    (void)state;
    p.preset.connections = 2;
    p.preset.requests = 1;
    p.preset.region_bytes = 1000;
    p.preset.queued_tokens = 100;
    p.preset.kv_percent = 50;
    struct account *a = policy_account(&p, &peer);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(policy_connect(&p, a, &refusal), 0);
        assert_int_equal(policy_connect(&p, a, &refusal), 0);
        assert_int_equal(policy_connect(&p, a, &refusal), -EBUSY);
        assert_int_equal(refusal.cause, POLICY_CONNECTIONS);
        assert_non_null(strstr(refusal.sentence, "77 has 2"));
        assert_int_equal(policy_regions(&p, a, 600, &refusal), 0);
        assert_int_equal(policy_regions(&p, a, 401, &refusal), -EBUSY);
        assert_int_equal(policy_regions(&p, a, UINT64_MAX, &refusal), -EBUSY);
        assert_int_equal(refusal.cause, POLICY_REGION_BYTES);
        assert_int_equal(policy_request(&p, a, &refusal), 0);
        assert_int_equal(policy_request(&p, a, &refusal), -EBUSY);
        assert_int_equal(refusal.cause, POLICY_REQUESTS);
        queued = 60;
        assert_int_equal(policy_queue(&p, a, queued, &refusal), 0);
        assert_int_equal(policy_queue(&p, a, 41, &refusal), -EBUSY);
        assert_int_equal(policy_queue(&p, a, UINT64_MAX, &refusal), -EBUSY);
        assert_int_equal(refusal.cause, POLICY_QUEUED_TOKENS);
        assert_non_null(strstr(refusal.sentence, "100 may wait"));
        policy_unqueue(a, &queued);
        policy_unqueue(a, &queued); /* the second time there is nothing */
        policy_request_done(a);
        policy_disconnect(&p, a, 600);
        policy_disconnect(&p, a, 0);
        assert_int_equal(p.n_connections + a->n_connections + a->n_requests, 0);
        assert_int_equal(a->region_bytes + a->queued_tokens, 0);
    }
    assert_int_equal(policy_kv_share(&p, a, 1, 100, 51, 64, &refusal), -EACCES);
    assert_non_null(strstr(refusal.sentence, "3264 positions"));
    assert_non_null(strstr(refusal.sentence, "3200"));
    assert_int_equal(policy_kv_share(&p, a, 1, 100, 50, 64, &refusal), 0);
    assert_int_equal(a->users[1].n_pages_max, 50);
    assert_int_equal(policy_kv_share(&p, a, 1, 1, 1, 64, &refusal), 0); /* one page at least */
    policy_done(&p);
}

static void the_overflow_uid_and_strangers_are_denied(void **state)
{
    struct policy p = fresh();
    struct policy_refusal refusal;
    struct ipc_peer peer = {.fd = -1, .pidfd = -1, .uid = 65534, .gid = 65534};
    (void)state;
    assert_int_equal(policy_connect(&p, policy_account(&p, &peer), &refusal), -EACCES);
    assert_int_equal(refusal.code, IPC_CODE_DENIED);
    assert_int_equal(refusal.cause, POLICY_OVERFLOW_UID);
    peer.uid = 5;
    p.preset.connect = false;
    assert_int_equal(policy_connect(&p, policy_account(&p, &peer), &refusal), -EACCES);
    assert_int_equal(refusal.cause, POLICY_DENIED);
    assert_int_equal(p.n_connections, 0);
    policy_done(&p);
}

static void priorities_have_a_ceiling(void **state)
{
    static const struct {
        uint16_t best, asked;
        int result;
        enum sched_class class_;
    } cases[] = {
        {IPC_PRIORITY_INTERACTIVE, IPC_PRIORITY_INTERACTIVE, 0, SCHED_INTERACTIVE},
        {IPC_PRIORITY_INTERACTIVE, IPC_PRIORITY_NORMAL, 0, SCHED_NORMAL},
        {IPC_PRIORITY_INTERACTIVE, IPC_PRIORITY_BATCH, 0, SCHED_BATCH},
        {IPC_PRIORITY_NORMAL, IPC_PRIORITY_INTERACTIVE, -EACCES, SCHED_NORMAL},
        {IPC_PRIORITY_NORMAL, IPC_PRIORITY_NORMAL, 0, SCHED_NORMAL},
        {IPC_PRIORITY_BATCH, IPC_PRIORITY_INTERACTIVE, -EACCES, SCHED_NORMAL},
        {IPC_PRIORITY_BATCH, IPC_PRIORITY_NORMAL, 0, SCHED_BATCH},
        {IPC_PRIORITY_BATCH, IPC_PRIORITY_BATCH, 0, SCHED_BATCH},
    };
    struct policy p = fresh();
    struct policy_refusal refusal;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct account a = {.limits = {.best_priority = cases[i].best}};
        enum sched_class class_ = SCHED_NORMAL;
        assert_int_equal(policy_priority(&p, &a, cases[i].asked, &class_, &refusal),
                         cases[i].result);
        assert_int_equal(class_, cases[i].class_);
    }
}

/* The first of a cause, then one a minute with the number of those left out. */
static void the_journal_is_not_flooded(void **state)
{
    struct policy p = fresh();
    char text[2000] = "";
    FILE *log = tmpfile();
    int saved = dup(STDERR_FILENO);
    (void)state;
    assert_non_null(log);
    dup2(fileno(log), STDERR_FILENO);
    for (uint64_t i = 0; i < 1000; i++) /* a minute and two thirds */
        policy_log(&p, POLICY_DENIED, "no", NULL, 1000 + i * 100000);
    policy_log(&p, POLICY_REQUESTS, "another", NULL, 1000);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(fseek(log, 0, SEEK_SET), 0);
    text[fread(text, 1, sizeof text - 1, log)] = 0;
    fclose(log);
    assert_string_equal(text, "quernd: refused (denied): no\n"
                              "quernd: refused (denied): no (and 599 more of this kind before)\n"
                              "quernd: refused (requests): another\n");
    assert_int_equal(p.refused[POLICY_DENIED].n, 1000);
    assert_int_equal(p.refused[POLICY_REQUESTS].n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sections_and_what_they_leave_out),
        cmocka_unit_test(mistakes_name_the_line),
        cmocka_unit_test(a_reload_begins_anew),
        cmocka_unit_test(limits_refuse_with_numbers_and_give_back),
        cmocka_unit_test(the_overflow_uid_and_strangers_are_denied),
        cmocka_unit_test(priorities_have_a_ceiling),
        cmocka_unit_test(the_journal_is_not_flooded),
    };
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return r;
}
