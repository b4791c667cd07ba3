#!/bin/sh
# One measurement of ik_llama.cpp, as a line of JSON: peer_ik.sh MODEL PROMPT GENERATE THREADS DEPTH.
# PEER_IK is the folder of its llama-bench. Weights are repacked at its start (-rtr 1), its fastest way.
set -eu
: "${PEER_IK:?folder of llama-bench, built from ik_llama.cpp}"
"$PEER_IK/llama-bench" -m "$1" -p "$2" -n 0 -gp "$5,$3" -t "$4" -r 1 -fa 1 -rtr 1 -o json 2>/dev/null |
    sed -n 's/.*"avg_ts": \([0-9.]*\).*/\1/p' | paste -sd ' ' - |
    sed -n 's/\([0-9.]*\) \([0-9.]*\)$/{"prefill_tps": \1, "decode_tps": \2}/p'
