#!/bin/sh
# make install into a folder: settings that are there are kept, units name what was installed, for old
# and new versions of systemd, and make uninstall leaves nothing but the settings.
set -u
. tests/support/service.sh
install_to() { # FOLDER WHAT [NAME=VALUE...]
    to=$1 what=$2
    shift 2
    make -s "$what" BUILD="$BUILD" PREFIX=/usr DESTDIR="$work/$to" "$@" >"$work/make" 2>&1 || cat "$work/make"
}
install_to new install SYSTEMD_VERSION=257
install_to old install SYSTEMD_VERSION=252
units=usr/lib/systemd/system
for path in usr/sbin/quernd usr/bin/quern usr/lib/libquern.so.0 usr/include/quern.h etc/quern/quern.conf \
    $units/quern.socket usr/lib/systemd/user/quern.service usr/lib/systemd/catalog/quern.catalog \
    usr/share/man/man8/quernd.8 usr/share/bash-completion/completions/quern; do
    check "$path" test -s "$work/new/$path"
done
equal "no name is left to fill in" "$(grep -rlE '@[A-Z]+@' "$work/new/usr/lib/systemd" "$work/new/etc")" ""
for program in $(sed -n 's/^Exec[A-Za-z]*=\(\/[^ ]*\).*/\1/p' "$work/new/$units"/*.service | sort -u); do
    check "units call $program, which is there" test -x "$work/new$program"
done
equal "a new systemd reloads by itself" "$(grep -c '^Type=notify-reload' "$work/new/$units/quern.service")" 1
equal "… and keeps the store" "$(grep -c '^FileDescriptorStorePreserve' "$work/new/$units/quern.service")" 1
equal "an old one is told how" "$(grep -c '^ExecReload=' "$work/old/$units/quern.service")" 1
equal "… and not what it does not know" "$(grep -cE 'notify-reload|Preserve' "$work/old/$units/quern.service")" 0

# The pool's script, on a folder that stands in for the kernel's: only what is free afterwards counts
pages=$work/pages
mkdir "$pages"
"$BUILD/tests/tools/make-model" --shape tiny "$work/toy.gguf" || exit 1
pool() { # FREE LINE: a pool with so many pages free, one more setting
    echo "$1" >"$pages/free_hugepages"
    echo 5 >"$pages/nr_hugepages"
    printf '[service]\nmodel = %s\n[memory]\nhuge-page-pool = 64M\n%s\n' "$work/toy.gguf" "$2" >"$work/pool.conf"
    QUERN_HUGEPAGES="$pages" sh systemd/huge-pages.sh "$BUILD/quernd" "$work/pool.conf" >"$work/out" 2>"$work/err"
}
pool 0 ''
want=$("$BUILD/quernd" pool --config "$work/pool.conf")
pool "$want" ''
equal "a pool that is large enough is left alone" "$?/$(cat "$pages/nr_hugepages")/$(cat "$work/out")" \
    "0/5/$want huge pages are free, $want are wanted"
pool 2 ''
equal "one that is not is asked for the rest" "$?/$(cat "$pages/nr_hugepages")" 0/$((5 + want - 2))
check "… and what did not come is said" grep -q "^Only 2 of $want huge pages" "$work/err"
pool 2 'huge-pages = require'
equal "where pages are required, it fails" $? 1
pool 0 'huge-pages = off'
equal "where none are used, nothing is asked for" "$?/$(cat "$pages/nr_hugepages")" 0/5

echo '# mine' >>"$work/new/etc/quern/quern.conf"
install_to new install
check "settings are kept" grep -q '^# mine' "$work/new/etc/quern/quern.conf"
install_to new uninstall
equal "uninstall leaves the settings, and nothing else" \
    "$(cd "$work/new" && find . \( -type f -o -type l \) | sort | tr '\n' ' ')" \
    "./etc/default/quern ./etc/quern/quern.conf "
finish
