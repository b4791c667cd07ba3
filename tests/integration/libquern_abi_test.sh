#!/bin/sh
# The library as a stranger builds against it: the header alone as strict C99, C11 and C++, the
# shared object with exactly the symbols of the map, each with its version, and the pkg-config file.
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
fail() {
    echo "FAIL: $*"
    exit 1
}

cat >"$dir/use.c" <<'END'
#include "client/quern.h"
int main(void)
{
    struct quern_event event = QUERN_EVENT_INIT;
    struct quern_request request;
    quern *q = 0;
    quern_request_init(&request);
    quern_event_done(&event);
    return quern_connect(&q, "/nonexistent/quern.sock") == 0 || *quern_connect_error() == 0 ||
           request.size != sizeof(request) || *quern_version() == 0;
}
END
cc=${CC:-cc}
for std in c99 c11; do
    $cc -std=$std -pedantic -Wall -Wextra -Werror -I. -c -o "$dir/use.o" "$dir/use.c" || fail "$std"
done
if command -v "${CXX:-c++}" >/dev/null; then
    for std in c++11 c++20; do
        "${CXX:-c++}" -x c++ -std=$std -pedantic -Wall -Wextra -Werror -I. -fsyntax-only "$dir/use.c" ||
            fail "$std"
    done
fi

nm -D --defined-only --with-symbol-versions "$build/libquern.so" |
    awk '$3 ~ /@@QUERN_0$/ { sub(/@@.*/, "", $3); print $3 }' | sort >"$dir/exported"
sed -n 's/^ *\(quern_[a-z_]*\);$/\1/p' client/lib/libquern.map | sort >"$dir/mapped"
sed -n 's/^QUERN_API.*[ *]\(quern_[a-z_]*\)(.*/\1/p' client/quern.h | sort >"$dir/declared"
diff "$dir/mapped" "$dir/exported" || fail "symbols of libquern.so are not those of the map"
diff "$dir/mapped" "$dir/declared" || fail "functions of quern.h are not those of the map"
others=$(nm -D --defined-only "$build/libquern.so" | awk '$2 != "A" && $3 !~ /^quern_/ { print $3 }')
case $(printf '%s' "$others" | grep -v '^__\|^_init\|^_fini') in
'') ;;
*) fail "libquern.so shows $others" ;;
esac

# A sanitizer's library must be linked into the program: the plain build runs it.
if ! nm -D "$build/libquern.so" | grep -qE '__asan|__tsan|__ubsan'; then
    $cc -o "$dir/use" "$dir/use.o" -L"$build" -lquern || fail "link"
    LD_LIBRARY_PATH=$build "$dir/use" || fail "run"
fi
grep -q '^Libs: .*-lquern' "$build/quern.pc" || fail "quern.pc"
if command -v pkg-config >/dev/null; then
    PKG_CONFIG_PATH=$build pkg-config --validate quern || fail "quern.pc is not valid"
fi
echo "libquern: header, symbols and pkg-config file agree"
