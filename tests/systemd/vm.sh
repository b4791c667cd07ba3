#!/bin/sh
# quern under the systemd of a machine of its own: what vm-inside.sh checks there, since a container has
# neither controllers of memory and processors (where the machine gives it none) nor a suspend. QEMU
# boots Debian's cloud kernel and this machine's own systemd, in software: whatever the processor is,
# and wherever this runs, in minutes. `make check-vm` calls it; needs root (the owners of the files).
# It is no part of `make check`: two and a half minutes of processor time, and a machine that is busy would
# run past the limit of a test. Seen to pass whole on 28 November 2026 (systemd 252, Linux 6.1).
set -eu
. tests/support/service.sh
skip() {
    echo "$*"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "needs root to make the machine's file system"
case $BUILD in
*san) skip "the sandbox of the unit does not allow what a sanitizer does" ;;
esac
for tool in qemu-system-x86_64 busybox mke2fs; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done
. tests/support/kernel.sh
kernel_get || skip "the kernel cannot be fetched: linux-image-cloud-amd64"

# ---- its root: the files of the packages that a small Debian has, and quern by `make install` -----
root=$work/root
mkdir -p "$root/usr/lib" "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib64"
for d in lib bin sbin lib64; do ln -s usr/$d "$root/$d"; done
apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances systemd dbus libpam-systemd bash coreutils diffutils grep sed mawk findutils procps \
    mount util-linux login hostname libc-bin dash | grep '^[a-z]' | sort -u |
    while read -r package; do
        dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$package" 2>/dev/null || :
    done | sed -n 's/^installed //p' >"$work/packages"
{
    xargs dpkg-query -L <"$work/packages" | grep -Ev '^/(usr/share/(doc|man|locale|info|i18n|lintian|zoneinfo)|etc)(/|$)'
    find /etc -path /etc/systemd/system -prune -o -print | grep -vx '/etc/\(fstab\|machine-id\|hostname\)'
} | sed 's,^/,,' | sort -u |
    tar --create --directory / --no-recursion --ignore-failed-read --files-from - 2>/dev/null |
    tar --extract --directory "$root" --keep-directory-symlink
ldd "$BUILD/quernd" "$BUILD/quern" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u |
    while read -r library; do cp -L -n "$library" "$root$library"; done
for d in dev proc sys run tmp root home var/lib var/log/journal var/cache var/tmp etc/systemd/system usr/lib/quern-test; do
    mkdir -p "$root/$d"
done
ln -sf dash "$root/usr/bin/sh"
ln -sf mawk "$root/usr/bin/awk"
chmod 1777 "$root/tmp" "$root/var/tmp"
ldconfig -r "$root"
: >"$root/etc/machine-id"
echo quern-vm >"$root/etc/hostname"
make -s install BUILD="$BUILD" PREFIX=/usr DESTDIR="$root" >/dev/null
strip "$root/usr/sbin/quernd" "$root/usr/bin/quern"
rm -rf "$root/usr/share/man" "$root/usr/lib/libquern.a"
systemd-sysusers --root="$root" "$root/usr/lib/sysusers.d/quern.conf"
"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 "$root/usr/share/quern/toy.gguf"
install -m755 tests/systemd/vm-inside.sh "$root/usr/lib/quern-test/inside.sh"
install -m644 tests/systemd/checks.sh "$root/usr/lib/quern-test"
install -m644 tests/systemd/quern-test.service tests/systemd/quern-test.target "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system/quern-test.service.d"
cat >"$root/etc/systemd/system/quern-test.service.d/vm.conf" <<'UNIT'
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
StandardOutput=file:/dev/ttyS1
TimeoutStartSec=20min
UNIT
# The same answer here and there, whatever the processors are.
service_start "$root/usr/share/quern/toy.gguf" --context 1024
"$BUILD/quern" generate --tokens 5,6,7 --max-tokens 100 --temperature 1 --seed 7 --output ids >"$root/usr/lib/quern-test/answer"
service_stop
size=$(du -sm "$root" | cut -f 1)
truncate -s $((size + 200))M "$work/disk"
mke2fs -q -t ext4 -d "$root" "$work/disk"
rm -rf "$root"

# ---- what finds that root -------------------------------------------------------------------
mkdir -p "$work/initrd/bin" "$work/initrd/dev" "$work/initrd/root"
cp "$(command -v busybox)" "$work/initrd/bin/busybox"
n=0
for m in virtio/virtio_ring virtio/virtio virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev \
    virtio/virtio_pci block/virtio_blk; do
    n=$((n + 1))
    cp "$kernel/modules/drivers/$m.ko" "$work/initrd/$n.ko"
done
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
busybox mount -t devtmpfs none /dev
for n in 1 2 3 4 5 6; do busybox insmod /$n.ko; done
for n in 1 2 3 4 5; do [ -e /dev/vda ] || busybox sleep 1; done
busybox mount -t ext4 /dev/vda /root
busybox mount -o move /dev /root/dev
exec busybox switch_root /root /lib/systemd/systemd || busybox poweroff -f
INIT
chmod +x "$work/initrd/init"
ln -s busybox "$work/initrd/bin/sh"
(cd "$work/initrd" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd.img"

# ---- the machine ----------------------------------------------------------------------------
: >"$work/log"
timeout -k 5 "${VM_TIMEOUT_S:-1200}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -machine q35 -smp 2 -m 768 \
    -nodefaults -display none -no-reboot -serial "file:$work/console" -serial "file:$work/log" \
    -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" -kernel "$kernel/vmlinuz" -initrd "$work/initrd.img" \
    -append "console=ttyS0 quiet mitigations=off no_timer_check systemd.unit=quern-test.target systemd.show_status=false" \
    >"$work/qemu" 2>&1 </dev/null &
service=$! # which the end of this script stops, if nothing else does
wait "$service" || cat "$work/qemu"
service=
tr -d '\r' <"$work/log"
tr -d '\r' <"$work/log" | tail -n 1 | grep -qx '0 failures' || {
    tail -n 30 "$work/console"
    exit 1
}
