#!/bin/sh
# Makes peer-error.inc: llama.cpp's relative error against double precision on quantized toy models
# (F32 KV), which bounds ours in tests/unit/forward_test.c. Needs the yardstick: PEER is the folder
# of peer_llama, PEER_LIB that of its libraries. Run from the top folder after `make tests`.
set -eu
: "${PEER:?folder of peer_llama}" "${PEER_LIB:?folder of the libraries}"
export PEER_LIB PEER_F32KV=1
build=${BUILD:-build}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tokens=$("$build/tests/tools/model-error" --tokens 64)
echo "/* relative errors of llama.cpp, made by tests/golden/peer-error.sh */"
while read -r arguments; do
    # shellcheck disable=SC2086
    "$build/tests/tools/make-model" $arguments "$folder/m.gguf"
    # shellcheck disable=SC2086
    "$PEER/peer_llama" logits "$folder/m.gguf" "$folder/logits" $tokens >/dev/null 2>&1
    echo "{\"$arguments\", $("$build/tests/tools/model-error" "$folder/m.gguf" "$folder/logits" 64)},"
done <<END
--shape tiny --type q8_0
--shape tiny --type q8_0 --layers 4 --untied --seed 2
--shape tiny --type q8_0 --heads 14 --kv-heads 2 --d-model 896 --ff 1024 --seed 3
--shape tiny-moe --type q8_0
END
