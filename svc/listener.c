/* Where clients come in (see listener.h). */
#include "svc/listener.h"

#include "svc/options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

/* Every program of the machine may connect: who may do what is decided by credentials. */
enum { SOCKET_MODE = 0666, FOLDER_MODE = 0755 };

/* The listening socket among the descriptors that systemd passed: the fd store passes others, which
 * are not ours to take. -ENOENT: none was passed. */
static int passed_socket(void)
{
    int n = sd_listen_fds(0);
    for (int i = 0; i < n; i++)
        if (sd_is_socket(SD_LISTEN_FDS_START + i, AF_UNIX, SOCK_SEQPACKET, 1) > 0)
            return SD_LISTEN_FDS_START + i;
    return -ENOENT;
}

int listener_open(struct ipc_listener *ret, const char *path, char *why, size_t why_size)
{
    char standard[PATH_MAX];
    int fd = passed_socket();
    if (fd >= 0)
        return ipc_listener_init_fd(ret, fd, why, why_size);
    if (!path) {
        if (options_default_socket(standard, sizeof standard) < 0) {
            snprintf(why, why_size, "The default socket path is too long; give --socket PATH.");
            return -ENAMETOOLONG;
        }
        path = standard;
        char *slash = strrchr(standard, '/');
        if (slash && slash != standard) {
            *slash = 0;
            if (mkdir(standard, FOLDER_MODE) < 0 && errno != EEXIST) {
                int r = -errno;
                snprintf(why, why_size, "The folder %s cannot be made (%s); give --socket PATH.",
                         standard, strerror(-r));
                return r;
            }
            *slash = '/';
        }
    }
    return ipc_listener_init(ret, path, SOCKET_MODE, why, why_size);
}
