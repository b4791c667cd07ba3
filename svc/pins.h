/* Pinned prefixes: prompts whose pages stay in the cache until they are unpinned.
 *
 * A pin has a handle, belongs to a user, and ends with the connection that made it unless it is to
 * be kept. It holds its tokens (a fork begins with them) and a reference to each full page. Pages
 * of several pins count once. What is pinned is taken from what may be promised to sequences
 * (sched_set_pinned); a pool that has to hold one full context keeps room for that. */
#ifndef QUERN_SVC_PINS_H
#define QUERN_SVC_PINS_H

#include "mm/kv.h"
#include "svc/policy.h"

struct client;

#define PINS_PER_USER_MAX 256u

struct pin {
    struct pin *next;
    uint64_t handle; /* never used twice, by no model of the service */
    struct account *account;
    const struct client *client; /* ends with it; NULL: kept */
    uint32_t n_tokens, n_pages;
    uint32_t *pages; /* (n_pages) a reference to each */
    uint8_t *chat;   /* the messages, as on the wire, where a program renders chats; or NULL */
    uint32_t chat_bytes;
    uint32_t tokens[]; /* (n_tokens) */
};

struct pins;

/* At most n_pages_max pages of `kv` may be pinned; one user may have half of that. Accounts count them
 * in `slot`; *last_handle counts the handles of all models. -ENOMEM. */
int pins_new(struct pins **ret, struct mm_kv *kv, uint32_t n_pages_max, uint32_t slot,
             uint64_t *last_handle);
void pins_free(struct pins *pins); /* drops all */

/* The pin of that handle, if it is this user's; else NULL. */
const struct pin *pins_find(const struct pins *pins, uint64_t handle,
                            const struct account *account);

/* Pins the first n_pages of `pages`, the pages of `tokens`, and takes over `chat` (malloc'd, or NULL).
 * -EBUSY with a sentence: a limit is reached; -ENOMEM; `chat` is the caller's then. */
int pins_add(struct pins *pins, struct account *account, const struct client *client,
             const uint32_t *tokens, uint32_t n_tokens, const uint32_t *pages, uint32_t n_pages,
             uint8_t *chat, uint32_t chat_bytes, uint64_t *ret_handle, char *why, size_t why_size);

/* -ENOENT: this user has none of that handle. */
int pins_drop(struct pins *pins, uint64_t handle, const struct account *account);
void pins_drop_client(struct pins *pins, const struct client *client);

uint32_t pins_n_pages(const struct pins *pins); /* pinned, each once */

/* Most pages that one user may pin. */
uint32_t pins_user_max(const struct pins *pins);

#endif
