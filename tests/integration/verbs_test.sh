#!/bin/sh
# The verbs of quernd that look at a model and end: inspect, logits, bench, quantize. What they
# print is checked for its form, logits for their bits, failures for exit code and sentence.
set -eu
build=${BUILD:-build}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
make_model=$build/tests/tools/make-model
quernd=$build/quernd
tokens=5,17,99,3,250,8

fail() { echo "FAILED: $*" >&2; exit 1; }

# fails CODE WORD COMMAND…: must end with this exit code and name WORD on standard error.
fails() {
    code=$1 word=$2
    shift 2
    rc=0
    "$@" >"$folder/out" 2>"$folder/err" || rc=$?
    [ "$rc" = "$code" ] || fail "$* ended with $rc, not $code: $(cat "$folder/err")"
    grep -q -- "$word" "$folder/err" || fail "$*: no \"$word\" in: $(cat "$folder/err")"
    [ "$(wc -l <"$folder/err")" = 1 ] || [ "$code" = 64 ] || fail "$*: more than one line on stderr"
}

# same A B: the same bytes.
same() { cmp -s "$folder/$1" "$folder/$2" || fail "$1 and $2 differ"; }

"$make_model" --type f32 "$folder/f32.gguf"
"$make_model" --type q8_0 "$folder/q8_0.gguf"
"$make_model" --type f32 --yarn 4 --yarn-original 64 --context 256 "$folder/yarn.gguf"
"$make_model" --type f32 --context 256 "$folder/plain.gguf"

# logits: 6 rows of 320 float32, the same however they are computed
logits() { # logits NAME OPTIONS…
    out=$folder/$1
    shift
    "$quernd" logits --tokens $tokens --out "$out" "$@" >/dev/null
}
logits a --model "$folder/q8_0.gguf"
[ "$(wc -c <"$folder/a")" = $((6 * 320 * 4)) ] || fail "logits are of the wrong size"
logits b --model "$folder/q8_0.gguf" --threads 1 --chunk 1
same a b
QUERN_ISA=scalar logits b --model "$folder/q8_0.gguf" --threads 3 --chunk 4
same a b
logits b --model "$folder/q8_0.gguf" --kv f32
if cmp -s "$folder/a" "$folder/b"; then fail "--kv f32 changes nothing"; fi

# what the switch says is what the file would have said
logits a --model "$folder/yarn.gguf"
logits b --model "$folder/plain.gguf" --rope-scaling yarn --rope-factor 4 --rope-original 64
same a b
logits b --model "$folder/plain.gguf"
if cmp -s "$folder/a" "$folder/b"; then fail "YaRN changes nothing"; fi

# quantize: the same values encoded by the same rule
"$quernd" quantize "$folder/f32.gguf" "$folder/quantized.gguf" Q8_0 >/dev/null
logits a --model "$folder/q8_0.gguf"
logits b --model "$folder/quantized.gguf"
same a b

"$quernd" inspect "$folder/q8_0.gguf" >"$folder/inspect"
grep -q qwen2 "$folder/inspect" || fail "inspect names no architecture"
grep -q Q8_0 "$folder/inspect" || fail "inspect names no type"

"$quernd" bench --model "$folder/q8_0.gguf" --prompt 16 --generate 4 --threads 2 --reps 1 --json >"$folder/bench"
for key in prefill_tps decode_tps load_s memory_read_gbps; do
    grep -q "\"$key\": [0-9]" "$folder/bench" || fail "bench gives no $key"
done

# what goes wrong
head -c 100000 "$folder/q8_0.gguf" >"$folder/cut.gguf"
echo "no model" >"$folder/text.gguf"
fails 65 "past the end" "$quernd" logits --model "$folder/cut.gguf" --tokens 1 --out "$folder/x"
fails 65 "GGUF" "$quernd" logits --model "$folder/text.gguf" --tokens 1 --out "$folder/x"
fails 66 "absent.gguf" "$quernd" bench --model "$folder/absent.gguf"
fails 64 "token" "$quernd" logits --model "$folder/q8_0.gguf" --tokens 320 --out "$folder/x"
fails 64 "token" "$quernd" logits --model "$folder/q8_0.gguf" --tokens 1,x --out "$folder/x"
fails 64 "threads" "$quernd" bench --model "$folder/q8_0.gguf" --threads 0
fails 64 "kv" "$quernd" bench --model "$folder/q8_0.gguf" --kv f8
fails 64 "rope-factor" "$quernd" bench --model "$folder/q8_0.gguf" --rope-scaling yarn
fails 64 "QUERN_ISA" env QUERN_ISA=mmx "$quernd" bench --model "$folder/q8_0.gguf"
fails 70 "/nowhere" "$quernd" logits --model "$folder/q8_0.gguf" --tokens 1 --out /nowhere/x
echo "verbs: all as it should be"
