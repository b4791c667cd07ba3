/* Which processors this process may use: affinity mask, cgroup v2 quota, cores before their second
 * hardware threads. */
#ifndef QUERN_OPS_CPUS_H
#define QUERN_OPS_CPUS_H

/* Writes up to `max` processor numbers of the affinity mask to cpus, first one of each core, then
 * the others; returns how many the mask holds (may exceed max). The mask is read once, at the
 * first call of the process, so that threads pinned later do not shrink it. */
unsigned ops_cpus_list(int *cpus, unsigned max);

/* The smallest cgroup v2 cpu.max on the path to the root as a number of processors, rounded up; 0
 * if there is no limit. */
unsigned ops_cpus_quota(void);

/* The same with the hierarchy at `root` and the process's group at `path` within it, for tests. */
unsigned ops_cpus_quota_at(const char *root, const char *path);

#endif
