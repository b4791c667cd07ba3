/* The warm store: finished arenas that outlive the process, so that the next one has its weights in
 * milliseconds.
 *
 * Under systemd it is the unit's file descriptor store (FileDescriptorStoreMax= of the unit), which
 * holds the sealed hugetlb memfd. Elsewhere it is a folder of our own (0700) in a hugetlbfs mount
 * with a 0600 file; such a file gets its final name when it is finished, and whoever uses one holds
 * a shared lock on it. Only huge pages can be kept.
 *
 * A key names what an arena holds (source and layout). Who has looked for all of his drops the others,
 * with the reason, before he takes memory. */
#ifndef QUERN_MM_STORE_H
#define QUERN_MM_STORE_H

#include "mm/arena.h"

#include <stdbool.h>
#include <time.h>

#define MM_STORE_KEY_BYTES 64 /* of a key at most; letters, digits, '-' */

/* Where arenas are kept. */
enum mm_store_place { MM_STORE_NONE, MM_STORE_SYSTEMD, MM_STORE_FOLDER };

struct mm_store {
    enum mm_store_place place;
    char folder[256]; /* of MM_STORE_FOLDER */
    char key[MM_STORE_KEY_BYTES + 1];
};

/* Where weights go that must still be there after the unit was stopped (idle, and waiting for its socket):
 * systemd before 254 empties a unit's store then, later ones keep it (FileDescriptorStorePreserve=). True:
 * this process runs under one that does not, and the folder of "" below is there for them. */
bool mm_store_wants_folder(void);

/* Finds the place. `folder` NULL: systemd's store, where this process runs in a unit that has one;
 * "": the folder quern-UID of a hugetlbfs mount where there is one, or we may make one (such a mount is
 * found through libhugetlbfs); else that folder, made if need be: it must be ours alone and on hugetlbfs. Where there is none the
 * place is MM_STORE_NONE, which is no error: `why` says what is missing. -EINVAL: the key is none.
 */
int mm_store_init(struct mm_store *ret, const char *key, const char *folder, char *why,
                  size_t why_size);

/* Maps the arena of our key read-only, if it is there with this size or more (from systemd: until
 * mm_store_sweep). One of that key that will not do is dropped, and `why` has the reason. 0, or
 * -ENOENT. */
int mm_store_adopt(struct mm_arena *ret, const struct mm_store *store, size_t size, char *why,
                   size_t why_size);

/* Drops all arenas that nobody uses but those of these keys (n ≥ 1, of one place); adds to `why` which
 * and for what reason. Called once all keys have been looked for: systemd's descriptors are closed, and
 * where weights go into a folder now, systemd lets go of those that it held. */
void mm_store_sweep(const struct mm_store *const *stores, size_t n, char *why, size_t why_size);

/* mm_arena_begin, on memory that the store can keep if there is any; the policy holds. */
int mm_store_begin(struct mm_arena *ret, const struct mm_store *store, size_t size,
                   enum mm_huge_policy policy, char *why, size_t why_size);

/* Seals a finished arena (which is read-only from then on, whatever this returns) and hands it to
 * the store. -ENODEV: not on huge pages, or there is no store; other -errno: the store refused. */
int mm_store_keep(struct mm_arena *arena, const struct mm_store *store, char *why, size_t why_size);

/* Lets go of the arena of our key: the model is not served any more. */
void mm_store_let_go(const struct mm_store *store);

/* Lets go of everything in the store; what a process has mapped goes with that process. Returns how
 * many arenas that were. */
int mm_store_drop(const struct mm_store *store);

/* Since when an arena has been there: 0, or -ENODEV where it is no file. */
int mm_store_since(const struct mm_arena *arena, struct timespec *ret);

#endif
