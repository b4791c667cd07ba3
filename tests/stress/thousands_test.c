/* Ten thousand random requests from thirty-two processes against a pool too small for them: of all
 * lengths, seeds and priorities, with samples in parallel, pinned prefixes, cancels, deadlines, and
 * processes that are killed and come again. Each request ends in exactly one final event, each that
 * is finished has the bytes that it has when nobody else is there, and afterwards no page is lost.
 *
 * QUERN_REQUESTS says how many requests (10,000), QUERN_SECONDS how long at most, QUERN_CURVE names a file for the curve of memory:
 * a line each second, seconds, requests ended, KiB resident, pages used, pages cached.
 * QUERN_MODEL=FILE takes another model than the toy. */
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <errno.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    PROCESSES = 32,
    PROMPTS = 64,
    PROMPT_MAX = 300,
    TOKENS_MAX = 32,
    SAMPLES_MAX = 3,
    REQUESTS = 10000,
#ifdef QUERN_SANITIZE
    SHARE = 10, /* a tenth of them: the bytes are the same, and the machine is slower */
#else
    SHARE = 1,
#endif
};

struct prompt {
    uint32_t ids[PROMPT_MAX];
    size_t n;
    uint32_t n_tokens, n_samples;
    uint64_t seed;
    uint32_t expected[SAMPLES_MAX][TOKENS_MAX];
};

/* What all processes count. */
struct tally {
    atomic_uint n_left; /* requests that nobody took yet */
    atomic_uint n_ended, n_finished, n_cancelled, n_expired, n_refused, n_killed, n_forked;
    atomic_uint n_set_back; /* queued events after the first token */
};

static struct quernd service;
static struct prompt prompts[PROMPTS];
static struct tally *tally;

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static void make_prompts(void)
{
    uint64_t state = 77;
    for (int i = 0; i < PROMPTS; i++) {
        struct prompt *p = &prompts[i];
        p->n = 1 + next_random(&state) % (i % 2 ? PROMPT_MAX : 60);
        p->n_tokens = 1 + next_random(&state) % TOKENS_MAX;
        p->n_samples = i % 5 ? 1 : 1 + next_random(&state) % SAMPLES_MAX;
        p->seed = next_random(&state);
        uint64_t content = i % 3 ? next_random(&state) : 7; /* a third have a common beginning */
        for (size_t j = 0; j < p->n; j++)
            p->ids[j] = next_random(&content) % 250;
    }
}

static struct quern_request request_of(const struct prompt *p)
{
    struct quern_request r;
    quern_request_init(&r);
    r.kind = QUERN_INPUT_IDS;
    r.ids = p->ids;
    r.n_ids = p->n;
    r.flags = QUERN_IGNORE_EOS;
    r.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_SEED |
              QUERN_GIVEN_TOP_P | QUERN_GIVEN_REPETITION;
    r.max_tokens = p->n_tokens;
    r.temperature = 1.2f;
    r.top_p = 0.95f;
    r.repetition = 1.1f;
    r.seed = p->seed;
    r.samples = p->n_samples;
    return r;
}

/* ---- one request --------------------------------------------------------------------------- */

struct plan {
    int cancel_after; /* tokens; -1: never */
    int die_after;    /* events; -1: never */
    bool deadline;
};

struct got {
    uint32_t tokens[SAMPLES_MAX][TOKENS_MAX];
    uint32_t n[SAMPLES_MAX];
    struct quern_final final_;
};

/* Reads to the final event. 0, or what is wrong. */
static int read_answer(quern *q, uint64_t id, const struct plan *plan, struct got *got)
{
    struct quern_event event = QUERN_EVENT_INIT;
    int n_tokens = 0, n_events = 0, r;
    bool cancelled = false;
    memset(got, 0, sizeof *got);
    for (;;) {
        if (plan->cancel_after >= 0 && !cancelled && n_tokens >= plan->cancel_after)
            cancelled = quern_cancel(q, id) == 0;
        r = quern_next(q, id, &event, 300000);
        if (r < 0) {
            fprintf(stderr, "quern_next: %s\n", quern_error(q));
            return 10;
        }
        if (plan->die_after >= 0 && n_events++ >= plan->die_after) {
            atomic_fetch_add(&tally->n_killed, 1);
            raise(SIGKILL);
        }
        if (event.type == QUERN_EVENT_TOKEN) {
            uint32_t s = event.sample;
            if (s >= SAMPLES_MAX || got->n[s] == TOKENS_MAX || event.u.token.index != got->n[s])
                return 11;
            got->tokens[s][got->n[s]++] = event.u.token.token;
            n_tokens++;
        } else if (event.type == QUERN_EVENT_QUEUED && n_tokens > 0) {
            atomic_fetch_add(&tally->n_set_back, 1);
        } else if (event.type == QUERN_EVENT_FINAL) {
            break;
        }
    }
    got->final_ = event.u.final_;
    r = quern_next(q, id, &event, 0) == -ENOENT ? 0 : 12; /* one, and nothing after it */
    quern_event_done(&event);
    return r;
}

