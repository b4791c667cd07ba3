/* The service: one thread, one event loop. Sockets and rings in, steps of the engine between.
 *
 * Asleep it blocks in epoll without a timer (but for a deadline that somebody set) and with every
 * ring armed. Awake it polls the rings of the clients that are awake, in memory, and looks at epoll
 * once a step. */
#ifndef QUERN_SVC_SERVICE_H
#define QUERN_SVC_SERVICE_H

#include "svc/options.h"

/* Serves until SIGTERM or SIGINT, or until it was idle for as long as the options say. SIGHUP reads
 * argv and the configuration again into *options. The exit code: 0, 66 (the model), 70, or 71 (the machine). */
int service_run(struct options *options, int argc, char **argv);

#endif
