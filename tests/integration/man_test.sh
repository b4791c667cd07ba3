#!/bin/sh
# The man pages: lint, the options and verbs of --help, the keys of the configuration, the prototypes
# and constants of quern.h, the units' Documentation=, and their examples, run against a service.
set -u
. tests/support/service.sh
if ! command -v python3 >/dev/null || ! command -v mandoc >/dev/null; then
    echo "python3 or mandoc is not installed"
    exit 77
fi
pages="python3 tests/tools/man_pages.py"
for page in docs/man/*.[1-8]; do
    check "lint of ${page##*/}" mandoc -T lint -W warning "$page"
done
check "quern.1 and quern --help" $pages tool "$BUILD/quern"
check "quernd.8, quern.conf.5 and quernd --help" $pages service "$BUILD/quernd"
check "section 3 has what quern.h has" $pages header
$pages header >"$work/prototypes.c"
check "… and its prototypes" ${CC:-cc} -std=c11 -Wall -Werror -I. -fsyntax-only "$work/prototypes.c"
check "quern-protocol.7 is docs/protocol.md" sh -c \
    "python3 docs/man/protocol.py docs/protocol.md | cmp - docs/man/quern-protocol.7"
sh docs/man/install.sh "$work/man"
for name in $($pages names); do
    check "$name is installed" sh -c "cd '$work/man' && mandoc -T lint -W error man${name##*.}/$name"
done
for reference in $(sed -n 's/^Documentation=//p' systemd/*.service systemd/*.socket systemd/user/*); do
    name=$(echo "$reference" | sed 's/^man:\(.*\)(\([1-8]\))$/\1.\2/')
    [ -e "$work/man/man${name##*.}/$name" ] || check "Documentation=$reference is a page" false
done

# Examples: of the settings, then what runs against a service.
model=$PWD/models/quern-tldr.gguf
if [ ! -e "$model" ]; then
    model=$work/toy.gguf
    "$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 \
        --vocab tests/golden/qwen2-vocab.bin "$model" || exit 1
fi
case $BUILD in
/*) ;;
*) BUILD=$PWD/$BUILD ;;
esac
examples() { # PAGE KIND: into $work/examples; $n of them
    mkdir -p "$work/examples"
    n=$($pages examples "$1" "$2" "$work/examples")
    check "$1 has examples" [ "$n" -gt 0 ]
}
examples quern.conf.5 check
for i in $(seq "$n"); do
    sed "s#^\(model\|file\) = .*#\1 = $model#" "$work/examples/$i" >"$work/quern.conf"
    check "example $i of quern.conf(5)" "$BUILD/quernd" --check-config --config "$work/quern.conf"
done
examples quern.conf.5 policy
cp "$work/examples/1" "$work/policy.conf"

service_start "$model" --threads 2 --context 4096 --policy "$work/policy.conf"
mkdir "$work/bin" "$work/run"
ln -s "$BUILD/quern" "$BUILD/quernd" "$work/bin"
cp README.md "$work/run"
for page in quern.1 quernd.8; do
    examples $page run
    for i in $(seq "$n"); do
        check "example $i of $page" env PATH="$work/bin:$PATH" MODEL="$model" \
            sh -euc "cd '$work/run'; . '$work/examples/$i' >'$work/said'"
        check "… says something" grep -q . "$work/said"
    done
done
case $BUILD in
*san) finish ;; # a sanitizer's library is for sanitized programs
esac
for page in docs/man/*.3; do
    grep -q '^\.\\" build' "$page" || continue
    page=${page##*/}
    examples "$page" build
    sed 's|<quern.h>|"client/quern.h"|' "$work/examples/1" >"$work/program.c"
    check "example of $page builds" ${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -I. "$work/program.c" \
        "$BUILD/libquern.a" -o "$work/program"
    check "… and runs" sh -c "'$work/program' >'$work/said'"
    check "… and says something" grep -q . "$work/said"
done
finish
