/* Where clients come in: a socket from systemd, or one of our own. */
#ifndef QUERN_SVC_LISTENER_H
#define QUERN_SVC_LISTENER_H

#include "ipc/session.h"

/* Takes the listening socket that systemd passed, else binds `path`, or the default path where
 * it is NULL (its folder is made then). 0 or -errno with a sentence. */
int listener_open(struct ipc_listener *ret, const char *path, char *why, size_t why_size);

#endif