/* Whether what came is what the prompt gives alone, as far as it came. */
static int check_answer(const struct prompt *p, const struct plan *plan, const struct got *got)
{
    const struct quern_final *f = &got->final_;
    for (uint32_t s = 0; s < SAMPLES_MAX; s++)
        if (memcmp(got->tokens[s], p->expected[s], got->n[s] * sizeof(uint32_t)))
            return 20;
    if (f->reason == QUERN_REASON_LENGTH) {
        for (uint32_t s = 0; s < p->n_samples; s++)
            if (got->n[s] != p->n_tokens)
                return 21;
        atomic_fetch_add(&tally->n_finished, 1);
        return 0;
    }
    if (f->code == QUERN_CODE_DEADLINE && plan->deadline) {
        atomic_fetch_add(f->reason == QUERN_REASON_FAILED ? &tally->n_refused : &tally->n_expired,
                         1);
        return 0;
    }
    if (f->reason == QUERN_REASON_CANCELLED && f->code == QUERN_CODE_OK &&
        plan->cancel_after >= 0) {
        atomic_fetch_add(&tally->n_cancelled, 1);
        return 0;
    }
    fprintf(stderr, "ended with reason %d, code %d\n", f->reason, f->code);
    return 22;
}

/* Pins a beginning of the prompt; the request then has the rest of it. 0 where it was refused, for
 * want of pages that may be pinned. */
static uint64_t pin_beginning(quern *q, struct quern_request *r, uint64_t *random)
{
    struct quern_request beginning;
    struct quern_result result;
    uint64_t prefix = 0;
    quern_request_init(&beginning);
    beginning.kind = QUERN_INPUT_IDS;
    beginning.ids = r->ids;
    beginning.n_ids = 1 + next_random(random) % r->n_ids;
    if (quern_prefix_pin(q, &beginning, &prefix, &result) < 0 || prefix == 0)
        return 0;
    r->prefix = prefix;
    r->ids += beginning.n_ids;
    r->n_ids -= beginning.n_ids;
    return prefix;
}

static int one_request(quern *q, uint64_t *random)
{
    const struct prompt *p = &prompts[next_random(random) % PROMPTS];
    struct quern_request r = request_of(p);
    struct plan plan = {.cancel_after = -1, .die_after = -1};
    struct got got;
    uint64_t id, prefix = 0;
    uint32_t kind = next_random(random) % 20;
    r.priority = (enum quern_priority)(next_random(random) % 3);
    if (kind < 3) {
        plan.cancel_after = (int)(next_random(random) % (p->n_tokens + 1));
    } else if (kind < 5) {
        plan.deadline = true;
        r.deadline_ms = 1 + next_random(random) % 2000;
    } else if (kind < 7) {
        prefix = pin_beginning(q, &r, random);
    } else if (next_random(random) % 50 == 0) {
        plan.die_after = (int)(next_random(random) % 8);
    }
    int result = quern_submit(q, &r, &id) < 0 ? 1 : read_answer(q, id, &plan, &got);
    if (result == 0)
        result = check_answer(p, &plan, &got);
    if (result == 0 && prefix) {
        atomic_fetch_add(&tally->n_forked, 1);
        result = quern_prefix_unpin(q, prefix) < 0 ? 2 : 0;
    }
    atomic_fetch_add(&tally->n_ended, 1);
    return result;
}

/* Takes requests until none is left. The exit status: 0, or what went wrong. */
static int work(uint64_t random)
{
    quern *q;
    if (quern_connect(&q, service.socket) < 0)
        return 3;
    for (;;) {
        unsigned left = atomic_load(&tally->n_left);
        while (left > 0 && !atomic_compare_exchange_weak(&tally->n_left, &left, left - 1))
            ;
        if (left == 0)
            break;
        int result = one_request(q, &random);
        if (result)
            return result;
    }
    quern_close(q);
    return 0;
}

static pid_t start(uint64_t random)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(work(random));
    assert_true(pid > 0);
    return pid;
}

/* ---- the test ------------------------------------------------------------------------------ */

static void write_curve(FILE *curve, time_t begin)
{
    struct quernd_usage usage = quernd_usage(&service);
    fprintf(curve, "%lld %u %llu %llu %llu\n", (long long)(time(NULL) - begin),
            atomic_load(&tally->n_ended), (unsigned long long)usage.resident_kib,
            (unsigned long long)quernd_status(&service, "kv_pages_used"),
            (unsigned long long)quernd_status(&service, "kv_pages_cached"));
    fflush(curve);
}

