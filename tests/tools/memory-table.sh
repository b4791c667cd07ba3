#!/bin/sh
# The memory that weights of each type and mixture take at the official sizes, as quernd inspect
# counts it, as a Markdown table: files without weights, so that no disk is needed.
# Run from the top folder after `make tools all`.
set -eu
build=${BUILD:-build}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
gib() { # gib SHAPE OPTION...
    shape=$1
    shift
    "$build/tests/tools/make-model" --shape "$shape" --empty "$@" "$folder/m.gguf"
    "$build/quernd" inspect "$folder/m.gguf" |
        awk '/^weights in memory/ { printf " %.2f |", $4 / 1024 }'
    rm -f "$folder/m.gguf"
}
echo "| type | 0.5B | 1.5B | 7B | 57B-A14B |"
echo "|---|---:|---:|---:|---:|"
for kind in "--type f32" "--type f16" "--type bf16" "--mix q8_0" "--mix q4_0" "--mix q4_1" "--mix q5_0" "--mix q5_1" \
    "--mix q2_k" "--mix q3_k_m" "--mix q4_k_m" "--mix q5_k_m" "--mix q6_k" "--mix iq4_nl" "--mix iq4_xs"; do
    printf '| %s |' "$(echo "${kind#--* }" | tr a-z A-Z)"
    for shape in 0.5b 1.5b 7b 57b-a14b; do
        # shellcheck disable=SC2086
        gib "$shape" $kind
    done
    echo
done
