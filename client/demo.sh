#!/bin/sh
# `make run`: starts quernd with the shipped model on a socket of its own, streams an answer to
# PROMPT through the ring, goes on as a chat where there is a terminal, and stops the service.
#   PROMPT=...  what to ask        MODEL=FILE  another model
set -eu
build=${BUILD:-build}
model=${MODEL:-models/quern-tldr.gguf}
prompt=${PROMPT:-show the ten largest files in the current directory}

dir=$(mktemp -d "${TMPDIR:-/tmp}/quern-run.XXXXXX")
service=
stop() {
    if [ -n "$service" ]; then
        kill "$service" 2>/dev/null || :
        wait "$service" 2>/dev/null || :
    fi
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -e "$model" ]; then
    echo "run: $model is missing: a generated toy model answers, in random tokens" >&2
    model=$dir/toy.gguf
    "$build/tests/tools/make-model" --shape tiny --type q8_0 --seed 1 --vocab tests/golden/qwen2-vocab.bin \
        "$model"
fi

# Huge pages for the weights, where we may: hugeadm exits 0 also when it fails, so quernd says in
# its status which pages it got.
if [ "$(id -u)" = 0 ] && command -v hugeadm >/dev/null; then
    pages=$(($(wc -c <"$model") / 2097152 + 40))
    have=$(cat /proc/sys/vm/nr_hugepages)
    [ "$have" -ge "$pages" ] || hugeadm --pool-pages-min "2MB:$pages" >/dev/null 2>&1 || :
fi

"$build/quernd" --model "$model" --socket "$dir/quern.sock" 2>"$dir/log" &
service=$!
n=0
while [ ! -S "$dir/quern.sock" ]; do
    n=$((n + 1))
    if [ $n -gt 200 ] || ! kill -0 "$service" 2>/dev/null; then
        cat "$dir/log" >&2
        service=
        exit 1
    fi
    sleep 0.05
done

export QUERN_SOCKET="$dir/quern.sock"
printf '> %s\n' "$prompt"
"$build/quern" ask "$prompt" </dev/null
if [ -t 0 ] && [ -t 1 ]; then
    "$build/quern" chat
fi
