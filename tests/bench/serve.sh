#!/bin/sh
# What the service gives to many programs at once, beside llama.cpp's batch on the same file: runs
# interleaved, the one that does not run is stopped. Prints lines "ours N: …" and "peer N: …".
#   sh tests/bench/serve.sh MODEL [ROUNDS [SEQUENCES…]]
# PEER is the folder of the yardstick (peer_llama), PEER_LIB that of its libraries; without PEER it
# measures quernd alone. SERVE_TOKENS is what each sequence generates (96). SERVE_OWN=1 puts `quernd bench` beside one sequence. SERVE_LONG=N adds common prefixes, gaps, and a short prompt beside one of N.
set -eu
build=${BUILD:-build} model=$1 rounds=${2:-3}
PEER_LIB=${PEER_LIB:-${PEER:-}/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64}
export PEER_LIB
shift; [ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- 1 2 4 8 16
folder=$(mktemp -d)
vocabulary=${SERVE_VOCABULARY:-151646} tokens=${SERVE_TOKENS:-96}
"$build/quernd" --model "$model" --socket "$folder/s" --threads 2 --context 20000 --kv-bytes 1200M \
    --image off --store off >"$folder/log" 2>&1 &
service=$!
trap 'kill -CONT $service; kill $service; wait $service; rm -rf "$folder"' EXIT
until "$build/quern" --socket "$folder/s" status >/dev/null 2>&1; do sleep 0.2; done
bench() { "$build/tests/bench/serve_bench" "$folder/s" "$vocabulary" "$@" | tr '\n' ' '; echo; }
bench many 2 16 8 >/dev/null
sleep 6 # the pool of KV pages is made behind the start
while [ "$rounds" -gt 0 ]; do
    for n in "$@"; do
        printf 'ours %s: ' "$n"
        bench many "$n" 32 "$tokens"
        [ -n "${PEER:-}" ] || continue
        kill -STOP $service
        printf 'peer %s: ' "$n"
        "$PEER/peer_llama" bench "$model" 32 24 2 1 1 "$n" 2>/dev/null
        kill -CONT $service
    done
    rounds=$((rounds - 1))
done
if [ -n "${SERVE_OWN:-}" ]; then
    for i in 1 2 3 4 5; do
        printf 'service %s: ' $i; bench many 1 32 192
        printf 'bench %s: ' $i
        kill -STOP $service
        "$build/quernd" bench --model "$model" --prompt 32 --generate 192 --reps 1 --threads 2 |
            grep decode
        kill -CONT $service
    done
fi
if [ -n "${SERVE_LONG:-}" ]; then
    printf 'prefix: '; bench prefix 16 2000
    printf 'gap: '; bench gap 16 1500
    printf 'short: '; bench short "$SERVE_LONG"
fi
"$build/quern" --socket "$folder/s" status | grep -E '^total_(step|plan|sample|hand|rows|cut)'
