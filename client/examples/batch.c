/* A batch job: each line of standard input is a prompt; as many as fit are in flight at once, at the
 * lowest priority; answers come out in the order of the lines.
 * cc batch.c $(pkg-config --cflags --libs quern) -o batch */
#define _GNU_SOURCE
#include <errno.h>
#include <quern.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN_FLIGHT = 16 };

struct job {
    uint64_t id;
    char *answer;
    size_t size;
    int done;
};

/* Waits for one event of any job. 0 or -errno. */
static int take(quern *q, struct quern_event *event, struct job *jobs)
{
    int rc = quern_next(q, 0, event, -1);
    for (int i = 0; rc == 0 && i < IN_FLIGHT; i++) {
        if (jobs[i].id != event->id || jobs[i].done)
            continue;
        if (event->type == QUERN_EVENT_FINAL)
            jobs[i].done = 1;
        if (event->type != QUERN_EVENT_TOKEN)
            continue;
        char *more = realloc(jobs[i].answer, jobs[i].size + event->data_size + 1);
        if (!more)
            return -ENOMEM;
        memcpy(more + jobs[i].size, event->data, event->data_size + 1);
        jobs[i].answer = more;
        jobs[i].size += event->data_size;
    }
    return rc;
}

static void print(struct job *job)
{
    for (char *c = job->answer; c && *c; c++)
        putchar(*c == '\n' ? ' ' : *c);
    putchar('\n');
    free(job->answer);
    *job = (struct job){0};
}

int main(void)
{
    quern *q;
    struct job jobs[IN_FLIGHT] = {0};
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request request;
    char *line = NULL;
    size_t capacity = 0, first = 0, next = 0; /* jobs [first, next) are in flight */
    ssize_t n = 0;
    int rc = quern_connect(&q, NULL);
    if (rc < 0)
        return fprintf(stderr, "%s\n", quern_connect_error()), 69;
    quern_request_init(&request);
    request.priority = QUERN_PRIORITY_BATCH;
    request.given = QUERN_GIVEN_MAX_TOKENS | QUERN_GIVEN_TEMPERATURE;
    request.max_tokens = 16;
    while (rc == 0) {
        while (next - first < IN_FLIGHT && rc == 0 && (n = getline(&line, &capacity, stdin)) > 0) {
            request.input = line;
            request.input_size = strcspn(line, "\n");
            rc = quern_submit(q, &request, &jobs[next % IN_FLIGHT].id);
            next++;
        }
        if (first == next)
            break;
        while (rc == 0 && !jobs[first % IN_FLIGHT].done)
            rc = take(q, &event, jobs);
        if (rc == 0)
            print(&jobs[first++ % IN_FLIGHT]);
    }
    if (rc < 0)
        fprintf(stderr, "%s\n", quern_error(q));
    free(line);
    for (int i = 0; i < IN_FLIGHT; i++)
        free(jobs[i].answer);
    quern_event_done(&event);
    quern_close(q);
    return rc < 0 ? 70 : 0;
}
