/* How much memory this process may still take: /proc/meminfo, the memory cgroups on our path, and
 * the pools of huge pages. What cannot be read is no limit: the kernel is asked again, page by
 * page, when the memory is populated. */
#include "mm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One hierarchy that may limit memory: the unified one, or the memory controller of version 1. */
struct hierarchy {
    const char *limits[2]; /* files with a limit, or NULL */
    const char *usage;
    const char *reclaimable[2]; /* keys of memory.stat: page cache that counts as used; or NULL */
};

static const struct hierarchy version2 = {.limits = {"memory.max", "memory.high"},
                                          .usage = "memory.current",
                                          .reclaimable = {"inactive_file", "active_file"}};
static const struct hierarchy version1 = {
    .limits = {"memory.limit_in_bytes", NULL},
    .usage = "memory.usage_in_bytes",
    .reclaimable = {"total_inactive_file", "total_active_file"}};

static const struct hierarchy huge_2m = {.limits = {"hugetlb.2MB.max", NULL},
                                         .usage = "hugetlb.2MB.current"};
static const struct hierarchy huge_1g = {.limits = {"hugetlb.1GB.max", NULL},
                                         .usage = "hugetlb.1GB.current"};

struct mount {
    char root[PATH_MAX]; /* which folder of the hierarchy is mounted */
    char path[PATH_MAX]; /* where */
    bool found;
};

static char *read_text(const char *path);
static uint64_t read_number(const char *folder, const char *name);
static uint64_t find_value(const char *text, const char *key);
static void find_mounts(struct mount *v1, struct mount *v2, bool *ret_hugetlb, const char *root);
static bool look_at_hierarchy(uint64_t *least, char path[PATH_MAX],
                              const struct hierarchy *hierarchy, const struct mount *mount,
                              const char *own);
static char *own_cgroup(const char *text, bool unified);
static uint64_t pool_bytes(const char *root, unsigned page_kib);

int mm_memory_query(struct mm_memory *ret, const char *root)
{
    struct mm_memory memory = {
        .cgroup = UINT64_MAX, .hugetlb_2m = UINT64_MAX, .hugetlb_1g = UINT64_MAX};
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    char *text = read_text(path);
    if (text == NULL)
        return -errno;
    uint64_t kib = find_value(text, "MemAvailable:");
    free(text);
    if (kib == UINT64_MAX || __builtin_mul_overflow(kib, (uint64_t)1024, &memory.machine))
        return -ENODATA;

    struct mount *mounts = calloc(2, sizeof *mounts);
    if (mounts == NULL)
        return -ENOMEM;
    find_mounts(&mounts[0], &mounts[1], &memory.hugetlb_in_cgroup, root);
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    text = read_text(path);
    for (int unified = 0; text != NULL && unified < 2; unified++) {
        char *own = own_cgroup(text, unified);
        const struct mount *mount = own ? &mounts[unified] : NULL;
        if (mount && mount->found) {
            if (look_at_hierarchy(&memory.cgroup, path, unified ? &version2 : &version1, mount,
                                  own))
                snprintf(memory.cgroup_path, sizeof memory.cgroup_path, "%.*s",
                         (int)sizeof memory.cgroup_path - 1, path);
            look_at_hierarchy(&memory.hugetlb_2m, path, &huge_2m, mount, own);
            look_at_hierarchy(&memory.hugetlb_1g, path, &huge_1g, mount, own);
        }
        free(own);
    }
    free(text);
    free(mounts);

    memory.ordinary = memory.machine < memory.cgroup ? memory.machine : memory.cgroup;
    uint64_t pool_2m = pool_bytes(root, 2048), pool_1g = pool_bytes(root, 1048576);
    memory.hugetlb = (pool_2m < memory.hugetlb_2m ? pool_2m : memory.hugetlb_2m) +
                     (pool_1g < memory.hugetlb_1g ? pool_1g : memory.hugetlb_1g);
    *ret = memory;
    return 0;
}

int mm_memory_available(uint64_t *ret_ordinary, uint64_t *ret_hugetlb)
{
    struct mm_memory memory;
    int r = mm_memory_query(&memory, "");
    if (r < 0)
        return r;
    *ret_ordinary = memory.ordinary;
    *ret_hugetlb = memory.hugetlb;
    return 0;
}

/* A whole small file of the kernel's, or NULL with errno; the caller frees it. */
static char *read_text(const char *path)
{
    const size_t max = 256 * 1024; /* mountinfo of a machine with a thousand containers */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    char *text = malloc(max);
    size_t used = 0;
    while (text != NULL && used < max - 1) {
        ssize_t n = read(fd, text + used, max - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int error = errno;
            free(text);
            close(fd);
            errno = error;
            return NULL;
        }
        if (n == 0)
            break;
        used += (size_t)n;
    }
    close(fd);
    if (text != NULL)
        text[used] = '\0';
    return text;
}

/* The number in a file of one number; UINT64_MAX for "max" and for what is not to be read. */
static uint64_t read_number(const char *folder, const char *name)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return UINT64_MAX;
    char *text = read_text(path);
    uint64_t value;
    bool found = text != NULL && sscanf(text, "%" SCNu64, &value) == 1;
    free(text);
    return found ? value : UINT64_MAX;
}

/* The number after `key` at the start of a line, or UINT64_MAX. */
static uint64_t find_value(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *line = text; line != NULL && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        uint64_t value;
        if (strncmp(line, key, length) == 0 && line[length] == ' ' &&
            sscanf(line + length, "%" SCNu64, &value) == 1)
            return value;
    }
    return UINT64_MAX;
}

