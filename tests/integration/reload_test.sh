#!/bin/sh
# quern.conf in a running service: reloads that are right and wrong, another model while requests
# run, --check-config, the end of an idle service, and a stop that lets running requests end.
set -u
. tests/support/service.sh
quern=$BUILD/quern quernd=$BUILD/quernd conf=$work/quern.conf

make_model() {
    "$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed "$1" \
        --vocab tests/golden/qwen2-vocab.bin "$2" || exit 1
}
make_model 3 "$work/one.gguf"
make_model 4 "$work/two.gguf"
mkdir "$conf.d"

configure() { # MODEL LINE...
    printf '[service]\nmodel = %s\nthreads = 1\n' "$work/$1" >"$conf"
    shift
    [ $# = 0 ] || printf '%s\n' "$@" >>"$conf"
}
logged() {
    tries=0
    until grep -q "$1" "$work/log"; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || { cat "$work/log"; return 1; }
        sleep 0.05
    done
}
reload() { # until the journal has this line
    : >"$work/log.old"
    cat "$work/log" >>"$work/log.old"
    : >"$work/log"
    kill -HUP "$service"
    logged "$1"
}
value() {
    "$quern" status | awk -v key="$1" '$1 == key { print $2 }'
}
answer() {
    "$quern" generate --prompt "The mill" --max-tokens 6 --temperature 0 --output ids
}

# --check-config
configure one.gguf
check "a right file" "$quernd" --check-config --config "$conf"
configure one.gguf '[requests]' 'quue = 3'
fails "a misspelt key" 78 "$quernd" --check-config --config "$conf"
check "… with line and nearest name" grep -q 'quern.conf:5: .*"quue", did you mean "queue"' "$work/err"
configure none.gguf
fails "a model that is not there" 78 "$quernd" --check-config --config "$conf"
fails "a file that is not there" 78 "$quernd" --check-config --config "$work/none.conf"
fails "a wrong file at start" 64 "$quernd" --config "$work/none.conf"

# Reload
configure one.gguf '[requests]' 'context = 2048'
service_launch --config "$conf"
first=$(answer)
equal "values of the file" "$(value threads)/$(value context)" 1/2048
printf '[requests]\ntoken-gap-ms = 33\nconnections-per-user = 2\n' >"$conf.d/limits.conf"
check "a drop-in is taken live" reload 'reload: token-gap-ms changed'
equal "… and counts" "$(value token_gap_ms)" 33
configure one.gguf '[requests]' 'context = 1024'
check "what needs a restart is named" reload 'context changed, which needs a restart'
equal "… and stays" "$(value context)" 2048
printf '[requests]\ntoken-gap-ms = 0\n' >"$conf.d/limits.conf"
check "a wrong value is refused" reload 'limits.conf:2: token-gap-ms takes a number .* Nothing was changed'
equal "… and the old one stays" "$(value token_gap_ms)" 33
printf '[requests]\ntoken-gap-ms = 44\n' >"$conf.d/limits.conf"
cp "$conf" "$work/damaged.gguf"
configure damaged.gguf
check "a damaged model is refused" reload 'Nothing was changed'
configure none.gguf
check "a missing model is refused" reload 'Nothing was changed'
equal "… and nothing else was taken" "$(value token_gap_ms)" 33
equal "… and the answers stay" "$(answer)" "$first"

# Another model, while a request runs
rm -f "$work/long"
"$quern" generate --prompt a --max-tokens 200 --temperature 1 >"$work/long" 2>&1 &
client=$!
until [ -s "$work/long" ]; do sleep 0.02; done
configure two.gguf
check "another model" reload 'ready: '
wait $client
equal "the request that ran came to its end" $? 0
second=$(answer)
check "it answers otherwise" [ "$second" != "$first" ]
configure one.gguf
check "and back" reload 'ready: '
equal "… as before" "$(answer)" "$first"
service_stop

# A stop that waits for what runs
configure one.gguf '[service]' 'drain-s = 60'
printf '' >"$conf.d/limits.conf"
service_launch --config "$conf"
rm -f "$work/long"
"$quern" generate --prompt a --max-tokens 200 --temperature 1 --output ids >"$work/long" 2>&1 &
client=$!
until [ -s "$work/long" ]; do sleep 0.02; done
service_stop
wait $client
equal "the running request came to its end" $? 0
equal "… with all its tokens" "$(wc -w <"$work/long")" 200

# And one that does not
service_launch --config "$conf" --drain-s 0
rm -f "$work/long"
"$quern" generate --prompt a --max-tokens 200 --temperature 1 >"$work/long" 2>&1 &
client=$!
until [ -s "$work/long" ]; do sleep 0.02; done
service_stop
wait $client
equal "without drain-s it is ended with a sentence" $? 69
check "…" grep -q 'service is stopping' "$work/long"

# Nobody there
service_launch --config "$conf" --exit-on-idle-s 1
"$quern" generate --prompt a --max-tokens 4 >/dev/null
rc=0
wait "$service" || rc=$?
service=
equal "an idle service ends" $rc 0
check "… and says so" grep -q 'idle for 1 s' "$work/log"
finish
