#!/bin/sh
# quern pull against a server that drops connections, lies about lengths and ranges, redirects and
# serves wrong bytes, and quern models on what it fetched.
set -u
. tests/support/service.sh
case $BUILD in
/*) ;;
*) BUILD=$PWD/$BUILD ;;
esac
quern=$BUILD/quern
export QUERND="$BUILD/quernd"
unset XDG_DATA_HOME http_proxy HTTP_PROXY all_proxy ALL_PROXY
export no_proxy=127.0.0.1
"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 "$work/toy.gguf" || exit 1
python3 tests/tools/bad_server.py "$work/toy.gguf" "$work/port" 2>"$work/server.log" &
server=$!
trap 'kill $server 2>/dev/null; umount "$work/small" 2>/dev/null; cleanup' EXIT
trap 'exit 1' TERM
until [ -s "$work/port" ]; do sleep 0.05; done
url=http://127.0.0.1:$(cat "$work/port")
models=$work/models
digest=$(sha256sum <"$work/toy.gguf" | cut -d' ' -f1)

pull() {
    "$quern" pull --folder "$models" "$@"
}
same() { # NAME: is the served file, and nothing else is left of it
    cmp "$work/toy.gguf" "$models/$1.gguf" && [ ! -e "$models/$1.gguf.part" ] &&
        [ ! -e "$models/$1.gguf.part.tag" ]
}
refused() { # WHAT NAME SENTENCE: pull fails with it, and no model appears
    fails "$1" 70 pull "$url/$2.gguf"
    check "… and says why" grep -q -- "$3" "$work/err"
    check "… and leaves no model" [ ! -e "$models/$2.gguf" ]
}

for name in good drop whole changed redirect chunked; do
    check "$name" pull "$url/$name.gguf"
    check "… is the file" same "$name"
done
check "a lie about a range" pull "$url/range.gguf"
check "… is the file" same range
check "the server's digest is taken" sh -c "'$quern' pull --folder '$work/other' '$url/redirect.gguf' |
    grep -q 'as the server states'"
check "what is there stays" sh -c "'$quern' pull --folder '$models' '$url/good.gguf' | grep -q already"
refused "more stated than sent" long 'transfer closed\|bytes remaining'
refused "another digest" wrong 'SHA-256 is .*, not '
check "… nor a part" [ ! -e "$models/wrong.gguf.part" ]
refused "a page" page 'no GGUF file'
refused "another size" size 'states .* bytes and sends'
refused "a circle" loop 'redirects'
refused "nothing there" none 404
fails "a digest that is asked for" 70 pull --sha256 "$(printf '%064d' 0)" "$url/a/good2.gguf"
rm -f "$models/good.gguf"
check "… and is right" pull --sha256 "$digest" "$url/good.gguf"
fails "no name of a model" 64 pull "$url/"
fails "a hidden name" 64 pull "$url/.x.gguf"
fails "no address" 64 pull nonsense
fails "another protocol" 70 pull "ftp://127.0.0.1/x.gguf"
cp "$work/toy.gguf" "$work/a file.gguf"
fails "a name with a space" 64 pull "$work/a file.gguf"
check "a file" pull "$work/toy.gguf"
check "… is the file" same toy
check "a short name" env HF_ENDPOINT="$url" "$quern" pull --folder "$models" qwen2:0.5b-instruct-q4_k_m
check "… is the official file" same qwen2-0_5b-instruct-q4_k_m
fails "an unknown one" 64 pull qwen2:0.5b-instruct-q9
fails "half a type" 64 pull qwen2:0.5b-instruct-q4_k
short=qwen2.5:7b-instruct-q4_k_m set=qwen2.5-7b-instruct-q4_k_m
check "one of a model in two files" env HF_ENDPOINT="$url" "$quern" pull --folder "$models" $short
check "… the first is the official file" same $set-00001-of-00002
check "… and the second" same $set-00002-of-00002
fails "one digest for both" 64 env HF_ENDPOINT="$url" "$quern" pull --folder "$models" --sha256 "$digest" $short
check "the list of short names says no number of files" sh -c "'$quern' pull | grep -q ' q4_0 q4_k_m ' && ! '$quern' pull | grep /"
check "the user's folder" env HOME="$work/home" "$quern" pull "$url/good.gguf"
[ -w /var/lib/quern/models ] ||
    check "… has it" cmp "$work/toy.gguf" "$work/home/.local/share/quern/models/good.gguf"
rm -f /var/lib/quern/models/good.gguf /var/lib/quern/models/good.gguf.sha256 2>/dev/null

# Killed in the middle, then again
"$quern" pull --folder "$models" "$url/slow.gguf" >/dev/null 2>&1 &
client=$!
tries=0
until [ -s "$models/slow.gguf.part" ] || [ $((tries += 1)) -gt 200 ]; do sleep 0.05; done
fails "two at once" 75 pull "$url/slow.gguf"
kill -KILL $client
wait $client 2>/dev/null
check "after a kill there is no model" [ ! -e "$models/slow.gguf" ]
check "and again" pull "$url/slow.gguf"
check "… is the file" same slow

# A disk that is too small
mkdir "$work/small"
if mount -t tmpfs -o size=64k none "$work/small" 2>/dev/null; then
    models=$work/small
    refused "no room" good 'are needed, and .* free'
    refused "no room, size not stated" chunked 'No space left .* make room'
    models=$work/models
    umount "$work/small"
else
    echo "note: no full disk: mounting is not allowed"
fi

# The bar
if command -v tmux >/dev/null; then
    rm -f "$models"/slow.*
    tmux -S "$work/tmux" -f /dev/null new-session -d -x 80 -y 24 \
        "'$quern' pull --folder '$models' '$url/slow.gguf'; sleep 60"
    tries=0
    until tmux -S "$work/tmux" capture-pane -p | grep -q '^\[###*\.\.*\]  50 % of'; do
        [ $((tries += 1)) -lt 200 ] || break
        sleep 0.05
    done
    check "the bar on a terminal" [ $tries -lt 200 ]
    until tmux -S "$work/tmux" capture-pane -p | grep -q 'SHA-256'; do
        [ $((tries += 1)) -lt 400 ] || break
        sleep 0.05
    done
    check "… is gone at the end" sh -c "! tmux -S '$work/tmux' capture-pane -p | grep -q ' % of '"
    tmux -S "$work/tmux" kill-server
fi

# models
run() {
    "$quern" models --folder "$models" "$@"
}
check "list" sh -c "'$quern' models --folder '$models' | grep -q '^toy.gguf .* MB$'"
check "list as JSON" sh -c "'$quern' models --folder '$models' --json | python3 -c '
import json, sys
names = [m[\"name\"] for m in json.load(sys.stdin)]
assert \"toy.gguf\" in names and \"drop.gguf\" in names and \"long.gguf\" not in names, names'"
check "verify" run verify toy.gguf drop.gguf
check "pack" run pack toy.gguf
check "… is listed" sh -c "'$quern' models --folder '$models' list | grep -q '^toy.gguf .*, packed'"
check "verify with the image" run verify toy.gguf
printf x | dd of="$models/toy.gguf" bs=1 seek=5000 conv=notrunc 2>/dev/null
fails "a damaged one" 70 run verify toy.gguf
check "remove" run remove toy.gguf
check "… all of it" sh -c "! ls '$models' | grep -q '^toy'"
check "verify of a model in two files" run verify $set-00001-of-00002.gguf
equal "… is of both" "$(grep -c 'SHA-256 is right' "$work/out")" 2
rm "$models/$set-00002-of-00002.gguf"
fails "… and of one that is gone" 70 run verify $set-00001-of-00002.gguf
cp "$models/$set-00001-of-00002.gguf" "$models/$set-00002-of-00002.gguf"
check "remove takes both" run remove $set-00001-of-00002.gguf
check "… and what lay beside them" sh -c "! ls '$models' | grep -q '^$set'"
fails "one that is not there" 64 run remove toy.gguf
fails "a path" 64 run remove ../toy.gguf
fails "an unknown action" 64 run paint drop.gguf
finish
