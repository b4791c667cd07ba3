#!/bin/sh
# Users against each other, on the real engine: the share of each uid in a contended time against
# its weight, and what a flood from one uid does to another. To be run by root (two uids that need
# not exist).
#   sh tests/bench/share.sh MODEL [SECONDS [WEIGHT:WEIGHT…]]
# Four sequences run at once, so that admission decides. Lines: "weights A:B, uid …", then "alone"
# and "beside a flood of 64" for one program of uid B.
set -eu
build=${BUILD:-build} model=$1 seconds=${2:-60}
shift; [ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- 1:1 1:3 2:1
vocabulary=${SERVE_VOCABULARY:-151646}
a=61001 b=61002
folder=$(mktemp -d)
chmod 755 "$folder"
service=
trap 'stop; rm -rf "$folder"' EXIT
stop() {
    [ -z "$service" ] || { kill "$service"; wait "$service" || true; }
    service=
}
# begin WEIGHT_A WEIGHT_B
begin() {
    printf '[user %s]\nweight = %s\n[user %s]\nweight = %s\n' $a "$1" $b "$2" >"$folder/policy"
    "$build/quernd" --model "$model" --socket "$folder/s" --threads 2 --context 1024 \
        --kv-bytes 64M --sequences 4 --policy "$folder/policy" --requests-per-user 128 \
        --connections-per-user 128 --image off --store off >"$folder/log" 2>&1 &
    service=$!
    until "$build/quern" --socket "$folder/s" status >/dev/null 2>&1; do sleep 0.2; done
    chmod 666 "$folder/s"
}
# as UID N SECONDS: N programs of a uid
as() {
    setpriv --reuid "$1" --regid "$1" --clear-groups \
        "$build/tests/bench/serve_bench" "$folder/s" "$vocabulary" stay "$2" "$3" | tr '\n' ' '
}
for weights in "$@"; do
    begin "${weights%:*}" "${weights#*:}"
    as $a 12 "$seconds" >"$folder/a" &
    first=$!
    as $b 12 "$seconds" >"$folder/b"
    wait $first
    echo "weights $weights, first uid: $(cat "$folder/a")"
    echo "weights $weights, second uid: $(cat "$folder/b")"
    stop
done
begin 1 1
echo "alone: $(as $b 1 "$((seconds / 2))")"
as $a 64 "$seconds" >"$folder/a" &
first=$!
sleep 2
echo "beside a flood of 64: $(as $b 1 "$((seconds - 4))")"
wait $first
echo "the flood: $(cat "$folder/a")"
