/*
 * A service without a model, on the same session API as quernd: what it answers is known to the
 * byte, so tests of the ring and of the library can compare everything they get.
 *
 *   generate     one token per byte of the input (round and round up to max_tokens): its id is the
 *                byte, its text the byte, its log probability −index
 *   tokenize     IPC_DATA_IDS, one id per byte of the input
 *   status       IPC_DATA_TEXT "echo=1\n"
 *   all others   a final event with IPC_CODE_UNSUPPORTED
 *
 * The input of a chat is its encoded form, that of segments their text.
 */
#ifndef QUERN_TESTS_ECHO_SERVICE_H
#define QUERN_TESTS_ECHO_SERVICE_H

#include "ipc/session.h"
#include <stdbool.h>
#include <stddef.h>

struct echo_options {
    const char *path;
    struct ipc_limits limits;
    unsigned spin_rounds;      /* empty rounds before it sleeps */
    unsigned events_per_round; /* of one sequence; 0: 4 */
    unsigned sessions_max;     /* 0: 64; further clients are refused as busy */
    bool takes_descriptors;    /* as sockets did before Linux 6.16 */
};

struct echo_counts {
    unsigned long accepted;   /* connections */
    unsigned long violations; /* sessions closed with -EPROTO */
    unsigned long hang_ups;
    unsigned long finals;
    unsigned long buried; /* sessions whose memory and socket are gone for certain */
};

struct echo_service;

/* Listens at once, serves from echo_run on. Aborts the test program on failure. */
struct echo_service *echo_new(const struct echo_options *options);
/* Serves until echo_stop or, with until_idle, until no session is left and one was there. */
void echo_run(struct echo_service *echo, bool until_idle);
void echo_stop(struct echo_service *echo); /* from any thread or a signal handler */
unsigned long echo_n_buried(const struct echo_service *echo); /* any time, from any thread */
const struct echo_counts *echo_counts(const struct echo_service *echo); /* after echo_run */
void echo_free(struct echo_service *echo);

#endif
