/* One file from an address into a partial file, going on where an earlier try stopped. */
#ifndef QUERN_CLIENT_CLI_FETCH_H
#define QUERN_CLIENT_CLI_FETCH_H

#include "client/cli/store.h"

/* Fetches `url` into the open file `fd`, whose bytes are those of an earlier try if `tag_path` holds
 * the tag that the server gave them (RFC 9110, If-Range). Tries again, from where it stopped, while
 * bytes come. `digest` is the SHA-256 that the server states, or "". 0, or an exit code after a sentence;
 * what has come stays in the file. */
int fetch(const char *url, int fd, const char *tag_path, char digest[STORE_DIGEST]);

#endif
