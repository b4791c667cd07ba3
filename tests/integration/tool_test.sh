#!/bin/sh
# The shell tool's measuring and embedding verbs, its JSON, its help on a screen of 24 lines, and
# that it writes no colour and no escape into a pipe or where NO_COLOR says so.
set -u
. tests/support/service.sh
quern=$BUILD/quern
service_start models/quern-tldr.gguf --huge-pages off

json() { # PYTHON-EXPRESSION of d, COMMAND...
    expression=$1
    shift
    "$@" >"$work/json" && python3 -c "
import json, math, sys
d = json.load(open('$work/json'))
assert ($expression), d"
}

for verb in '' $("$quern" --help | sed -n 's/^  \([a-z]\{3,\}\) .*/\1/p'); do
    "$quern" $verb --help >"$work/help"
    check "help of quern $verb is at most 24 lines of 80 columns" python3 -c "
lines = open('$work/help', encoding='utf-8').read().splitlines()
assert len(lines) <= 24 and max(map(len, lines)) <= 80, (len(lines), max(lines, key=len))"
done

fails 'a verb that is misspelt' 64 "$quern" statsu
check '… and the nearest one' grep -q 'did you mean "status"' "$work/err"
fails 'one that is near to none' 64 "$quern" xylophone
check '… which names none' sh -c "! grep 'did you mean' '$work/err'"
fails 'an empty question' 64 "$quern" ask
check 'tokenize --json is a list of the same ids' json \
    "' '.join(map(str, d)) == '$("$quern" tokenize list the files)' and len(d) > 2" "$quern" tokenize --json list the files
check '… of no text, an empty one' json 'd == []' "$quern" tokenize --json ''
check 'status --json' json 'd["state"] == "ready"' "$quern" status --json
equal 'status --json is --output json' "$("$quern" status --json | grep version)" \
    "$("$quern" status --output json | grep version)"
check 'generate --json --echo scores the prompt' json \
    'len(d["prompt_scores"]) == d["prompt_tokens"] and d["prompt_scores"][0][1] is None' \
    "$quern" generate --prompt 'list the files' --max-tokens 2 --json --echo
fails 'echo without json' 64 "$quern" generate --prompt x --echo
check 'embed is a vector of length 1' json 'abs(sum(x * x for x in d) - 1) < 1e-5 and len(d) > 1' \
    "$quern" embed --normalize --json list the files
"$quern" embed list the files >"$work/last"
"$quern" embed --mean list the files >"$work/mean"
check 'the mean is another vector' sh -c "! cmp -s '$work/last' '$work/mean'"
equal 'text and json have as many numbers' "$(wc -w <"$work/last")" \
    "$("$quern" embed --json list the files | python3 -c 'import json, sys; print(len(json.load(sys.stdin)))')"
fails 'embed as ids' 64 "$quern" embed --output ids x
check 'bench counts what it asked for' json \
    'd["requests"] == 6 and d["generated_tokens"] == 48 and d["tokens_per_second"] > 0 and
     0 < d["first_token_p50_ms"] <= d["first_token_p99_ms"] and
     d["token_gap_p50_ms"] <= d["token_gap_p99_ms"]' \
    "$quern" bench --count 6 --parallel 3 --max-tokens 8 --json
check 'bench prints a table' sh -c "'$quern' bench --count 2 --max-tokens 4 | grep -q 'to the first token'"
fails 'bench of too much' 64 "$quern" bench --count 4000000000
fails 'bench of a prompt too long' 64 "$quern" bench --max-tokens 4000 --count 2
fails 'bench without a service' 69 "$quern" bench --socket "$work/none"

# script(1) gives the tool a terminal: NO_COLOR holds there, too.
escapes() { # colour sequences in the output of a command on a terminal
    script -qec "$*" /dev/null </dev/null | grep -c "$(printf '\033')\[[0-9;]*m"
}
equal 'no colour in a pipe' "$("$quern" ask list files 2>&1 | grep -c "$(printf '\033')")" 0
equal 'no colour with NO_COLOR' "$(NO_COLOR=1 escapes "$quern ask list files")" 0
finish
