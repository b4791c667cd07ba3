#!/bin/sh
# The Debian packages under a real systemd: what deb-inside.sh checks there. PACKAGES names a folder
# with packages that `make deb` built; without it they are made here from what is compiled already,
# since what is looked at is the packaging. The upgrade is to a version with other programs.
set -eu
. tests/support/container.sh
for tool in dpkg-buildpackage dh fakeroot; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done
! dpkg-query -W quern 2>/dev/null || skip "the package quern is installed on this machine"

# Two builds of the same sources give the same tarball, whatever times and modes the files have.
sources=$work/sources
mkdir "$sources"
tar --create --exclude=./.git --exclude="./$BUILD" --exclude=./build --exclude=./build-root . | tar --extract -C "$sources"
SOURCE_DATE_EPOCH=1700000000 sh debian/tarball.sh quern-test "$work/one.tar.gz"
(umask 077 && mkdir "$work/again" && tar -xf "$work/one.tar.gz" -C "$work/again" --touch)
SOURCE_DATE_EPOCH=1700000000 sh "$work/again/quern-test/debian/tarball.sh" quern-test "$work/two.tar.gz"
cmp "$work/one.tar.gz" "$work/two.tar.gz" || {
    echo "FAIL  two tarballs of the same sources differ"
    exit 1
}
echo "ok    the tarball is reproducible: $(sha256sum <"$work/two.tar.gz" | cut -c 1-16)"
rm -r "$work/again"

package() { # FOLDER: packages of $sources, from its objects
    mkdir "$work/$1"
    (
        cd "$sources"
        unset BUILD MAKEFLAGS MAKELEVEL
        DEB_BUILD_OPTIONS='noautodbgsym nocheck' dpkg-buildpackage -b -nc -d -us -uc -j2
    ) >"$work/log" 2>&1 || {
        tail -n 40 "$work/log"
        exit 1
    }
    mv "$work"/*.deb "$work/$1"
}
mkdir "$sources/build"
tar --create -C "$BUILD" --exclude=./tests --exclude=./test-output \
    --exclude=./asan --exclude=./tsan --exclude=./fuzz --exclude=./deb . | tar --extract -C "$sources/build"
if [ -n "${PACKAGES-}" ]; then
    mkdir "$work/first"
    cp "$PACKAGES"/*.deb "$work/first"
else
    package first
fi
version=$(sed -n 's/^VERSION := //p' Makefile)
sed -i 's/^VERSION := .*/VERSION := 99.0/' "$sources/Makefile"
{
    printf 'quern (99.0) unstable; urgency=medium\n\n  * Newer.\n\n'
    sed -n 's/^ -- / -- /p;T;q' debian/changelog
    echo
    cat debian/changelog
} >"$sources/debian/changelog"
(cd "$sources" && grep -rl QUERN_VERSION --include='*.c' svc client/cli client/lib | xargs touch)
rm -rf "$sources/debian/.debhelper" "$sources"/debian/*.debhelper* "$sources/debian/tmp"
package second

container_make
rm -f "$root/usr/sbin/policy-rc.d"
mkdir "$root/debs"
cp -r "$work/first" "$work/second" "$root/debs"
cp client/examples/ten_lines.c "$root/debs"
echo "$version" >"$root/debs/version"
container_pages 96
container_run tests/systemd/deb-inside.sh
