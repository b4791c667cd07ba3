#!/bin/sh
# quern prefix: what is pinned is not computed again, answers are those of the whole prompt, and
# handles that are none are refused.
set -u
. tests/support/service.sh
quern=$BUILD/quern
service_start models/quern-tldr.gguf --huge-pages off

go="--max-tokens 24 --temperature 1 --seed 4"
field() { # NAME, of the JSON on standard input
    python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"
}
pinned() {
    "$quern" status --json | field kv_pages_pinned
}

# A text of ids, split where a page ends and where none does.
long=$(seq -s ' ' 300 500)
more=$(seq -s ' ' 600 690)
tail='7 8 9'
whole=$("$quern" generate --tokens "$long $more $tail" $go --output ids)
first=$("$quern" prefix pin --tokens "$long")
check 'pin prints a handle' expr "$first" : '[1-9][0-9]*$'
check 'pages are pinned after the call' [ "$(pinned)" = 3 ]
equal 'an answer after a prefix is that of the whole prompt' "$whole" \
    "$("$quern" generate --prefix "$first" --tokens "$more $tail" $go --output ids)"
second=$("$quern" prefix fork "$first" --tokens "$more")
"$quern" generate --prefix "$second" --tokens "$tail" $go --json >"$work/forked"
equal 'and after its fork' "$whole" "$(python3 -c "
import json
print(*json.load(open('$work/forked'))['ids'])")"
check 'whole pages of the fork were not computed again' [ "$(field cached_tokens <"$work/forked")" -ge 256 ]
equal 'the prompt has all its tokens' "$(field prompt_tokens <"$work/forked")" 295

# Texts and chats.
text=$(printf 'list the files of a folder')
third=$(printf '%s' "$text" | "$quern" prefix pin -)
equal 'a pinned text' "$("$quern" generate --prompt "$text" $go)" \
    "$(printf '' | "$quern" generate --prefix "$third" $go)"
system='You know every command of Unix. Answer with one command.'
chat=$("$quern" prefix pin --system "$system")
equal 'a pinned system message' "$("$quern" ask --system "$system" $go show free space)" \
    "$("$quern" ask --prefix "$chat" $go show free space)"

check 'unpin' "$quern" prefix unpin "$first" "$second" "$third" "$chat"
equal 'nothing is pinned any more' "$(pinned)" 0
fails 'unpin twice' 64 "$quern" prefix unpin "$first"
fails 'generate from what was unpinned' 64 "$quern" generate --prefix "$first" --prompt x
fails 'unpin of nothing' 64 "$quern" prefix unpin
fails 'unpin of a word' 64 "$quern" prefix unpin x1
fails 'a negative handle' 64 "$quern" prefix unpin -- -1
fails 'fork of nothing' 64 "$quern" prefix fork
fails 'fork of what is not pinned' 64 "$quern" prefix fork 12345 more
fails 'a text and ids' 64 "$quern" prefix pin --tokens 1 more
fails 'no such action' 64 "$quern" prefix keep
fails 'no action' 64 "$quern" prefix
fails 'no service' 69 "$quern" prefix pin --socket "$work/none" x
finish
