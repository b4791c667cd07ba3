/* Where clients come in (see listener.h). */
#include "svc/listener.h"

#include "svc/options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

/* Every program of the machine may connect: who may do what is decided by credentials. */
enum { SOCKET_MODE = 0666, FOLDER_MODE = 0755 };

int listener_open(struct ipc_listener *ret, const char *path, char *why, size_t why_size)
{
    char standard[PATH_MAX];
    int n = sd_listen_fds(1);
    if (n > 1) {
        snprintf(why, why_size, "systemd passed %d sockets, but quernd listens on one.", n);
        return -EINVAL;
    }
    if (n == 1)
        return ipc_listener_init_fd(ret, SD_LISTEN_FDS_START, why, why_size);
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
