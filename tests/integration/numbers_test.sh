#!/bin/sh
# Numbers through the running service: RoPE scaling asked for on the command line is what the file
# would have said; a model that makes NaN of one token id ends the requests that hold it, and no
# other; an instruction set that is not to be had is refused by name.
set -u
. tests/support/service.sh
make_model=$BUILD/tests/tools/make-model
shape="--type f32 --untied --context 256"

# shellcheck disable=SC2086
{
    "$make_model" $shape "$work/plain.gguf"
    "$make_model" $shape --yarn 4 --yarn-original 64 "$work/yarn.gguf"
}

answer() { # answer IDS: greedy, as ids
    "$BUILD/quern" generate --tokens "$1" --max-tokens 24 --temperature 0 --output ids
}

service_start "$work/yarn.gguf" --context 256
want=$(answer 5,17,99,3)
service_stop
service_start "$work/plain.gguf" --context 256 --rope-scaling yarn --rope-factor 4 --rope-original 64
equal "--rope-scaling yarn is the file's YaRN" "$(answer 5,17,99,3)" "$want"
service_stop
service_start "$work/plain.gguf" --context 256
plain=$(answer 5,17,99,3)
check "YaRN changes the answer" test "$plain" != "$want"

# The row of token 77 in the embedding, the first tensor, becomes NaN.
offset=$("$BUILD/quernd" inspect --tensors "$work/plain.gguf" |
    sed -n 's/^  token_embd.weight .* at \([0-9]*\) of.*/\1/p')
width=$("$BUILD/quernd" inspect "$work/plain.gguf" | sed -n 's/^hidden size *//p')
cp "$work/plain.gguf" "$work/bad.gguf"
printf '\000\000\300\177' | dd of="$work/bad.gguf" bs=1 conv=notrunc status=none \
    seek=$((offset + 77 * width * 4 + 40))
service_stop
service_start "$work/bad.gguf" --context 256
"$BUILD/quern" generate --tokens 5,17,99,3 --max-tokens 24 --temperature 0 --output ids \
    >"$work/good1" 2>&1 &
good=$!
fails "a token whose row is NaN" 70 answer 5,77,99,3
wait "$good"
equal "another request beside it" "$(cat "$work/good1")" "$plain"
equal "another request after it" "$(answer 5,17,99,3)" "$plain"
service_stop

rc=0
QUERN_ISA=sse9 "$BUILD/quernd" --model "$work/plain.gguf" --socket "$work/x" 2>"$work/err" || rc=$?
check "QUERN_ISA=sse9 is refused by name" grep -q "QUERN_ISA=sse9" "$work/err"
check "with an exit code" test "$rc" != 0
finish
