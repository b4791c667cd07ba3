/* mbind on every arena (see numa.h). */
#include "mm/numa.h"

#include "mm/why.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int policy = MPOL_DEFAULT;
static struct bitmask *nodes;

int mm_numa_set(const char *text, char *why, size_t why_size)
{
    if (text == NULL || strcmp(text, "off") == 0) {
        policy = MPOL_DEFAULT;
        return 0;
    }
    char *end;
    errno = 0;
    unsigned long node = strtoul(text, &end, 10);
    bool interleave = strcmp(text, "interleave") == 0;
    if (!interleave && (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)) {
        mm_why_set(why, why_size,
                   "--numa is \"%.40s\"; off, interleave or a node's number are "
                   "possible.",
                   text);
        return -EINVAL;
    }
    if (numa_available() < 0) {
        mm_why_set(why, why_size, "--numa: this kernel has no memory nodes; leave it out.");
        return -ENODEV;
    }
    struct bitmask *wanted = numa_get_mems_allowed();
    if (wanted == NULL)
        return -ENOMEM;
    if (!interleave &&
        (node > (unsigned long)numa_max_node() || !numa_bitmask_isbitset(wanted, (unsigned)node))) {
        mm_why_set(why, why_size,
                   "--numa: there is no memory node %lu for this process; the last is %d.", node,
                   numa_max_node());
        numa_bitmask_free(wanted);
        return -EINVAL;
    }
    if (!interleave)
        numa_bitmask_setbit(numa_bitmask_clearall(wanted), (unsigned)node);
    if (nodes != NULL)
        numa_bitmask_free(nodes);
    nodes = wanted;
    policy = interleave ? MPOL_INTERLEAVE : MPOL_BIND;
    return 0;
}

int mm_numa_apply(void *base, size_t size)
{
    if (policy == MPOL_DEFAULT)
        return 0;
    return mbind(base, size, policy, nodes->maskp, nodes->size + 1, 0) < 0 ? -errno : 0;
}
