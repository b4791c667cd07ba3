#!/bin/sh
# The shipped model's answers, perplexity and needle map are those that were recorded: whoever moves
# them knows it. Perplexity in every weight type that the loader has, and with every type of the cache
# for some.
set -u
. tests/support/service.sh
model=models/quern-tldr.gguf

service_start "$model" --threads 2 --context 1024
sh tests/golden/answers/make.sh >"$work/answers" || failures=$((failures + 1))
check "50 greedy answers, byte for byte" diff -u tests/golden/answers/answers.txt "$work/answers"
python3 tests/needle/needle.py --quern "$BUILD/quern" --lengths 256,512,1024 --depths 3 --trials 2 \
    --png "$work/map.png" >"$work/map" || failures=$((failures + 1))
check "needle map" diff -u tests/golden/answers/needle.txt "$work/map"
check "needle picture" sh -c "head -c 4 '$work/map.png' | grep -q PNG"
service_stop

sh tests/golden/perplexity/make.sh >"$work/perplexity" || failures=$((failures + 1))
check "perplexity in every type" diff -u tests/golden/perplexity/perplexity.txt "$work/perplexity"
finish
