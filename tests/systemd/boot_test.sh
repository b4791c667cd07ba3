#!/bin/sh
# Boots a real systemd in namespaces of its own over an overlay of / (nothing is written to the
# machine), installs quern there with `make install`, runs tests/systemd/inside.sh as a unit of that
# systemd, and shows what it said. Needs root, overlayfs and cgroup v2.
set -eu
BUILD=${BUILD:-build}
limit_s=120

skip() {
    echo "$*"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "needs root to boot a systemd in a container"
[ -x /lib/systemd/systemd ] || skip "systemd is not installed"
case $BUILD in
*san) skip "the sandbox of the unit does not allow what a sanitizer does" ;;
esac
unshare --mount --propagation private true 2>/dev/null ||
    skip "cannot make a mount namespace (in a chroot, or without the privilege)"
cgroup2=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
[ -n "$cgroup2" ] || skip "no cgroup v2 hierarchy is mounted"
cgroup=$cgroup2$(sed -n 's/^0:://p' /proc/self/cgroup)
cgroup=${cgroup%/}/quern-test.$$
mkdir "$cgroup" 2>/dev/null || skip "cannot make a cgroup in $cgroup2"

work=$(mktemp -d /tmp/quern-boot.XXXXXX)
cleanup() {
    [ ! -e "$cgroup/cgroup.kill" ] || echo 1 >"$cgroup/cgroup.kill" || :
    tries=0
    while [ -d "$cgroup" ] && [ $tries -lt 50 ]; do
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || :
        tries=$((tries + 1))
        sleep 0.1
    done
    umount -l "$work/fs" 2>/dev/null || :
    rm -rf "$work"
}
trap cleanup EXIT

# ---- the root file system: an overlay of ours with quern installed in it -----------------------
mkdir "$work/fs" "$work/out"
mount -t tmpfs -o size=1g,mode=755 quern-test "$work/fs" 2>/dev/null || skip "cannot mount a tmpfs"
mkdir "$work/fs/upper" "$work/fs/work" "$work/fs/root"
root=$work/fs/root
mount -t overlay -o "lowerdir=/,upperdir=$work/fs/upper,workdir=$work/fs/work" quern-test "$root" \
    2>/dev/null || skip "cannot mount an overlay of /"
for d in dev run tmp; do mount -t tmpfs -o mode=755 quern-test "$root/$d"; done
chmod 1777 "$root/tmp"
make -s install BUILD="$BUILD" PREFIX=/usr DESTDIR="$root" >/dev/null
mkdir -p "$root/out" "$root/usr/lib/quern-test"
mount --bind "$work/out" "$root/out"
install -m755 tests/systemd/inside.sh "$root/usr/lib/quern-test/inside.sh"
model=models/quern-tldr.gguf
if [ ! -e "$model" ]; then
    "$BUILD/tests/tools/make-model" --shape tiny --vocab tests/golden/qwen2-vocab.bin \
        "$root/usr/share/quern/quern-tldr.gguf"
fi
: >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/quern-test.service" <<'U'
[Unit]
Description=tests of the quern units
Requires=basic.target dbus.socket
After=basic.target dbus.socket
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/usr/lib/quern-test/inside.sh
StandardOutput=append:/out/log
StandardError=inherit
TimeoutStartSec=100
U
cat >"$root/etc/systemd/system/quern-test.target" <<'U'
[Unit]
Requires=basic.target quern-test.service
After=basic.target
AllowIsolate=yes
U

# ---- boot: new pid, mount, network, ipc, uts and cgroup namespaces, then systemd as pid 1 ---------
mkdir "$cgroup/payload"
cat >"$work/enter.sh" <<'S'
set -e
echo 0 >"$cgroup/payload/cgroup.procs"
exec unshare --cgroup sh -ec '
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
    for n in null zero full random urandom tty; do
        touch "$root/dev/$n"
        mount --bind "/dev/$n" "$root/dev/$n"
    done
    mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue" "$root/dev/hugepages" "$root/mnt"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s fd/0 "$root/dev/stdin"
    ln -s fd/1 "$root/dev/stdout"
    ln -s fd/2 "$root/dev/stderr"
    hostname quern-test
    cd "$root"
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=quern-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system systemd.unit=quern-test.target'
S
export root cgroup
rc=0
timeout -k 5 $limit_s unshare --mount --propagation private --pid --uts --ipc --net --fork \
    --kill-child sh "$work/enter.sh" >"$work/console" 2>&1 </dev/null || rc=$?
if [ ! -s "$work/out/log" ]; then
    tail -n 20 "$work/console"
    echo "systemd did not come up (exit $rc)"
    exit 1
fi
cat "$work/out/log"
grep -q '^0 failures$' "$work/out/log"
