/* The warm store: descriptors that systemd holds for us, or files in a hugetlbfs folder. What comes
 * out of it is checked as input from a stranger: kind of file, owner, seals and size. */
#define _GNU_SOURCE /* F_GET_SEALS */
#include "mm/store.h"

#include "mm/why.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <hugetlbfs.h>
#include <linux/magic.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define PREFIX    "weights-" /* of a descriptor's name and of a file's */
#define UNDER_WAY ".part"    /* after the name of a file that is not finished */
#define SEALS     (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)
#define FDS_START 3 /* where systemd's descriptors begin (sd_listen_fds(3)) */

static bool systemd_has_store(void);
static void name_own_folder(char *ret, size_t size, const char *mount);
static int find_own_folder(char *ret, size_t size);
static int use_folder(const char *folder, char *why, size_t why_size);
static int adopt_from_systemd(struct mm_arena *ret, const struct mm_store *store, size_t size,
                              char *why, size_t why_size);
static int adopt_from_folder(struct mm_arena *ret, const struct mm_store *store, size_t size,
                             char *why, size_t why_size);
static int check_file(int fd);
static bool drop_unused_file(int folder, const char *name);
static void remove_from_systemd(const char *name);

bool mm_store_wants_folder(void)
{
    struct mm_store store;
    return getenv("NOTIFY_SOCKET") && !getenv("FDSTORE") &&
           mm_store_init(&store, "none", "", NULL, 0) == 0 && store.place == MM_STORE_FOLDER;
}

int mm_store_init(struct mm_store *ret, const char *key, const char *folder, char *why,
                  size_t why_size)
{
    struct mm_store store = {.place = MM_STORE_NONE};
    mm_why_set(why, why_size, "%s", "");
    size_t length = strlen(key);
    if (length == 0 || length > MM_STORE_KEY_BYTES)
        return -EINVAL;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)key[i]) && key[i] != '-')
            return -EINVAL;
    }
    memcpy(store.key, key, length + 1);
    if (folder == NULL) {
        store.place = systemd_has_store() ? MM_STORE_SYSTEMD : MM_STORE_NONE;
        *ret = store;
        return 0;
    }
    char own[sizeof store.folder];
    if (folder[0] == '\0' && find_own_folder(own, sizeof own) == 0) {
        folder = own;
    } else if (folder[0] == '\0') {
        const char *mount = hugetlbfs_find_path_for_size(2048 * 1024);
        if (mount == NULL) {
            mm_why_set(why, why_size,
                       "Weights will not survive a restart: no hugetlbfs mount is here "
                       "(`hugeadm --create-mounts` makes one).");
            *ret = store;
            return 0;
        }
        name_own_folder(own, sizeof own, mount);
        folder = own;
    }
    if (strlen(folder) >= sizeof store.folder)
        return -ENAMETOOLONG;
    if (use_folder(folder, why, why_size) == 0) {
        store.place = MM_STORE_FOLDER;
        memmove(store.folder, folder, strlen(folder) + 1);
    }
    *ret = store;
    return 0;
}

int mm_store_adopt(struct mm_arena *ret, const struct mm_store *store, size_t size, char *why,
                   size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    switch (store->place) {
    case MM_STORE_SYSTEMD:
        return adopt_from_systemd(ret, store, size, why, why_size);
    case MM_STORE_FOLDER:
        return adopt_from_folder(ret, store, size, why, why_size);
    case MM_STORE_NONE:
        break;
    }
    return -ENOENT;
}

