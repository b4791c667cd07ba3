/*
 * A memory region shared by two processes: a sealed memfd of fixed size, in pages of 4 KiB.
 *
 * The service makes regions, hands their descriptors over, and on disconnect punches them empty, so
 * that a client that keeps its maps keeps no memory of ours. The client checks kind, seals and size
 * before it maps one, so that no shrinking file can kill it with SIGBUS.
 */
#ifndef QUERN_IPC_REGION_H
#define QUERN_IPC_REGION_H

#include <stddef.h>
#include <stdint.h>

struct ipc_region {
    int fd;        /* -1: none */
    uint8_t *base; /* NULL: none */
    size_t size;
};
#define IPC_REGION_NONE ((struct ipc_region){-1, NULL, 0})

/* Service: makes one, sealed against growing, shrinking and further seals, mapped for writing,
 * absent from core dumps and from children; its first `resident` bytes are filled and, where the
 * memlock limit allows, locked. -ENOMEM, -EMFILE … */
int ipc_region_make(struct ipc_region *ret, const char *name, size_t size, size_t resident);

/* Service: a descriptor of the same memory that can only be read, and cannot be opened for writing
 * by another uid (the memfd's mode becomes 0400). Returns it, or -errno. */
int ipc_region_open_read_only(const struct ipc_region *region);

/* Client: maps fd, for writing or for reading only. Owns fd on success. -EPROTO with one sentence
 * in why when it is not what a service hands out; -ENOMEM. */
int ipc_region_map(struct ipc_region *ret, int fd, size_t size, int writable, char *why,
                   size_t why_size);

/* Gives the memory back to the system for everyone who maps it (service only). */
void ipc_region_punch(const struct ipc_region *region);
/* Unmaps and closes. Fine on IPC_REGION_NONE. */
void ipc_region_done(struct ipc_region *region);

#endif
