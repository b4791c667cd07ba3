#!/bin/sh
# One measurement of llama.cpp, as a line of JSON: peer.sh MODEL PROMPT GENERATE THREADS DEPTH.
# PEER is the folder of peer_llama, PEER_LIB that of its libraries (default: as npm installs them).
set -eu
: "${PEER:?folder of peer_llama}"
PEER_LIB=${PEER_LIB:-$PEER/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64}
export PEER_LIB
# arguments of bench: prompt, generate, threads, repetitions, flash attention, sequences, depth
"$PEER/peer_llama" bench "$1" "$2" "$3" "$4" 1 1 1 "$5" 2>/dev/null |
    sed -n 's/.* pp[0-9]* \([0-9.]*\) t.*tg[0-9]* x[0-9]* \([0-9.]*\) t.*/{"prefill_tps": \1, "decode_tps": \2}/p'