int mm_store_begin(struct mm_arena *ret, const struct mm_store *store, size_t size,
                   enum mm_huge_policy policy, char *why, size_t why_size)
{
    if (store->place != MM_STORE_FOLDER || policy == MM_HUGE_OFF)
        return mm_arena_begin(ret, size, policy, why, why_size);
    mm_why_set(why, why_size, "%s", "");
    char path[sizeof store->folder + 128];
    snprintf(path, sizeof path, "%s/%s%s%s", store->folder, PREFIX, store->key, UNDER_WAY);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    /* It is there: another service loads the same weights just now, and keeps them. */
    if (fd < 0)
        return mm_arena_begin(ret, size, policy, why, why_size);
    if (flock(fd, LOCK_SH | LOCK_NB) == 0 && mm_arena_begin_file(ret, size, fd, why, why_size) == 0)
        return 0;
    unlink(path);
    close(fd);
    return mm_arena_begin(ret, size, policy, why, why_size);
}

int mm_store_keep(struct mm_arena *arena, const struct mm_store *store, char *why, size_t why_size)
{
    mm_why_set(why, why_size, "%s", "");
    int r = mm_arena_seal(arena);
    if (r < 0) {
        mm_why_set(why, why_size, "The weights could not be sealed: %s.", strerror(-r));
        return r;
    }
    if (arena->fd < 0) {
        mm_why_set(why, why_size, "Weights on %s do not survive a restart of the service.",
                   mm_page_kind_name(arena->kind));
        return -ENODEV;
    }
    char text[2 * sizeof store->folder + 256];
    if (store->place == MM_STORE_SYSTEMD) {
        /* hugetlb files cannot be polled, so systemd need not try */
        snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%s%s\nFDPOLL=0", PREFIX, store->key);
        r = sd_pid_notify_with_fds(0, 0, text, &arena->fd, 1);
        r = r > 0 ? 0 : r == 0 ? -ENODEV : r;
    } else if (store->place == MM_STORE_FOLDER) {
        char from[sizeof store->folder + 128];
        struct stat mine, named;
        snprintf(from, sizeof from, "%s/%s%s%s", store->folder, PREFIX, store->key, UNDER_WAY);
        snprintf(text, sizeof text, "%s/%s%s", store->folder, PREFIX, store->key);
        r = -ENODEV; /* the arena is a memfd: another process had the name */
        if (fstat(arena->fd, &mine) == 0 && stat(from, &named) == 0 &&
            mine.st_dev == named.st_dev && mine.st_ino == named.st_ino)
            r = rename(from, text) < 0 ? -errno : 0;
    } else {
        r = -ENODEV;
    }
    if (r < 0)
        mm_why_set(why, why_size, "The weights are not kept for the next start: %s.",
                   r == -ENODEV ? "there is no place for them" : strerror(-r));
    return r;
}

void mm_store_let_go(const struct mm_store *store)
{
    char name[sizeof PREFIX + MM_STORE_KEY_BYTES + 1], path[sizeof store->folder + 128];
    snprintf(name, sizeof name, "%s%s", PREFIX, store->key);
    if (store->place == MM_STORE_SYSTEMD) {
        remove_from_systemd(name);
    } else if (store->place == MM_STORE_FOLDER) {
        snprintf(path, sizeof path, "%s/%s", store->folder, name);
        unlink(path);
    }
}

int mm_store_drop(const struct mm_store *store)
{
    int n = 0;
    if (store->place == MM_STORE_SYSTEMD) {
        char **names = NULL;
        int n_fds = sd_listen_fds_with_names(0, &names);
        for (int i = 0; i < n_fds; i++) {
            if (strncmp(names[i], PREFIX, strlen(PREFIX)) == 0) {
                remove_from_systemd(names[i]);
                n++;
            }
            free(names[i]);
        }
        free(names);
        return n;
    }
    DIR *dir = store->place == MM_STORE_FOLDER ? opendir(store->folder) : NULL;
    if (dir == NULL)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
            n += unlinkat(dirfd(dir), entry->d_name, 0) == 0;
    }
    closedir(dir);
    return n;
}

int mm_store_since(const struct mm_arena *arena, struct timespec *ret)
{
    struct stat st;
    if (arena->fd < 0 || fstat(arena->fd, &st) < 0)
        return -ENODEV;
    *ret = st.st_ctim;
    return 0;
}

