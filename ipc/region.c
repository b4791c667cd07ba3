/* Shared memory regions: see region.h. */
#define _GNU_SOURCE
#include "ipc/region.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SEALS (F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

int ipc_region_make(struct ipc_region *ret, const char *name, size_t size, size_t resident)
{
    struct ipc_region region = {-1, NULL, size};
    int r;

    region.fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (region.fd < 0)
        return -errno;
    if (ftruncate(region.fd, (off_t)size) < 0 || fcntl(region.fd, F_ADD_SEALS, SEALS) < 0)
        goto close_fd;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0);
    if (base == MAP_FAILED)
        goto close_fd;
    region.base = base;
    if (madvise(base, size, MADV_DONTFORK) < 0 || madvise(base, size, MADV_DONTDUMP) < 0)
        goto unmap;
    /* Filled now, so that a step never waits for a page; -ENOMEM here instead of SIGBUS later. */
    if (fallocate(region.fd, 0, 0, (off_t)resident) < 0)
        goto unmap;
    /* Locking is a wish: without the right to lock, the pages are merely likely to stay. */
    (void)mlock(base, resident);
    *ret = region;
    return 0;

unmap:
    r = -errno;
    munmap(base, size);
    close(region.fd);
    return r;
close_fd:
    r = -errno;
    close(region.fd);
    return r;
}

int ipc_region_open_read_only(const struct ipc_region *region)
{
    char path[40];

    if (fchmod(region->fd, 0400) < 0)
        return -errno;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", region->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int ipc_region_map(struct ipc_region *ret, int fd, size_t size, int writable, char *why,
                   size_t why_size)
{
    struct stat st;
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & SEALS) != SEALS || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC) {
        snprintf(why, why_size, "The service handed over a descriptor that is no sealed memfd.");
        return -EPROTO;
    }
    if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size != size) {
        snprintf(why, why_size, "The service's memfd has not the %zu bytes that it promised.",
                 size);
        return -EPROTO;
    }
    void *base = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    int r = base == MAP_FAILED ? -errno : 0;

    if (r == 0 &&
        (madvise(base, size, MADV_DONTFORK) < 0 || madvise(base, size, MADV_DONTDUMP) < 0)) {
        r = -errno;
        munmap(base, size);
    }
    if (r < 0) {
        snprintf(why, why_size, "Cannot map %zu bytes of the service's memory.", size);
        return r;
    }
    *ret = (struct ipc_region){fd, base, size};
    return 0;
}

void ipc_region_punch(const struct ipc_region *region)
{
    if (region->fd >= 0)
        (void)fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        (off_t)region->size);
}

void ipc_region_done(struct ipc_region *region)
{
    if (region->base != NULL)
        munmap(region->base, region->size);
    if (region->fd >= 0)
        close(region->fd);
    *region = IPC_REGION_NONE;
}
