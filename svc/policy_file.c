/* Reading the policy file (see policy_file.h). */
#include "svc/policy_file.h"

#include <errno.h>
#include <grp.h>
#include <ini.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { BIGGEST_NUMBER = 1 << 20 };

struct reading {
    struct policy_limits preset;
    struct policy_rule *rules, **end;
    char section[128];             /* that the last line was in */
    struct policy_limits *current; /* its limits */
    char *why;
    size_t why_size;
    bool failed; /* the first mistake is told */
};

static int parse_id(const char *name, bool is_group, id_t *ret)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(name, &end, 10);
    if (name[0] >= '0' && name[0] <= '9' && !*end && !errno && number < UINT32_MAX) {
        *ret = (id_t)number;
        return 0;
    }
    struct passwd *user = is_group ? NULL : getpwnam(name);
    struct group *group = is_group ? getgrnam(name) : NULL;
    if (!user && !group)
        return -ENOENT;
    *ret = user ? user->pw_uid : group->gr_gid;
    return 0;
}

/* The limits that the lines of a section set; NULL with a sentence. */
static struct policy_limits *open_section(struct reading *r, const char *section)
{
    bool is_group = strncmp(section, "group ", 6) == 0;
    id_t id;
    if (strcmp(section, "default") == 0) {
        if (!r->rules)
            return &r->preset;
        snprintf(r->why, r->why_size, "[default] must stand before all other sections");
        return NULL;
    }
    if (!is_group && strncmp(section, "user ", 5) != 0) {
        snprintf(r->why, r->why_size, "[%.60s] is none of [default], [user NAME], [group NAME]",
                 section);
        return NULL;
    }
    const char *name = strchr(section, ' ') + 1;
    if (parse_id(name, is_group, &id) < 0) {
        snprintf(r->why, r->why_size, "there is no %s \"%.60s\"", is_group ? "group" : "user",
                 name);
        return NULL;
    }
    for (const struct policy_rule *old = r->rules; old; old = old->next)
        if (old->is_group == is_group && old->id == id) {
            snprintf(r->why, r->why_size, "%s \"%.60s\" has a section already",
                     is_group ? "group" : "user", name);
            return NULL;
        }
    struct policy_rule *rule = calloc(1, sizeof *rule);
    if (!rule) {
        snprintf(r->why, r->why_size, "no memory was left");
        return NULL;
    }
    *rule = (struct policy_rule){.is_group = is_group, .id = id, .limits = r->preset};
    *r->end = rule;
    r->end = &rule->next;
    return &rule->limits;
}

/* A whole number from low to high, with K, M, G for powers of 1,024 where it counts bytes or
 * tokens. */
static bool parse_number(const char *text, bool suffixes, uint64_t low, uint64_t high,
                         uint64_t *ret)
{
    static const char letters[] = "KMG";
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    const char *letter = suffixes && *end ? strchr(letters, *end) : NULL;
    int shift = letter ? 10 * (int)(letter - letters + 1) : 0;
    if (text[0] < '0' || text[0] > '9' || errno || (*end && (!letter || end[1])) ||
        value > UINT64_MAX >> shift || value << shift < low || value << shift > high)
        return false;
    *ret = value << shift;
    return true;
}

static bool parse_word(const char *text, const char *const *words, uint16_t *ret)
{
    for (uint16_t i = 0; words[i]; i++)
        if (strcasecmp(words[i], text) == 0) {
            *ret = i;
            return true;
        }
    return false;
}