/* systemd 254 says so in $FDSTORE; older ones silently drop what a unit may not store, so there the
 * notify socket has to do as a sign. */
static bool systemd_has_store(void)
{
    const char *max = getenv("FDSTORE");
    if (getenv("NOTIFY_SOCKET") == NULL)
        return false;
    return max == NULL || strtoul(max, NULL, 10) > 0;
}

static void name_own_folder(char *ret, size_t size, const char *mount)
{
    snprintf(ret, size, "%s/quern-%u", mount, (unsigned)geteuid());
}

/* The folder that root made for us in a mount where we may make none: libhugetlbfs passes over those. */
static int find_own_folder(char *ret, size_t size)
{
    struct stat st;
    int r = -ENOENT;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    if (mounts == NULL)
        return -errno;
    for (struct mntent *m; r < 0 && (m = getmntent(mounts)) != NULL;) {
        if (strcmp(m->mnt_type, "hugetlbfs") != 0 || strstr(m->mnt_opts, "pagesize=2M") == NULL)
            continue;
        name_own_folder(ret, size, m->mnt_dir);
        r = lstat(ret, &st) == 0 ? 0 : -ENOENT;
    }
    endmntent(mounts);
    return r;
}

/* Makes the folder if need be; it must be ours alone. */
static int use_folder(const char *folder, char *why, size_t why_size)
{
    struct stat st;
    struct statfs fs;
    if (mkdir(folder, 0700) < 0 && errno != EEXIST) {
        mm_why_set(why, why_size, "Weights will not survive a restart: %s cannot be made: %s.",
                   folder, strerror(errno));
        return -errno;
    }
    if (lstat(folder, &st) < 0 || statfs(folder, &fs) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        mm_why_set(why, why_size,
                   "Weights will not survive a restart: the folder %s is not ours alone.", folder);
        return -EPERM;
    }
    if (fs.f_type != HUGETLBFS_MAGIC) {
        mm_why_set(why, why_size,
                   "Weights will not survive a restart: %s is not on a hugetlbfs mount.", folder);
        return -ENODEV;
    }
    return 0;
}

/* The descriptors that systemd gave back: their names and how many. With `last` for the last time: the
 * numbers may belong to other files afterwards. */
static int given_by_systemd(char ***ret_names, bool last)
{
    *ret_names = NULL;
    const int n = sd_listen_fds_with_names(last, ret_names);
    return *ret_names && n > 0 ? n : 0;
}

