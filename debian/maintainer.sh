#!/bin/sh
# maintainer.sh 'NAME <ADDRESS>': makes that the maintainer of the packages in this folder of sources.
set -eu
cd "$(dirname "$0")"
who=$(printf '%s' "$1" | sed 's/[&|\\]/\\&/g')
sed -i "s|^Maintainer: .*|Maintainer: $who|" control
sed -i "1,/^ -- /s|^ -- .*>  | -- $who  |" changelog
