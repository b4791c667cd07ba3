#!/bin/sh
# Prefill and decode over length: lines "prefill|decode LENGTH OURS PEER" for length_picture.py.
#   PEER=… sh tests/bench/length.sh CASE [LENGTH…]      CASE as of run.sh (0.5b:q4_0)
set -eu
: "${PEER:?folder of peer_llama}"
export BENCH_CASES="$1"
shift
[ $# -gt 0 ] || set -- 256 512 1024 2048 4096 8192
# The last line of run.sh is the case's row: prefill, decode, two rates, then the same of the peer.
row() { sh "$(dirname "$0")/run.sh" | tail -n 1; }
for length in "$@"; do
    BENCH_PROMPT=$length BENCH_GENERATE=1 BENCH_DEPTH=0 row | awk -v n="$length" '{print "prefill", n, $2, $6}'
    BENCH_PROMPT=64 BENCH_GENERATE=24 BENCH_DEPTH=$length row | awk -v n="$length" '{print "decode", n, $3, $7}'
done