static void free_names(char **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

static bool is_of_key(const char *name, const struct mm_store *store)
{
    return strncmp(name, PREFIX, strlen(PREFIX)) == 0 &&
           strcmp(name + strlen(PREFIX), store->key) == 0;
}

static int adopt_from_systemd(struct mm_arena *ret, const struct mm_store *store, size_t size,
                              char *why, size_t why_size)
{
    char **names;
    int found = -ENOENT;
    const int n = given_by_systemd(&names, false);
    for (int i = 0; i < n && found != 0; i++) {
        if (!is_of_key(names[i], store))
            continue;
        int seals = fcntl(FDS_START + i, F_GET_SEALS), fd = -1;
        const char *wrong = NULL;
        if (seals < 0 || (seals & SEALS) != SEALS)
            wrong = "it is not sealed";
        else if ((fd = fcntl(FDS_START + i, F_DUPFD_CLOEXEC, FDS_START + n)) < 0)
            wrong = strerror(errno);
        else if (mm_arena_open_file(ret, size, fd) < 0)
            wrong = "it is too small";
        if (wrong != NULL) {
            mm_why_add(why, why_size, "Dropped the kept weights %s: %s.", names[i], wrong);
            remove_from_systemd(names[i]);
            if (fd >= 0)
                close(fd);
        } else {
            found = 0;
        }
    }
    free_names(names, n);
    return found;
}

static int adopt_from_folder(struct mm_arena *ret, const struct mm_store *store, size_t size,
                             char *why, size_t why_size)
{
    char path[sizeof store->folder + 128];
    snprintf(path, sizeof path, "%s/%s%s", store->folder, PREFIX, store->key);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    const char *wrong = "it is no file of ours";
    if (fd >= 0 && check_file(fd) == 0) {
        wrong = flock(fd, LOCK_SH | LOCK_NB) < 0        ? "it is being dropped"
                : mm_arena_open_file(ret, size, fd) < 0 ? "it is too small"
                                                        : NULL;
    }
    if (wrong == NULL)
        return 0;
    if (fd >= 0)
        close(fd);
    if (drop_unused_file(AT_FDCWD, path))
        mm_why_add(why, why_size, "Dropped the kept weights %s%s: %s.", PREFIX, store->key, wrong);
    return -ENOENT;
}

/* ---- what is of no use any more ------------------------------------------------------------ */

/* How a name of weights that is none of ours differs, or NULL where it is. Keys are SOURCE-LAYOUT. */
static const char *difference(const char *name, const struct mm_store *const *stores, size_t n)
{
    const char *theirs = name + strlen(PREFIX);
    const char *differs = "it belongs to another model file, or the file changed";
    const size_t length = strlen(theirs), part = strlen(UNDER_WAY);
    for (size_t i = 0; i < n; i++) {
        const size_t source = strcspn(stores[i]->key, "-") + 1;
        if (is_of_key(name, stores[i]))
            return NULL;
        if (length > source && strncmp(theirs, stores[i]->key, source) == 0)
            differs = "it was made by another version of quern";
    }
    return length > part && strcmp(theirs + length - part, UNDER_WAY) == 0 ? "it was never finished"
                                                                           : differs;
}

static void sweep_systemd(const struct mm_store *const *stores, size_t n_stores, char *why,
                          size_t why_size)
{
    char **names;
    const int n = given_by_systemd(&names, true);
    for (int i = 0; i < n; i++) {
        if (strncmp(names[i], PREFIX, strlen(PREFIX)) != 0)
            continue;
        const char *wrong = stores[0]->place == MM_STORE_SYSTEMD
                                ? difference(names[i], stores, n_stores)
                                : "weights are kept in a folder now";
        if (wrong != NULL) {
            mm_why_add(why, why_size, "Dropped the kept weights %s: %s.", names[i], wrong);
            remove_from_systemd(names[i]);
        }
        close(FDS_START + i); /* what was adopted has a descriptor of its own */
    }
    free_names(names, n);
}

static void sweep_folder(const struct mm_store *const *stores, size_t n_stores, char *why,
                         size_t why_size)
{
    DIR *dir = opendir(stores[0]->folder);
    if (dir == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        const char *name = entry->d_name;
        if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
            continue;
        const char *wrong = difference(name, stores, n_stores);
        if (wrong != NULL && drop_unused_file(dirfd(dir), name))
            mm_why_add(why, why_size, "Dropped the kept weights %s: %s.", name, wrong);
    }
    closedir(dir);
}

void mm_store_sweep(const struct mm_store *const *stores, size_t n, char *why, size_t why_size)
{
    sweep_systemd(stores, n, why, why_size);
    if (stores[0]->place == MM_STORE_FOLDER)
        sweep_folder(stores, n, why, why_size);
}

/* ---- files --------------------------------------------------------------------------------- */

static int check_file(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    return S_ISREG(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0 ? 0 : -EPERM;
}

/* Users hold a shared lock, and so does whoever is loading. */
static bool drop_unused_file(int folder, const char *name)
{
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool dropped = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && unlinkat(folder, name, 0) == 0;
    if (fd >= 0)
        close(fd);
    return dropped;
}

static void remove_from_systemd(const char *name)
{
    sd_pid_notifyf(0, 0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}
