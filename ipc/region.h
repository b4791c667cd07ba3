/*
 * A memory region shared by two processes: a sealed memfd of fixed size, in pages of 4 KiB.
 *
 * The service makes regions and hands their descriptors over. One side writes a region, the other
 * reads it, and neither may be able to make the other wait in a page fault, or kill it with SIGBUS:
 *
 *   the reply region: the client's descriptor is read-only, so that it can do no more than look.
 *   the request region: the client maps it for writing and then seals it (F_SEAL_FUTURE_WRITE). From
 *     then on nobody can make a hole in it, which a reader's fault would wait for, nor write to it but
 *     through that one map. The service does not look at it before.
 *
 * On disconnect a region that can be punched is punched empty, so that a client that keeps its maps
 * keeps no memory of ours. A sealed one cannot be, and is watched until the client has let it go.
 */
#ifndef QUERN_IPC_REGION_H
#define QUERN_IPC_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ipc_region {
    int fd;        /* -1: none */
    uint8_t *base; /* NULL: none */
    size_t size;
};
#define IPC_REGION_NONE ((struct ipc_region){-1, NULL, 0})

enum ipc_region_writer { IPC_SERVICE_WRITES, IPC_CLIENT_WRITES };

/* Service: makes one, sealed against growing and shrinking, whose first `resident` bytes are filled.
 * What the service writes is mapped (absent from core dumps and from children, the first bytes locked
 * where the memlock limit allows), and sealed against further seals. -ENOMEM, -EMFILE … */
int ipc_region_make(struct ipc_region *ret, const char *name, size_t size, size_t resident,
                    enum ipc_region_writer writer);

/* Service: what the client gets of it, an open file of its own: to write, or one that can only be read
 * and that another uid cannot open for writing (the memfd's mode becomes 0400). Returns it, or -errno. */
int ipc_region_open_for_client(const struct ipc_region *region, enum ipc_region_writer writer);

/* Service: has the client mapped and sealed its region? Never waits. */
bool ipc_region_is_sealed(int fd);
/* Maps a sealed one for reading, its first bytes filled again in case they were punched before. Not
 * earlier: even to unmap it waits for whoever punches it. 0 or -errno. */
int ipc_region_map_sealed(struct ipc_region *region, size_t resident);
/* Has everybody else let it go: no descriptor and no map of it is left? It was made by
 * ipc_region_make, and nobody maps it through our descriptor any more. True as well where the kernel
 * does not tell. Never waits. */
bool ipc_region_is_ours_alone(int fd);

/* Client: maps fd, for writing (and seals it then) or for reading only. Owns fd on success. -EPROTO
 * with one sentence in why when it is not what a service hands out; -ENOMEM. */
int ipc_region_map(struct ipc_region *ret, int fd, size_t size, enum ipc_region_writer writer,
                   char *why, size_t why_size);

/* Service: gives the memory back to the system for everyone who maps it. -EPERM where somebody sealed it
 * against that, in whatever way. May wait for who locks the file. */
int ipc_region_punch(int fd);
/* Unmaps and closes. Fine on IPC_REGION_NONE. */
void ipc_region_done(struct ipc_region *region);

#endif