/* One key of a section. What the value may be, where it is something else; NULL: it was taken. */
static const char *set_limit(struct policy_limits *l, const char *key, const char *value)
{
    static const char *const yes_no[] = {"no", "yes", NULL};
    static const char *const priorities[] = {[IPC_PRIORITY_NORMAL] = "normal",
                                             [IPC_PRIORITY_INTERACTIVE] = "interactive",
                                             [IPC_PRIORITY_BATCH] = "batch",
                                             NULL};
    uint16_t word = l->connect;
    uint64_t n = 0;
    if (strcmp(key, "connect") == 0) {
        if (!parse_word(value, yes_no, &word))
            return "yes or no";
        l->connect = word;
    } else if (strcmp(key, "priority") == 0) {
        if (!parse_word(value, priorities, &l->best_priority))
            return "interactive, normal or batch";
    } else if (strcmp(key, "connections") == 0 || strcmp(key, "requests") == 0) {
        if (!parse_number(value, false, 1, BIGGEST_NUMBER, &n))
            return "a number from 1 to 1048576";
        *(key[0] == 'c' ? &l->connections : &l->requests) = (uint32_t)n;
    } else if (strcmp(key, "kv-share") == 0) {
        if (!parse_number(value, false, 1, 100, &n))
            return "a percentage from 1 to 100";
        l->kv_percent = (uint32_t)n;
    } else if (strcmp(key, "weight") == 0) {
        if (!parse_number(value, false, 1, 1024, &n))
            return "a number from 1 to 1024";
        l->weight = (uint32_t)n;
    } else if (strcmp(key, "region-bytes") == 0 || strcmp(key, "queued-tokens") == 0) {
        if (!parse_number(value, true, 1, UINT64_C(1) << 50, &n))
            return "a number such as 4096, 64K or 1G";
        *(key[0] == 'r' ? &l->region_bytes : &l->queued_tokens) = n;
    } else {
        return "";
    }
    return NULL;
}

/* inih's handler: 1 goes on, 0 is an error in this line. */
static int take_line(void *arg, const char *section, const char *key, const char *value)
{
    struct reading *r = arg;
    if (r->failed)
        return 0;
    r->failed = true; /* unless all goes well */
    if (!r->current || strcmp(section, r->section) != 0) {
        r->current = open_section(r, section);
        snprintf(r->section, sizeof r->section, "%s", section);
    }
    if (!r->current)
        return 0;
    const char *wanted = set_limit(r->current, key, value);
    r->failed = wanted != NULL;
    if (!wanted)
        return 1;
    if (*wanted)
        snprintf(r->why, r->why_size, "%.40s takes %s, not \"%.40s\"", key, wanted, value);
    else
        snprintf(r->why, r->why_size,
                 "\"%.40s\" is no key of a policy; the keys are connect, connections, requests, "
                 "region-bytes, queued-tokens, kv-share, priority and weight",
                 key);
    return 0;
}

static void free_rules(struct policy_rule *rules)
{
    while (rules) {
        struct policy_rule *next = rules->next;
        free(rules);
        rules = next;
    }
}

static int read_file(struct reading *r, const char *path, char *why, size_t why_size)
{
    char problem[256] = "it is no section, no key = value and no comment";
    FILE *f = fopen(path, "re");
    if (!f) {
        int error = -errno;
        snprintf(why, why_size,
                 "The policy file %s cannot be read (%s); name another with --policy, or \"off\".",
                 path, strerror(-error));
        return error;
    }
    r->why = problem;
    r->why_size = sizeof problem;
    int line = ini_parse_file(f, take_line, r);
    fclose(f);
    if (line == 0)
        return 0;
    snprintf(why, why_size, "%s, line %d: %s.", path, line, problem);
    return line < 0 ? -ENOMEM : -EINVAL;
}

int policy_reload(struct policy *policy, const char *path, char *why, size_t why_size)
{
    struct reading r = {.preset = policy->base};
    bool standard = path && strcmp(path, "auto") == 0;
    int error = 0;
    r.end = &r.rules;
    if (path && !(standard && access(POLICY_FILE_DEFAULT, F_OK) < 0 && errno == ENOENT))
        error = read_file(&r, standard ? POLICY_FILE_DEFAULT : path, why, why_size);
    free_rules(error < 0 ? r.rules : policy->rules);
    if (error < 0)
        return error;
    policy->rules = r.rules;
    policy->preset = r.preset;
    return 0;
}
