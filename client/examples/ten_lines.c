/* The smallest useful client: asks, and prints the answer as it comes.
 * cc ten_lines.c $(pkg-config --cflags --libs quern) -o ten_lines */
#include <quern.h>
#include <stdio.h>
#include <string.h>

static int print(void *arg, const struct quern_event *event)
{
    return event->type == QUERN_EVENT_TOKEN && fputs(event->data, arg) < 0;
}

int main(int argc, char **argv)
{
    quern *q;
    if (quern_connect(&q, NULL) < 0)
        return fprintf(stderr, "%s\n", quern_connect_error()), 69;
    const char *text = argc > 1 ? argv[1] : "list the files here";
    struct quern_message message = {QUERN_ROLE_USER, text, strlen(text)};
    struct quern_request request;
    quern_request_init(&request);
    request.kind = QUERN_INPUT_CHAT, request.messages = &message, request.n_messages = 1;
    struct quern_result result = {0};
    int rc = quern_generate(q, &request, print, stdout, &result);
    puts(result.sentence);
    quern_close(q);
    return rc || result.final_.code;
}
