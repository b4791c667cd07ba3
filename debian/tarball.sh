#!/bin/sh
# tarball.sh NAME FILE: the sources as FILE (.tar.gz), in a folder NAME. The same sources give the same
# bytes: names sorted, times SOURCE_DATE_EPOCH (else that of the last change in debian/changelog),
# owner root, modes 644 and 755 whatever the umask was.
set -eu
name=$1 file=$2
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
epoch=${SOURCE_DATE_EPOCH:-$(date -d "$(sed -n 's/^ -- .*>  //p;T;q' debian/changelog)" +%s)}
if git rev-parse --show-toplevel 2>/dev/null | grep -qxF "$PWD"; then
    git ls-files -z
else # an unpacked tarball
    find . \( -path ./.git -o -path ./build -o -path ./build-root \) -prune -o \( -type f -o -type l \) -printf '%P\0'
fi | sort -z |
    tar --create --null --no-recursion --files-from - --transform "s,^,$name/,S" --format=gnu \
        --mtime "@$epoch" --owner 0 --group 0 --numeric-owner --mode u=rwX,go=rX |
    gzip -9 -n >"$file.tmp"
mv "$file.tmp" "$file"
