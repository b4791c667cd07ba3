/* Shared memory regions: see region.h. */
#define _GNU_SOURCE
#include "ipc/region.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define SEALS_SIZE (F_SEAL_GROW | F_SEAL_SHRINK)
#define SEALS_CLIENT                                                                               \
    (F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) /* which the client adds to what it writes */

/* One more open file of the same memory: -errno. */
static int open_again(int fd, int flags)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, flags | O_CLOEXEC);
    return again < 0 ? -errno : again;
}

/* A memfd of that size. The file that memfd_create makes is not among those that the kernel counts for
 * a lease (ipc_region_is_ours_alone), and so it is opened again. */
static int make_file(const char *name, size_t size, int seals)
{
    int first = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int fd = first < 0 || ftruncate(first, (off_t)size) < 0 || fcntl(first, F_ADD_SEALS, seals) < 0
                 ? -errno
                 : open_again(first, O_RDWR);

    if (first >= 0)
        close(first);
    return fd;
}

/* Maps it, absent from core dumps and from children: 0 or -errno. */
static int map(struct ipc_region *region, int prot)
{
    void *base = mmap(NULL, region->size, prot, MAP_SHARED, region->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    if (madvise(base, region->size, MADV_DONTFORK) < 0 ||
        madvise(base, region->size, MADV_DONTDUMP) < 0) {
        int r = -errno;

        munmap(base, region->size);
        return r;
    }
    region->base = base;
    return 0;
}

int ipc_region_make(struct ipc_region *ret, const char *name, size_t size, size_t resident,
                    enum ipc_region_writer writer)
{
    bool ours = writer == IPC_SERVICE_WRITES;
    struct ipc_region region = {make_file(name, size, SEALS_SIZE | (ours ? F_SEAL_SEAL : 0)), NULL,
                                size};

    if (region.fd < 0)
        return region.fd;
    /* Filled now, so that a step never waits for a page; -ENOMEM here instead of SIGBUS later. */
    int r = fallocate(region.fd, 0, 0, (off_t)resident) < 0 ? -errno : 0;
    if (r == 0 && ours)
        r = map(&region, PROT_READ | PROT_WRITE);
    if (r < 0) {
        close(region.fd);
        return r;
    }
    /* Locking is a wish: without the right to lock, the pages are merely likely to stay. */
    if (ours)
        (void)mlock(region.base, resident);
    *ret = region;
    return 0;
}

int ipc_region_open_for_client(const struct ipc_region *region, enum ipc_region_writer writer)
{
    if (writer == IPC_CLIENT_WRITES)
        return open_again(region->fd, O_RDWR);
    if (fchmod(region->fd, 0400) < 0)
        return -errno;
    return open_again(region->fd, O_RDONLY);
}

bool ipc_region_is_sealed(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS); /* takes no lock, unlike adding one */

    return seals >= 0 && (seals & SEALS_CLIENT) == SEALS_CLIENT;
}

int ipc_region_map_sealed(struct ipc_region *region, size_t resident)
{
    int r = map(region, PROT_READ);

    if (r < 0)
        return r;
    (void)madvise(region->base, resident, MADV_POPULATE_READ); /* else the first look fills */
    (void)mlock(region->base, resident);
    return 0;
}

bool ipc_region_is_ours_alone(int fd)
{
    /* The kernel gives a lease for writing to nobody beside whom the file is open, and a map holds
     * the file that it was made of open. */
    if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        return errno != EAGAIN;
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
}

int ipc_region_map(struct ipc_region *ret, int fd, size_t size, enum ipc_region_writer writer,
                   char *why, size_t why_size)
{
    bool ours = writer == IPC_CLIENT_WRITES;
    struct stat st;
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & SEALS_SIZE) != SEALS_SIZE || fstatfs(fd, &fs) < 0 ||
        fs.f_type != TMPFS_MAGIC) {
        snprintf(why, why_size, "The service handed over a descriptor that is no sealed memfd.");
        return -EPROTO;
    }
    if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size != size) {
        snprintf(why, why_size, "The service's memfd has not the %zu bytes that it promised.",
                 size);
        return -EPROTO;
    }
    struct ipc_region region = {fd, NULL, size};
    int r = map(&region, ours ? PROT_READ | PROT_WRITE : PROT_READ);
    if (r < 0) {
        snprintf(why, why_size, "Cannot map %zu bytes of the service's memory.", size);
        return r;
    }
    if (ours && !ipc_region_is_sealed(fd) && fcntl(fd, F_ADD_SEALS, SEALS_CLIENT) < 0) {
        r = -errno;
        munmap(region.base, size);
        snprintf(why, why_size, "Cannot seal what this program writes for the service: %s.",
                 strerror(-r));
        return r;
    }
    *ret = region;
    return 0;
}

int ipc_region_punch(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0 ||
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, st.st_size) < 0)
        return -errno;
    return 0;
}

void ipc_region_done(struct ipc_region *region)
{
    if (region->base != NULL)
        munmap(region->base, region->size);
    if (region->fd >= 0)
        close(region->fd);
    *region = IPC_REGION_NONE;
}
