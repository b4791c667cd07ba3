#!/bin/sh
# The log: at its highest level it has no text of a prompt or of an answer, whatever is asked and
# however it fails; and each message with an id has its text in systemd/quern.catalog.
set -u
. tests/support/service.sh
quern=$BUILD/quern
sed -n 's/^ *\[JOURNAL_[A-Z_]*\] = "\([0-9a-f]*\)",$/\1/p' svc/journal.c | sort >"$work/ids"
sed -n 's/^-- \([0-9a-f]\{32\}\)$/\1/p' systemd/quern.catalog | sort >"$work/catalog"
check "messages have ids" [ "$(wc -l <"$work/ids")" -ge 11 ]
check "ids of svc/journal.c and systemd/quern.catalog" diff "$work/ids" "$work/catalog"
sed -n 's/^| \([0-9a-f]\{32\}\) |.*/\1/p' docs/admin.md | sort >"$work/documented"
check "… and docs/admin.md" diff "$work/ids" "$work/documented"
equal "no id twice" "$(uniq -d "$work/ids")" ""
if command -v journalctl >/dev/null; then
    mkdir -p "$work/root/usr/lib/systemd/catalog" "$work/root/var/lib/systemd/catalog"
    cp systemd/quern.catalog "$work/root/usr/lib/systemd/catalog"
    check "journalctl reads the catalog" journalctl --root="$work/root" --update-catalog
    equal "… all of it" "$(journalctl --root="$work/root" --list-catalog | wc -l)" "$(wc -l <"$work/ids")"
fi

"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 \
    --vocab tests/golden/qwen2-vocab.bin "$work/toy.gguf" || exit 1
printf '[default]\npriority = normal\nrequests = 2\n' >"$work/policy.conf"
service_start "$work/toy.gguf" --threads 2 --context 256 -v -v --policy "$work/policy.conf"
mark=Xylophonist
fine="--max-tokens 40 --temperature 0"
"$quern" ask $fine --system "$mark in a system message" "$mark in a question" >>"$work/answers"
"$quern" generate $fine --prompt "$mark" --stop "$mark" >>"$work/answers"
printf '%s\n/system %s\n%s\n' $mark $mark $mark | "$quern" chat $fine >>"$work/answers"
"$quern" score $mark and more >/dev/null
"$quern" detokenize $("$quern" tokenize $mark) >"$work/back"
equal "the mark went there and back" "$(cat "$work/back")" $mark
# and what is refused: too long, no UTF-8, a model that is not there, too good a priority
"$quern" ask "$(yes $mark | head -n 400)" >/dev/null 2>"$work/err"
check "too long a prompt is refused" [ -s "$work/err" ]
"$quern" generate --prompt "$mark $(printf '\377')" >/dev/null 2>"$work/err"
check "no UTF-8 is refused" [ -s "$work/err" ]
"$quern" generate --model $mark --prompt $mark >/dev/null 2>"$work/err"
check "an unknown model is refused" [ -s "$work/err" ]
"$quern" generate --priority interactive --prompt $mark >/dev/null 2>"$work/err"
check "too good a priority is refused" [ -s "$work/err" ]
service_stop
check "the log has each request" [ "$(grep -c 'request [0-9]* ended' "$work/log")" -ge 10 ]
check "… and the refusal" grep -q 'refused (priority)' "$work/log"
check "no text of a prompt is logged" sh -c "! grep -i $mark '$work/log'"
words=$(tr -cs 'A-Za-z' '\n' <"$work/answers" | grep -E '^.{7,}$' | grep -v "$mark" | sort -u)
check "the answers have words" [ -n "$words" ]
check "no word of an answer is logged" sh -c "! grep -wF '$words' '$work/log'"
finish
