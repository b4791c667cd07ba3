#!/bin/sh
# Greedy continuations of toy models through the ring are those of double precision: every dense shape, MoE, YaRN,
# tied and untied heads, and the types that need no K-quant. tests/golden/continuations says how they were made.
set -u
. tests/support/service.sh
golden=tests/golden/continuations

exec 3<"$golden/continuations.txt"
grep -v '^#' "$golden/models.txt" >"$work/models"
while read -r _ options <&4; do
    # shellcheck disable=SC2086 # options are words
    "$BUILD/tests/tools/make-model" $options "$work/toy.gguf" >/dev/null || exit 1
    service_start "$work/toy.gguf" --threads 2 --context 256 --kv f32
    for prompt in 1 2; do
        IFS=: read -r ids want <&3
        n=$(echo "$want" | wc -w)
        [ "$n" -gt 0 ] || continue
        got=$("$BUILD/quern" generate --tokens "$(echo "$ids" | tr ' ' ,)" --temperature 0 --repetition-penalty 1 \
            --max-tokens "$n" --output ids </dev/null)
        equal "$options, prompt $prompt, $n tokens" "$(echo $got)" "$(echo $want)"
    done
    service_stop
done 4<"$work/models"
[ "$(cat <&3 | wc -l)" = 0 ] || { echo "FAIL  golden lines are left over"; failures=$((failures + 1)); }
finish
