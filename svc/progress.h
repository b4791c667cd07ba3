/* What a person sees of a load: a line on the terminal that quernd was started from, and systemd's
 * STATUS=. Clients get events of their own (engine_load_progress). */
#ifndef QUERN_SVC_PROGRESS_H
#define QUERN_SVC_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    bool on_terminal;
    uint64_t said_us; /* when something was said last; 0: never */
};

void progress_init(struct progress *progress);

/* Says how far the load of something ("the model") is, some times a second at most. */
void progress_say(struct progress *progress, uint64_t now_us, const char *what, uint64_t done,
                  uint64_t total);

/* Clears the line. */
void progress_done(struct progress *progress);

#endif
