#!/bin/sh
# twice.sh TARBALL PACKAGES: builds the packages again from TARBALL, in another folder, with another umask, time
# zone, language, home and number of jobs, and compares them with those in the folder PACKAGES, byte for
# byte. SOURCE_DATE_EPOCH, which debhelper takes from the changelog where nobody gives one, is the same.
set -eu
tarball=$(realpath "$1") packages=$(realpath "$2")
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-twice.XXXXXX")
trap 'rm -rf "$work"' EXIT
folder=$work/a/folder/with/a/longer/name
mkdir -p "$folder" "$work/home"
tar -xf "$tarball" -C "$folder"
[ -z "${MAINTAINER-}" ] || sh "$folder"/quern-*/debian/maintainer.sh "$MAINTAINER"
(
    umask 002
    cd "$folder"/quern-*
    env -u BUILD -u MAKEFLAGS -u MAKELEVEL HOME="$work/home" TZ=Asia/Kathmandu LC_ALL=C.UTF-8 \
        dpkg-buildpackage -b -us -uc -j3
) >"$work/log" 2>&1 || {
    tail -n 40 "$work/log"
    exit 1
}
failures=0
for one in "$packages"/*.deb; do
    two=$folder/${one##*/}
    if cmp "$one" "$two"; then
        echo "ok    ${one##*/} is the same: $(sha256sum <"$two" | cut -c 1-16)"
        continue
    fi
    failures=$((failures + 1))
    echo "FAIL  ${one##*/} differs in:"
    for side in one two; do
        eval "dpkg-deb -R \"\$$side\" \"\$work/$side\""
    done
    diff -rq "$work/one" "$work/two" | sed 's/^/      /'
    rm -rf "$work/one" "$work/two"
done
[ "$failures" = 0 ]
