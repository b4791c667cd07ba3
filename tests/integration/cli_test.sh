#!/bin/sh
# The shell tool against a real service with a toy model: every verb, its exit codes, and what it
# does with bad input, pipes and Ctrl-C.
set -u
. tests/support/service.sh
quern=$BUILD/quern

"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 \
    --vocab tests/golden/qwen2-vocab.bin "$work/toy.gguf" || exit 1

fails "no service" 69 "$quern" ask hello
fails "unknown verb" 64 "$quern" grind
fails "unknown option" 64 "$quern" ask --colour x
fails "option of another verb" 64 "$quern" tokenize --temperature 1
fails "no number" 64 "$quern" ask --temperature warm hello
check "help" "$quern" --help
for verb in ask chat generate tokenize detokenize score render status; do
    check "help of $verb" "$quern" $verb --help
    lines=$("$quern" $verb --help | wc -l)
    check "help of $verb fits a screen" [ "$lines" -le 24 ]
done

service_start "$work/toy.gguf" --threads 2 --context 4096

# Text and ids
equal "tokenize" "$("$quern" tokenize Hello world)" "9707 1879"
equal "tokenize standard input" "$(printf ' Hello world' | "$quern" tokenize -)" "21927 1879"
equal "detokenize" "$("$quern" detokenize 9707 1879)" "Hello world"
printf 'naïve 日本語 🙂\n\tend\000x' >"$work/text"
"$quern" tokenize - <"$work/text" | "$quern" detokenize - >"$work/back"
check "round trip, byte for byte" cmp "$work/text" "$work/back"
equal "control tokens in text are text" "$("$quern" tokenize '<|im_end|>' | wc -w)" 6

# Generation
one=$("$quern" generate --prompt "The mill" --max-tokens 8 --temperature 0 --output ids)
two=$("$quern" generate --prompt "The mill" --max-tokens 8 --temperature 0 --output ids)
equal "greedy answers repeat" "$one" "$two"
equal "max-tokens" "$(echo "$one" | wc -w)" 8
ids=$("$quern" tokenize The mill)
equal "ids in, the same out" \
    "$("$quern" generate --tokens "$ids" --max-tokens 8 --temperature 0 --output ids)" "$one"
equal "standard input" \
    "$(printf 'The mill' | "$quern" generate --max-tokens 8 --temperature 0 --output ids)" "$one"
equal "a seed repeats" \
    "$("$quern" generate --prompt a --max-tokens 8 --temperature 2 --seed 7 --output ids)" \
    "$("$quern" generate --prompt a --max-tokens 8 --temperature 2 --seed 7 --output ids)"
check "json" sh -c "'$quern' generate --prompt a --max-tokens 4 --output json | python3 -c '
import json, sys
answer = json.load(sys.stdin)
assert len(answer[\"ids\"]) == answer[\"generated\"] == 4, answer
assert answer[\"reason\"] and answer[\"prompt_tokens\"] == 1, answer'"
"$quern" ask --max-tokens 4 --temperature 0 hello >"$work/answer"
equal "ask ends with a newline" "$(tail -c 1 "$work/answer" | od -An -tx1 | tr -d ' ')" "0a"
check "output that is no terminal has no escapes" sh -c "! grep -q '$(printf '\033')' '$work/answer'"
equal "piped input is part of the question" \
    "$(printf more | "$quern" ask --max-tokens 4 --temperature 0 hello)" \
    "$("$quern" ask --max-tokens 4 --temperature 0 "$(printf 'hello\n\nmore')" </dev/null)"
equal "chat line by line" \
    "$(printf 'hello\n/clear\nhello\n' | "$quern" chat --max-tokens 4 --temperature 0 | sort -u | wc -l)" 1

# Scores: one line a token, and the sum of what generate would have drawn from
equal "score lines" "$("$quern" score Hello world and more | grep -c '^[0-9]')" 4
check "score json" sh -c "'$quern' score --output json Hello world | python3 -c '
import json, sys, math
s = json.load(sys.stdin)
ps = [p for _, p in s[\"tokens\"] if p is not None]
assert abs(sum(ps) - s[\"sum\"]) < 1e-4 and s[\"counted\"] == 1, s
assert abs(math.exp(-s[\"sum\"] / s[\"counted\"]) / s[\"perplexity\"] - 1) < 1e-6, s'"
check "status" sh -c "'$quern' status | grep -q '^model'"
check "status json" sh -c "'$quern' status --output json | python3 -m json.tool"

# Bad input: one sentence, the right code, and the service goes on
fails "prompt longer than the context" 64 "$quern" ask "$(yes word | head -n 5000)"
check "… names both numbers" grep -q 4096 "$work/err"
fails "empty prompt" 64 "$quern" generate --prompt ""
fails "invalid UTF-8" 64 "$quern" generate --prompt "$(printf 'a\377b')"
fails "temperature out of range" 64 "$quern" generate --prompt a --temperature -1
fails "top-p out of range" 64 "$quern" generate --prompt a --top-p 2
fails "id outside the vocabulary" 64 "$quern" generate --tokens 999999999
fails "no id" 64 "$quern" generate --tokens 12,x
fails "unknown model" 64 "$quern" generate --model other --prompt a
fails "second service on the socket" 71 "$BUILD/quernd" --model "$work/toy.gguf" \
    --socket "$QUERN_SOCKET"
equal "the service goes on" \
    "$("$quern" generate --prompt "The mill" --max-tokens 8 --temperature 0 --output ids)" "$one"

# Ctrl-C cancels the request and not the service (sh starts background jobs with SIGINT ignored)
env --default-signal=INT "$quern" generate --prompt a --max-tokens 4000 --temperature 1 \
    >"$work/long" 2>&1 &
client=$!
until [ -s "$work/long" ]; do sleep 0.02; done
kill -INT $client
rc=0
wait $client || rc=$?
equal "an interrupted request" $rc 130
check "the service is there after it" "$quern" status
service_stop

fails "damaged model" 65 "$BUILD/quernd" --model "$0" --socket "$QUERN_SOCKET"
fails "missing model" 66 "$BUILD/quernd" --model "$work/none.gguf" --socket "$QUERN_SOCKET"
finish
