#!/bin/sh
# install.sh FOLDER: the man pages into FOLDER/man1 …, and for each further name of a page (its .Nm
# lines) a page that shows it.
set -eu
to=$1
from=$(dirname "$0")
for page in "$from"/*.[1-8]; do
    name=${page##*/} section=${page##*.}
    install -d "$to/man$section"
    install -m644 "$page" "$to/man$section/$name"
    sed -n '/^\.Sh NAME/,/^\.Nd/s/^\.Nm \([^ ]*\).*/\1/p' "$page" | while read -r other; do
        [ "$other.$section" = "$name" ] || echo ".so man$section/$name" >"$to/man$section/$other.$section"
    done
done
