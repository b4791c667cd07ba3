# Sourced by tests that need a real systemd: boots one in namespaces of its own over an overlay of /
# (nothing is written to the machine). Needs root, overlayfs and cgroup v2, else the test is skipped.
#   container_make         makes $root, an overlay of $CONTAINER_LOWER (/) with empty /dev, /run and
#                          /tmp; $work/out is its /out
#   container_pages N      takes N huge pages of 2 MiB into the machine's pool until the end
#   container_run SCRIPT   boots, runs SCRIPT as a unit, shows what it said, and ends the test: it
#                          passes where the last line is "0 failures"
BUILD=${BUILD:-build}
limit_s=270

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

pages=0
work=$(mktemp -d /tmp/quern-boot.XXXXXX)
# Other tests change the pool, too: under a lock on its folder.
change_pool() {
    pool=/sys/kernel/mm/hugepages
    flock "$pool" sh -c 'n=$(($(cat "$0/hugepages-2048kB/nr_hugepages") + $1))
        [ $n -ge 0 ] || n=0
        echo $n >"$0/hugepages-2048kB/nr_hugepages"' "$pool" "$1" 2>/dev/null || :
}
cleanup() {
    [ ! -e "$cgroup/cgroup.kill" ] || echo 1 >"$cgroup/cgroup.kill" || :
    tries=0
    while [ -d "$cgroup" ] && [ $tries -lt 50 ]; do
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || :
        tries=$((tries + 1))
        sleep 0.1
    done
    umount -l "$work/fs" 2>/dev/null || :
    [ "$pages" = 0 ] || change_pool "-$pages"
    rm -rf "$work"
}
trap cleanup EXIT

container_make() {
    mkdir "$work/fs" "$work/out"
    mount -t tmpfs -o size=1g,mode=755 quern-test "$work/fs" 2>/dev/null || skip "cannot mount a tmpfs"
    mkdir "$work/fs/upper" "$work/fs/work" "$work/fs/root"
    root=$work/fs/root
    mount -t overlay -o "lowerdir=${CONTAINER_LOWER:-/},upperdir=$work/fs/upper,workdir=$work/fs/work" quern-test "$root" \
        2>/dev/null || skip "cannot mount an overlay of /"
    for d in dev run tmp; do mount -t tmpfs -o mode=755 quern-test "$root/$d"; done
    chmod 1777 "$root/tmp"
    mkdir -p "$root/out" "$root/usr/lib/quern-test"
    mount --bind "$work/out" "$root/out"
    : >"$root/etc/machine-id"
    mkdir -p "$root/etc/systemd/journald.conf.d"
    printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/quern-test.conf"
}

container_pages() {
    pages=$1
    change_pool "$pages"
}

container_run() {
    install -m755 "$1" "$root/usr/lib/quern-test/inside.sh"
    install -m644 tests/systemd/checks.sh tests/tools/metrics.py "$root/usr/lib/quern-test"
    install -m644 tests/systemd/quern-test.service tests/systemd/quern-test.target \
        "$root/etc/systemd/system"
    mkdir "$cgroup/payload"
    export root cgroup
    rc=0
    timeout -k 5 $limit_s unshare --mount --propagation private --pid --uts --ipc --net --fork \
        --kill-child sh tests/systemd/enter.sh >"$work/console" 2>&1 </dev/null || rc=$?
    if [ ! -s "$work/out/log" ]; then
        tail -n 20 "$work/console"
        echo "systemd did not come up (exit $rc)"
        exit 1
    fi
    cat "$work/out/log"
    [ "$(tail -n 1 "$work/out/log")" = "0 failures" ]
    exit
}