/* Undoes the octal escapes of mountinfo (space, tab, newline, backslash) in place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned value;
        if (from[0] == '\\' && sscanf(from + 1, "%3o", &value) == 1 && value < 256) {
            *to = (char)value;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

static bool has_option(const char *options, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = options; (at = strstr(at, name)) != NULL; at += length) {
        if ((at == options || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

static void find_mounts(struct mount *v1, struct mount *v2, bool *ret_hugetlb, const char *root)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    char *text = read_text(path);
    char *rest = text;
    for (char *line; text != NULL && (line = strsep(&rest, "\n")) != NULL;) {
        char where[1024], from[1024], type[64], options[1024];
        char *dash = strstr(line, " - ");
        if (dash == NULL || sscanf(line, "%*s %*s %*s %1023s %1023s", from, where) != 2 ||
            sscanf(dash, " - %63s %*s %1023s", type, options) != 2)
            continue;
        struct mount *mount = NULL;
        if (strcmp(type, "cgroup2") == 0)
            mount = v2;
        else if (strcmp(type, "cgroup") == 0 && has_option(options, "memory"))
            mount = v1;
        if (mount == NULL || mount->found)
            continue;
        unescape(where);
        unescape(from);
        snprintf(mount->root, sizeof mount->root, "%s", from);
        snprintf(mount->path, sizeof mount->path, "%s%s", root, where);
        mount->found = true;
        if (mount == v2)
            *ret_hugetlb = has_option(options, "memory_hugetlb_accounting");
    }
    free(text);
}

/* Our folder in a hierarchy, from /proc/self/cgroup ("0::/a/b" or "4:memory:/a/b"). */
static char *own_cgroup(const char *text, bool unified)
{
    for (const char *line = text; line != NULL && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        char controllers[256] = "";
        const char *first = strchr(line, ':');
        const char *second = first ? strchr(first + 1, ':') : NULL;
        if (second == NULL || (size_t)(second - first) > sizeof controllers)
            continue;
        memcpy(controllers, first + 1, (size_t)(second - first) - 1);
        bool ours = unified ? strncmp(line, "0::", 3) == 0 : has_option(controllers, "memory");
        if (ours)
            return strndup(second + 1, strcspn(second + 1, "\n"));
    }
    return NULL;
}

/* What this one cgroup leaves, or UINT64_MAX. */
static uint64_t cgroup_rest(const struct hierarchy *hierarchy, const char *folder)
{
    uint64_t limit = UINT64_MAX;
    for (size_t i = 0; i < 2 && hierarchy->limits[i] != NULL; i++) {
        uint64_t value = read_number(folder, hierarchy->limits[i]);
        limit = value < limit ? value : limit;
    }
    uint64_t used = read_number(folder, hierarchy->usage);
    if (limit > INT64_MAX / 2 || used == UINT64_MAX) /* version 1 writes "none" as 2^63 - 4096 */
        return UINT64_MAX;
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/memory.stat", folder);
    char *stat = n > 0 && (size_t)n < sizeof path ? read_text(path) : NULL;
    for (size_t i = 0; stat != NULL && i < 2 && hierarchy->reclaimable[i] != NULL; i++) {
        uint64_t value = find_value(stat, hierarchy->reclaimable[i]);
        if (value != UINT64_MAX)
            used -= value < used ? value : used;
    }
    free(stat);
    return limit > used ? limit - used : 0;
}

/* From our cgroup up to what is mounted. A path that the mount does not show (a container that
 * sees another root) means that the mount's own folder is all that can be asked. True where one
 * leaves less than *least: that is less now, and `path` names it. */
static bool look_at_hierarchy(uint64_t *least, char path[PATH_MAX],
                              const struct hierarchy *hierarchy, const struct mount *mount,
                              const char *own)
{
    bool found = false;
    char folder[PATH_MAX];
    size_t skip = strcmp(mount->root, "/") == 0 ? 0 : strlen(mount->root);
    if (skip > 0 && (strncmp(own, mount->root, skip) != 0 || (own[skip] && own[skip] != '/')))
        skip = strlen(own);
    int n = snprintf(folder, sizeof folder, "%s%s", mount->path, own + skip);
    if (n < 0 || (size_t)n >= sizeof folder || access(folder, F_OK) < 0)
        snprintf(folder, sizeof folder, "%s", mount->path);
    size_t top = strlen(mount->path);
    for (;;) {
        size_t length = strlen(folder);
        while (length > top && folder[length - 1] == '/')
            folder[--length] = '\0';
        uint64_t rest = cgroup_rest(hierarchy, folder);
        if (rest < *least) {
            *least = rest;
            found = true;
            memcpy(path, folder, length + 1);
        }
        char *slash = strrchr(folder, '/');
        if (length <= top || slash == NULL)
            return found;
        *slash = '\0';
    }
}

static uint64_t pool_bytes(const char *root, unsigned page_kib)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/sys/kernel/mm/hugepages/hugepages-%ukB", root, page_kib);
    uint64_t free_pages = read_number(folder, "free_hugepages");
    uint64_t reserved = read_number(folder, "resv_hugepages");
    if (free_pages == UINT64_MAX || reserved == UINT64_MAX || reserved >= free_pages)
        return 0;
    uint64_t bytes;
    if (__builtin_mul_overflow(free_pages - reserved, (uint64_t)page_kib * 1024, &bytes))
        return 0;
    return bytes;
}
