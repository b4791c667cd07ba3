#!/bin/sh
# clean-root.sh FOLDER PACKAGES: a minimal Debian of this release in FOLDER (made by debootstrap if it
# is not there yet), with systemd, what deb-inside.sh itself uses, and, downloaded but not installed,
# what the .deb files in the folder PACKAGES depend on: the container has no network.
set -eu
root=$1 packages=$2
. /etc/os-release
if [ ! -e "$root/done" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,dbus,man-db,gcc,libc6-dev,pkg-config,ca-certificates \
        "$VERSION_CODENAME" "$root"
    touch "$root/done"
fi
rm -rf "$root/download"
mkdir -p "$root/download"
cp "$packages"/quern_*.deb "$packages"/libquern0_*.deb "$packages"/libquern-dev_*.deb "$root/download"
chroot "$root" sh -c 'apt-get -y -q -o APT::Sandbox::User=root --no-install-recommends \
    --download-only install /download/*.deb'
rm -rf "$root/download"
