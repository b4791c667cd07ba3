#!/bin/sh
# The examples of client/examples, built as a stranger builds them (pkg-config, the installed header
# and library), and run against a service.
set -u
. tests/support/service.sh
case $BUILD in
*san)
    echo "a sanitizer's library is for sanitized programs"
    exit 77
    ;;
esac
make -s install BUILD="$BUILD" PREFIX="$work/usr" DESTDIR= SYSCONFDIR="$work/etc" >"$work/install" 2>&1 || {
    cat "$work/install"
    exit 1
}
export PKG_CONFIG_PATH="$work/usr/lib/pkgconfig" LD_LIBRARY_PATH="$work/usr/lib"
flags=$(pkg-config --cflags --libs quern) || exit 1
for source in client/examples/*.c; do
    name=${source##*/} name=${name%.c}
    check "$name builds" sh -c "${CC:-gcc} -std=c11 -Wall -Wextra -Werror '$source' $flags -o '$work/$name'"
done
if command -v "${CXX:-g++}" >/dev/null; then
    check "stream builds" sh -c \
        "${CXX:-g++} -std=c++17 -Wall -Wextra -Werror client/examples/stream.cc $flags -o '$work/stream'"
fi

"$work/ten_lines" >/dev/null 2>"$work/err"
equal "without a service" $? 69
"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 \
    --vocab tests/golden/qwen2-vocab.bin "$work/toy.gguf" || exit 1
service_start "$work/toy.gguf" --threads 2 --context 512

check "epoll_loop runs" sh -c "'$work/epoll_loop' </dev/null | tail -n 1 | grep -q ."
(sleep 1; echo stop) | "$work/epoll_loop" "one two" >"$work/out2"
equal "epoll_loop ends" $? 0
i=0
while [ $i -lt 40 ]; do
    echo "line $((i % 4))"
    i=$((i + 1))
done >"$work/lines"
check "batch runs" sh -c "'$work/batch' <'$work/lines' >'$work/answers'"
equal "an answer for each line" "$(wc -l <"$work/answers")" 40
equal "in the order of the lines" "$(awk 'NR % 4 == 1' "$work/answers" | sort -u | wc -l)" 1
[ ! -x "$work/stream" ] || check "stream runs" sh -c "'$work/stream' | grep -q ' tokens'"
check "ask.py runs" sh -c "QUERN_LIBRARY='$work/usr/lib/libquern.so.0' python3 client/examples/ask.py | grep -q ."
finish
