#!/bin/sh
# Perplexity of the shipped model on answers that it was never trained on, in every weight type that
# the loader has, one line each, to standard output:
#   sh tests/golden/perplexity/make.sh >tests/golden/perplexity/perplexity.txt
# The shipped Q8_0 file is the original; each type is made from its exact values in F32.
set -eu
build=${BUILD:-build}
model=models/quern-tldr.gguf
chats=tests/golden/perplexity/heldout-200.tsv
folder=$(mktemp -d "${TMPDIR:-/tmp}/quern-perplexity.XXXXXX")
trap 'rm -rf "$folder"' EXIT

f32=$folder/f32.gguf
"$build/quernd" quantize "$model" "$f32" f32
for type in f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs; do
    file=$folder/type.gguf caches=f16
    case $type in
    f32) file=$f32 caches="f32 f16 q8_0" ;;
    q8_0) file=$model caches="f32 f16 q8_0" ;;
    q4_k) caches="f32 f16 q8_0" ;;
    esac
    [ "$file" != "$folder/type.gguf" ] || "$build/quernd" quantize "$f32" "$file" $type
    for kv in $caches; do
        echo "$type $kv $("$build/quernd" perplexity --model "$file" --chat "$chats" --kv $kv --json)"
    done
done
