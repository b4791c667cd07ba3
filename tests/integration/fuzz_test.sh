#!/bin/sh
# The fuzzers of what strangers' texts go through: each runs for FUZZ_SECONDS (60), all at the same time,
# under AddressSanitizer and UBSan, on its seeds in tests/fuzz/corpus. They are built here from the few
# files that each needs. Skipped where clang or its fuzzer library is missing.
set -u
clang=$(command -v clang || command -v clang-14) || { echo "no clang: apt-get install clang-14"; exit 77; }
[ -f "$("$clang" -print-file-name=libclang_rt.fuzzer-x86_64.a)" ] ||
    { echo "no fuzzer library: apt-get install libclang-rt-14-dev"; exit 77; }
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-fuzz.XXXXXX")
pids=
cleanup() {
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT

case ${BUILD:-build} in
*san) seconds=${FUZZ_SECONDS:-10} ;; # they have the sanitizers in the plain run, too
*) seconds=${FUZZ_SECONDS:-60} ;;
esac
flags="-std=gnu11 -O1 -g -I. -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all"

# shellcheck disable=SC2086
printf '%s\n' chat/*.c svc/text/*.c svc/stop.c ipc/request.c |
    xargs -P "$(nproc)" -I{} sh -c '"$0" $1 -fsanitize=fuzzer-no-link -c -o "$2/$(echo "$3" | tr / _).o" "$3"' \
        "$clang" "$flags" "$work" {} || { echo "FAIL  could not be compiled"; exit 1; }

failures=0
start() { # NAME OBJECT...
    name=$1
    shift
    # shellcheck disable=SC2086
    "$clang" $flags -fsanitize=fuzzer -o "$work/$name" "tests/fuzz/${name}_fuzz.c" "$@" \
        -ljansson -lxxhash -lutf8proc -lm || { echo "FAIL  $name could not be linked"; failures=1; return; }
    mkdir "$work/$name.new"
    "$work/$name" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=3000 -print_final_stats=1 \
        -artifact_prefix="$work/$name-" "$work/$name.new" "tests/fuzz/corpus/${name}_fuzz" >"$work/$name.log" 2>&1 &
    pids="$pids $!"
    names="${names:-} $name"
}
start jinja "$work"/chat_*.o
start calls "$work"/chat_*.o
start prompt "$work"/chat_*.o
start stop "$work"/svc_stop.c.o "$work"/ipc_request.c.o
start tokenizer "$work"/chat_*.o "$work"/svc_text_*.o
start normalize "$work"/chat_*.o "$work"/svc_text_*.o
for name in ${names:-}; do
    # shellcheck disable=SC2086
    set -- $pids
    if wait "$1"; then
        echo "note: $name: $(sed -n 's/.*number_of_executed_units: *//p' "$work/$name.log") runs in $seconds s"
    else
        echo "FAIL  $name"
        tail -n 40 "$work/$name.log"
        for find in "$work/$name"-*; do
            [ -f "$find" ] && base64 "$find"
        done
        failures=1
    fi
    shift
    pids=$*
done
exit "$failures"
