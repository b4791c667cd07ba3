/* Reads the affinity mask, the topology in /sys and the quotas of cgroup v2. Anything that cannot
 * be read counts as no limit. */
#define _GNU_SOURCE
#include "ops/cpus.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define PATH_SIZE 4096

static cpu_set_t process_mask;
static pthread_once_t process_mask_once = PTHREAD_ONCE_INIT;

static void read_process_mask(void)
{
    if (sched_getaffinity(0, sizeof(process_mask), &process_mask)) {
        /* More processors than a cpu_set_t holds: use the first. */
        CPU_ZERO(&process_mask);
        CPU_SET(0, &process_mask);
    }
}

/* Whether the processor is the first hardware thread of its core. */
static bool leads_core(int cpu)
{
    char path[128];
    int first = cpu;

    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
             cpu);
    FILE *file = fopen(path, "re");
    if (!file)
        return true;
    if (fscanf(file, "%d", &first) != 1)
        first = cpu;
    fclose(file);
    return first == cpu;
}

unsigned ops_cpus_list(int *cpus, unsigned max)
{
    unsigned n = 0;

    pthread_once(&process_mask_once, read_process_mask);
    for (int pass = 0; pass < 2; pass++) {
        for (int cpu = 0; cpu < CPU_SETSIZE && n < max; cpu++) {
            if (CPU_ISSET(cpu, &process_mask) && leads_core(cpu) == !pass)
                cpus[n++] = cpu;
        }
    }
    return (unsigned)CPU_COUNT(&process_mask);
}

/* One group's cpu.max, "QUOTA PERIOD" or "max PERIOD", as processors rounded up; 0 for none. */
static unsigned read_quota(const char *folder)
{
    char path[PATH_SIZE + 16];
    unsigned long long quota, period;
    unsigned cpus = 0;

    snprintf(path, sizeof(path), "%s/cpu.max", folder);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &quota, &period) == 2 && period) {
        const unsigned long long whole = quota / period + (quota % period != 0);
        cpus = whole > 1u << 20 ? 0 : whole ? (unsigned)whole : 1;
    }
    fclose(file);
    return cpus;
}

unsigned ops_cpus_quota_at(const char *root, const char *path)
{
    char folder[PATH_SIZE];
    const size_t root_length = strlen(root);
    unsigned least = 0;

    if ((size_t)snprintf(folder, sizeof(folder), "%s%s", root, path) >= sizeof(folder))
        return 0;
    for (;;) {
        const unsigned cpus = read_quota(folder);
        if (cpus && (!least || cpus < least))
            least = cpus;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root_length)
            return least;
        *slash = 0;
    }
}

unsigned ops_cpus_quota(void)
{
    char line[PATH_SIZE];
    unsigned cpus = 0;

    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        cpus = ops_cpus_quota_at("/sys/fs/cgroup", line + 3);
    }
    fclose(file);
    return cpus;
}
