/* A quernd of its own for a test written in C: started on a socket in a folder of its own, with a
 * toy model, and looked at through /proc. */
#ifndef QUERN_TESTS_QUERND_H
#define QUERN_TESTS_QUERND_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct quernd {
    char folder[64];
    char socket[96];
    char model[96];
    pid_t pid;
};

/* Makes the folder and in it a toy model, with these further options of make-model. Aborts the test
 * program on failure, as all of these do. */
void quernd_prepare(struct quernd *q, const char *const *model_options);

/* Starts it with further options (NULL-terminated) and waits until it answers. */
void quernd_start(struct quernd *q, const char *const *options);

/* Sends SIGTERM and returns the exit status as waitpid has it. */
int quernd_stop(struct quernd *q);
void quernd_remove(struct quernd *q); /* the folder */

/* What /proc says of all its threads together. */
struct quernd_usage {
    uint64_t cpu_ticks;        /* user and system */
    uint64_t context_switches; /* voluntary and not */
    uint64_t resident_kib;
    unsigned n_fds;
    unsigned n_maps;
};
struct quernd_usage quernd_usage(const struct quernd *q);

/* A number from its status; aborts where there is no such key. */
uint64_t quernd_status(const struct quernd *q, const char *key);

/* Lines of its log, of all its runs, that have this text in them. */
unsigned quernd_log_count(const struct quernd *q, const char *text);

#endif
