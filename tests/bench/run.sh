#!/bin/sh
# make bench: prefill and decode of generated models, beside the memory's rate and, where PEER is the
# folder of the yardstick (peer_llama over llama.cpp; PEER_LIB: its libraries), beside llama.cpp on
# the same files, and where PEER_IK is the folder of its llama-bench beside ik_llama.cpp; runs
# interleaved. Prints medians and ratios.
#   BENCH_CASES  shape:type …   default "0.5b:q8_0". Types other than f32, f16, bf16 and q8_0 are
#                made from f16 by the yardstick's quantizer: q4_0 q4_1 q5_0 q5_1 q2_k q3_k_m q4_k_m
#                q5_k_m q6_k iq4_nl iq4_xs. shape/N takes N layers of it (57b-a14b/2).
#   BENCH_PROMPT 512   BENCH_GENERATE 64   BENCH_DEPTH 0   BENCH_THREADS 2   BENCH_ROUNDS 3
set -eu
build=${BUILD:-build}
cases=${BENCH_CASES:-0.5b:q8_0}
prompt=${BENCH_PROMPT:-512} generate=${BENCH_GENERATE:-64} depth=${BENCH_DEPTH:-0}
threads=${BENCH_THREADS:-2} rounds=${BENCH_ROUNDS:-3}
folder=$build/bench
mkdir -p "$folder"

# ftype <type>: the yardstick's number of a file type.
ftype() {
    case $1 in
    q4_0) echo 2 ;; q4_1) echo 3 ;; q5_0) echo 8 ;; q5_1) echo 9 ;; q2_k) echo 10 ;;
    q3_k_m) echo 12 ;; q4_k_m) echo 15 ;; q5_k_m) echo 17 ;; q6_k) echo 18 ;;
    iq4_nl) echo 25 ;; iq4_xs) echo 30 ;;
    *) echo "bench: no type is called $1" >&2; return 1 ;;
    esac
}

# generated <shape> <type>: makes the file unless it is there; prints its path.
generated() {
    shape=${1%/*} layers=
    [ "$shape" = "$1" ] || layers="--layers ${1#*/}"
    path=$folder/$(echo "$1" | tr / -)-$2.gguf
    if [ ! -e "$path" ]; then
        case $2 in
        f32 | f16 | bf16 | q8_0)
            # shellcheck disable=SC2086
            "$build/tests/tools/make-model" --shape "$shape" $layers --type "$2" \
                --vocab tests/golden/qwen2-vocab.bin "$path" ;;
        *)
            [ -n "${PEER:-}" ] || { echo "bench: $2 files are made by the yardstick: set PEER" >&2; return 1; }
            number=$(ftype "$2")
            source=$(generated "$1" f16)
            "$PEER/peer_llama" quantize "$source" "$path" "$number" >/dev/null 2>&1 ;;
        esac
    fi
    echo "$path"
}

# value <key>: of a line of JSON on standard input.
value() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p"; }

# median: of numbers, one a line.
median() { sort -n | awk '{v[NR] = $1} END {print NR ? v[int((NR + 1) / 2)] : 0}'; }

# peer_columns <name>: the heads of a peer's columns.
peer_columns() { printf ' %9s %9s %8s %8s' "$1 pp" "$1 tg" 'pp ratio' 'tg ratio'; }

# of <who> <key>: the median of a figure over the rounds.
of() { grep "^$1 " "$log" | value "$2" | median; }

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$cpu, $threads threads; prefill $prompt, decode $generate at depth $depth; medians of $rounds"
[ -n "${PEER:-}" ] || echo "PEER is not set: no comparison with llama.cpp"
[ -n "${PEER_IK:-}" ] || echo "PEER_IK is not set: no comparison with ik_llama.cpp"
printf '%-18s %9s %9s %9s %9s' model prefill decode read memory
[ -z "${PEER:-}" ] || peer_columns peer
[ -z "${PEER_IK:-}" ] || peer_columns ik
printf '\n%-18s %9s %9s %9s %9s\n' '' t/s t/s GB/s GB/s
for c in $cases; do
    model=$(generated "${c%%:*}" "${c#*:}")
    log=$folder/log
    : >"$log"
    round=0
    while [ "$round" -lt "$rounds" ]; do
        "$build/quernd" bench --model "$model" --prompt "$prompt" --generate "$generate" \
            --depth "$depth" --threads "$threads" --reps 1 --json | sed 's/^/ours /' >>"$log"
        [ -z "${PEER:-}" ] || sh tests/bench/peer.sh "$model" "$prompt" "$generate" "$threads" \
            "$depth" | sed 's/^/peer /' >>"$log"
        [ -z "${PEER_IK:-}" ] || sh tests/bench/peer_ik.sh "$model" "$prompt" "$generate" "$threads" \
            "$depth" | sed 's/^/ik /' >>"$log"
        round=$((round + 1))
    done
    grep -q '^ours .*decode_tps' "$log" || { echo "bench: $model was not measured" >&2; exit 1; }
    printf '%-18s' "$c"
    for key in prefill_tps decode_tps decode_read_gbps memory_read_gbps; do
        printf ' %9.2f' "$(of ours $key)"
    done
    for who in peer ik; do
        [ "$(of $who decode_tps)" = 0 ] || echo "$(of ours prefill_tps) $(of ours decode_tps)" \
            "$(of $who prefill_tps) $(of $who decode_tps)" |
            awk '{printf " %9.2f %9.2f %7.2fx %7.2fx", $3, $4, $1 / $3, $2 / $4}'
    done
    printf '\n'
done
