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

# Python: the package as pip installs it, its structures against the compiler's, and what it does
python=/usr/bin/python3 # Debian's own, which sees its packages
export QUERN_LIBRARY="$work/usr/lib/libquern.so.0"
mkdir "$work/package" "$work/python"
cp client/python/quern.py client/python/pyproject.toml "$work/package"
if $python -c 'import setuptools, wheel, pip' 2>/dev/null; then
    check "the Python package installs" $python -m pip -q install --no-index --no-build-isolation --no-deps \
        --root-user-action=ignore --target "$work/python" "$work/package"
else
    echo "note: pip, setuptools or wheel is not installed; the Python package was not built"
    cp "$work/package/quern.py" "$work/python"
fi
equal "… as the version that it is" "$(sed -n 's/^version = "\(.*\)"/\1/p' client/python/pyproject.toml)" \
    "$(sed -n 's/^VERSION := //p' Makefile)"
export PYTHONPATH="$work/python"
cat >"$work/sizes.py" <<'END'
import ctypes, quern
print("#include <quern.h>\n#include <stddef.h>")
for struct, mirror in (("quern_message", quern._Message), ("quern_request", quern._Request),
                       ("quern_final", quern._Final), ("quern_event", quern._Event)):
    print(f"_Static_assert(sizeof(struct {struct}) == {ctypes.sizeof(mirror)}, \"{struct}\");")
    for name, _ in mirror._fields_:
        print(f"_Static_assert(offsetof(struct {struct}, {name}) == {getattr(mirror, name).offset}, \"{name}\");")
END
$python "$work/sizes.py" >"$work/sizes.c"
check "its structures are those of quern.h" sh -c \
    "grep -q 'quern_event, u)' '$work/sizes.c' && ${CC:-gcc} -std=c11 -fsyntax-only $flags '$work/sizes.c'"
check "ask.py runs" sh -c "$python client/examples/ask.py | grep -q ."
cat >"$work/use.py" <<'END'
import quern, sys
with quern.Service() as service:
    assert service.status()["model"] == "random tiny, seed 3" and quern.version()
    assert len(service.tokenize("The mill")) == 2
    answers = ["".join(service.ask([("system", "Be brief."), ("user", "hello")], max_tokens=9, temperature=1, seed=7))
               for _ in range(2)]
    assert answers[0] == answers[1] and service.last.generated == 9, answers
    for _ in service.generate("begun and left", max_tokens=300):
        break
    for wrong, kind in ((lambda: list(service.generate("mill " * 2000)), quern.Error),
                        (lambda: service.generate("mill", warmth=1), TypeError)):
        try:
            wrong()
            sys.exit("no error")
        except kind as error:
            print(error)
    assert list(service.generate("and on", max_tokens=1))
try:
    service.status()
    sys.exit("closed, and no error")
except ValueError:
    pass
END
check "the package does what it says" sh -c "$python '$work/use.py' >'$work/said'"
check "… with the service's own sentence" grep -q "context holds 512" "$work/said"
env QUERN_SOCKET="$work/none" $python client/examples/ask.py 2>"$work/err"
check "ask.py without a service" grep -q 'does not exist' "$work/err"
finish
