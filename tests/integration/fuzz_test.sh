#!/bin/sh
# Fuzzers, all at the same time, under AddressSanitizer and UBSan, on their seeds in tests/fuzz/corpus: of what
# strangers' texts go through (FUZZ_SECONDS each, 90), of the ring (150), and, as the ring's other half, hostile
# clients of several threads against a whole quernd (150): a hostile client has five minutes in all. They
# are built here from the few files that each needs. Skipped where clang or its fuzzer library is missing.
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

build=${BUILD:-build}
case $build in
*san) seconds=${FUZZ_SECONDS:-10} ring_seconds=10 ;; # they have the sanitizers in the plain run, too
*) seconds=${FUZZ_SECONDS:-90} ring_seconds=${FUZZ_SECONDS:-150} ;;
esac
flags="-std=gnu11 -O1 -g -I. -pthread -DQUERN_VERSION=\"fuzz\" -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all"

# shellcheck disable=SC2086
printf '%s\n' chat/*.c svc/text/*.c svc/stop.c ipc/*.c client/lib/*.c |
    xargs -P "$(nproc)" -I{} sh -c '"$0" $1 -fsanitize=fuzzer-no-link -c -o "$2/$(echo "$3" | tr / _).o" "$3"' \
        "$clang" "$flags" "$work" {} || { echo "FAIL  could not be compiled"; exit 1; }

# quernd and the hostile clients; the kernels, which read nothing of a client's, as they are.
stress=
case $build in
*san) ;;
*)
    mkdir -p "$work/asan" && cp -r "$build/ops" "$work/asan/ops" &&
        env -u MAKEFLAGS -u MAKELEVEL make -s -j"$(nproc)" BUILD="$work/asan" SAN=address,undefined OPT="-O1 -g" tools \
            "$work/asan/quernd" "$work/asan/tests/stress/hostile_stress_test" >"$work/asan.log" 2>&1 ||
        { echo "FAIL  quernd could not be built"; tail -n 20 "$work/asan.log"; exit 1; }
    stress=$work/asan/tests/stress/hostile_stress_test
    ;;
esac

failures=0
start() { # NAME OBJECT...
    name=$1
    shift
    # shellcheck disable=SC2086
    "$clang" $flags -fsanitize=fuzzer -o "$work/$name" "tests/fuzz/${name}_fuzz.c" "$@" \
        -ljansson -lxxhash -lutf8proc -lm || { echo "FAIL  $name could not be linked"; failures=1; return; }
    mkdir "$work/$name.new"
    case $name in ring | request | service) limit=$ring_seconds ;; *) limit=$seconds ;; esac
    "$work/$name" -max_total_time="$limit" -timeout=30 -rss_limit_mb=3000 -print_final_stats=1 \
        -artifact_prefix="$work/$name-" "$work/$name.new" "tests/fuzz/corpus/${name}_fuzz" >"$work/$name.log" 2>&1 &
    pids="$pids $!"
    names="${names:-} $name"
}
if [ -n "$stress" ]; then
    BUILD="$work/asan" QUERN_HOSTILE_SECONDS="$ring_seconds" "$stress" >"$work/stress.log" 2>&1 &
    pids="$pids $!"
    names=stress
fi
start ring "$work"/ipc_*.o
start request "$work"/ipc_*.o
start service "$work"/ipc_*.o "$work"/client_lib_*.o
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
        case $name in
        stress) sed -n 's/^\([0-9]* s: \)/note: hostile clients, &/p' "$work/$name.log" ;;
        *) echo "note: $name: $(sed -n 's/.*number_of_executed_units: *//p' "$work/$name.log") runs" ;;
        esac
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
