#!/bin/sh
# A disk that is slow: while the model is read, clients, systemd and whoever looks at a terminal see how
# far it is; what is no terminal gets no bar.
set -u
. tests/support/service.sh
skip_preload_with_sanitizer
command -v python3 >/dev/null || {
    echo "python3 is not installed"
    exit 77
}
cat >"$work/slow.c" <<'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>
struct io_uring;
int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
    int (*real)(struct io_uring *, unsigned) = dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    usleep(30000);
    return real(ring, wait);
}
ssize_t pread(int fd, void *to, size_t length, off_t offset)
{
    usleep(30000);
    return syscall(SYS_pread64, fd, to, length, offset);
}
END
${CC:-cc} -shared -fPIC -O1 "$work/slow.c" -o "$work/slow.so" || exit 1
"$BUILD/tests/tools/make-model" --shape tiny --layers 8 --vocab tests/golden/qwen2-vocab.bin \
    --merges 3000 --type f16 "$work/model.gguf" || exit 1

# Starts the service on a terminal of its own and clients that wait for it, one on a terminal and one
# whose errors go to a file; writes what each showed to $work/{service,client,statuses}.
cat >"$work/watch.py" <<'END'
import os, pty, socket, subprocess, sys, threading, time
build, work = sys.argv[1:3]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(work + "/notify")
notify.settimeout(60)

def shown(fd, path):
    with open(path, "wb") as out:
        while True:
            try:
                said = os.read(fd, 4096)
            except OSError:  # the other end is closed
                said = b""
            if not said:
                return
            out.write(said)

def on_terminal(name, command, **more):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stderr=theirs, **more)
    os.close(theirs)
    thread = threading.Thread(target=shown, args=(ours, work + "/" + name))
    thread.start()
    return process, thread

service, seen = on_terminal("service", [build + "/quernd", "--model", work + "/model.gguf", "--socket",
                                        work + "/quern.sock", "--context", "256", "--image", "off"],
                            env=dict(os.environ, LD_PRELOAD=work + "/slow.so",
                                     NOTIFY_SOCKET=work + "/notify"))
while not os.path.exists(work + "/quern.sock") and service.poll() is None:
    time.sleep(0.005)
wait = [build + "/quern", "status", "--wait", "--socket", work + "/quern.sock"]
client, client_seen = on_terminal("client", wait, stdout=open(work + "/client.out", "wb"))
plain = subprocess.Popen(wait, stdout=open(work + "/plain.out", "wb"), stderr=open(work + "/plain.err", "wb"))
with open(work + "/statuses", "wb") as out:
    said = b""
    while b"READY=1" not in said:
        said = notify.recv(4096)
        out.write(said + b"\n")
codes = [client.wait(60), plain.wait(60)]
service.terminate()
codes.append(service.wait(60))
seen.join(60)
client_seen.join(60)
print(*codes)
END
equal "the service and two clients that wait for it end well" \
    "$(timeout 200 python3 "$work/watch.py" "$BUILD" "$work")" "0 0 0"

# rises FILE PATTERN: different numbers of percent in it, before 100, none less than the one before
rises() {
    tr '\r' '\n' <"$1" | sed -n "s/$2/\1/p" >"$work/percent"
    [ "$(sort -nu "$work/percent" | awk '$1 < 100' | wc -l)" -ge 2 ] && sort -nc "$work/percent"
}
check "a client on a terminal sees a bar that grows" rises "$work/client" '.*loading \[[#.]*\] *\([0-9]*\) %.*'
check "… and then the status" grep -q '^state *ready' "$work/client.out"
check "another sees the status" grep -q '^state *ready' "$work/plain.out"
equal "… and no bar" "$(cat "$work/plain.err")" ""
check "the service on a terminal shows a bar that grows" \
    rises "$work/service" '.*\[[# ]*\] Loading the model: *\([0-9]*\) %.*'
check "systemd is told" rises "$work/statuses" '^STATUS=Loading the model: \([0-9]*\) %.*'
finish
