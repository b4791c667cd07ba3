#!/bin/sh
# The tokenizer by language beside the yardstick, in one run: tokenizer-languages.sh FOLDER
# FOLDER holds a UTF-8 text for each language. PEER (a command that reads a text on standard input and
# says its MB/s on standard error, see `peer_llama tokenize`) may be unset.
set -eu
build=${BUILD:-build}
for text in "$1"/*; do
    ours=$("$build/tests/bench/tokenizer_bench" "$text" | awk 'END {print $(NF - 1)}')
    theirs=-
    [ -z "${PEER:-}" ] || theirs=$($PEER <"$text" 2>&1 >/dev/null | sed -n 's|.* \([0-9.]*\) MB/s.*|\1|p' | tail -n 1)
    printf '%-8s %7s MB/s   yardstick %6s\n' "${text##*/}" "$ours" "$theirs"
done