static void no_page_is_lost(void)
{
    for (int i = 0; i < 1000; i++) {
        if (quernd_status(&service, "running") == 0 && quernd_status(&service, "waiting") == 0 &&
            quernd_status(&service, "clients") == 1) {
            assert_int_equal(quernd_status(&service, "kv_pages_used"), 0);
            assert_int_equal(quernd_status(&service, "kv_pages_reserved"), 0);
            assert_int_equal(quernd_status(&service, "kv_pages_pinned"), 0);
            return;
        }
        usleep(20000);
    }
    fail_msg("clients or sequences are left over");
}

static void thousands_of_requests(void **state)
{
    (void)state;
    const char *path = getenv("QUERN_CURVE"), *seconds = getenv("QUERN_SECONDS");
    const unsigned n_requests = atomic_load(&tally->n_left);
    unsigned n_left = 0;
    FILE *curve = path ? fopen(path, "w") : NULL;
    const time_t begin = time(NULL);
    pid_t pids[PROCESSES];
    uint64_t random = 5;
    for (int i = 0; i < PROCESSES; i++)
        pids[i] = start(next_random(&random));
    for (int n_running = PROCESSES; n_running > 0;) {
        int status;
        pid_t pid = waitpid(-1, &status, curve ? WNOHANG : 0);
        if (pid == 0) {
            write_curve(curve, begin);
            if (seconds && time(NULL) - begin >= atoi(seconds))
                n_left += atomic_exchange(&tally->n_left, 0);
            sleep(1);
            continue;
        }
        int i = 0;
        while (i < PROCESSES && pids[i] != pid)
            i++;
        assert_true(i < PROCESSES);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
            pids[i] = start(next_random(&random)); /* it comes again */
            continue;
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("process %d ended with status %x", i, status);
        pids[i] = 0;
        n_running--;
    }
    if (curve) {
        write_curve(curve, begin);
        fclose(curve);
    }
    no_page_is_lost();
    print_message("%u requests ended in %lld s: %u finished, %u cancelled, %u past their deadline, "
                  "%u refused for it, %u from a pinned prefix; %u processes killed, %u news of a "
                  "place in the queue after a token\n",
                  atomic_load(&tally->n_ended), (long long)(time(NULL) - begin),
                  atomic_load(&tally->n_finished), atomic_load(&tally->n_cancelled),
                  atomic_load(&tally->n_expired), atomic_load(&tally->n_refused),
                  atomic_load(&tally->n_forked), atomic_load(&tally->n_killed),
                  atomic_load(&tally->n_set_back));
    assert_int_equal(atomic_load(&tally->n_ended) + atomic_load(&tally->n_killed),
                     n_requests - n_left);
    assert_true(atomic_load(&tally->n_finished) > atomic_load(&tally->n_ended) / 2);
    assert_true(atomic_load(&tally->n_cancelled) > 0 && atomic_load(&tally->n_forked) > 0 &&
                atomic_load(&tally->n_killed) > 0);
    assert_true(quernd_status(&service, "total_set_back") > 0);
}

static int prepare(void **state)
{
    (void)state;
    const char *requests = getenv("QUERN_REQUESTS"), *model = getenv("QUERN_MODEL");
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED)
        return -1;
    atomic_store(&tally->n_left, requests ? (unsigned)atoi(requests) : REQUESTS / SHARE);
    quernd_prepare(&service,
                   (const char *const[]){"--shape", "tiny", "--type", "q8_0", "--seed", "8", NULL});
    if (model)
        snprintf(service.model, sizeof service.model, "%s", model);
    /* A few of the longest requests fit. */
    quernd_start(&service, (const char *const[]){"--context", "384", "--threads", "2", "--kv-bytes",
                                                 model ? "16M" : "1M", "--sequences", "8",
                                                 "--image", "off", NULL});
    make_prompts();
    for (int i = 0; i < PROMPTS; i++) {
        struct plan plan = {.cancel_after = -1, .die_after = -1};
        struct quern_request r = request_of(&prompts[i]);
        struct got got;
        uint64_t id;
        quern *q;
        if (quern_connect(&q, service.socket) < 0)
            return -1;
        for (uint32_t s = 0; s < prompts[i].n_samples; s++) {
            /* Each sample alone: a request of so many samples, of which one is looked at. */
            r.samples = s + 1;
            if (quern_submit(q, &r, &id) < 0 || read_answer(q, id, &plan, &got) ||
                got.n[s] != prompts[i].n_tokens)
                return -1;
            memcpy(prompts[i].expected[s], got.tokens[s], sizeof got.tokens[s]);
        }
        quern_close(q);
    }
    return 0;
}

static int finish(void **state)
{
    (void)state;
    int status = quernd_stop(&service);
    quernd_remove(&service);
    return status;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thousands_of_requests),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
