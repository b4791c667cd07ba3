#!/bin/sh
# Greedy continuations of toy models in double precision, one line for each model of models.txt and
# each prompt of two, to standard output. Nothing of quern's own arithmetic has a part in them:
#   sh tests/golden/continuations/make.sh >tests/golden/continuations/continuations.txt
set -eu
build=${BUILD:-build}
folder=$(mktemp -d "${TMPDIR:-/tmp}/quern-continuations.XXXXXX")
trap 'rm -rf "$folder"' EXIT

grep -v '^#' tests/golden/continuations/models.txt | while read -r tolerance options; do
    # shellcheck disable=SC2086 # options are words
    "$build/tests/tools/make-model" $options "$folder/toy.gguf" >/dev/null
    for prompt in "72 101 108 108 111" "5 200 17 90 90 31 4 128 77 250 63 12"; do
        # shellcheck disable=SC2086 # ids are words
        echo "$prompt: $("$build/tests/tools/reference-greedy" "$folder/toy.gguf" "$tolerance" 24 $prompt)"
    done
done
