#!/bin/sh
# Several models in one service: each answers as it does alone, one after the other and from many
# clients at once; names, values of each, a budget for both, prefixes, figures, a restart that finds both
# in memory, and a reload that changes one while the other answers.
set -u
[ "${WITH_PAGES:-}" = 1 ] || WITH_PAGES=1 exec "${BUILD:-build}/tests/tools/with-huge-pages" 96 sh "$0"
. tests/support/service.sh
quern=$BUILD/quern
make_model() { # SEED FILE
    "$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed "$1" \
        --vocab tests/golden/qwen2-vocab.bin "$2" || exit 1
}
tldr=models/quern-tldr.gguf toy=$work/toy.gguf
make_model 3 "$toy"
make_model 4 "$work/other.gguf"
mkdir "$work/huge"
store=off
if mount -t hugetlbfs -o pagesize=2M quern-test "$work/huge" 2>/dev/null; then
    store=$work/huge/quern
fi
leave() {
    [ -z "$service" ] || { kill -KILL "$service" && wait "$service"; } 2>/dev/null
    service=
    umount "$work/huge" 2>/dev/null
    cleanup
}
trap leave EXIT

# What a model says to a few requests of each kind, drawn ones among them.
questions='list the files of this folder
count the lines of all C files
kill a process by its name'
answers() { # OPTION...
    n=0
    echo "$questions" | while read -r line; do
        n=$((n + 1))
        "$quern" generate "$@" --prompt "$line" --max-tokens 24 --temperature 0 --output ids
        "$quern" generate "$@" --prompt "$line" --max-tokens 24 --temperature 1 --seed "$n" --output ids
        "$quern" score "$@" --json "$line"
        "$quern" tokenize "$@" "$line"
        "$quern" embed "$@" "$line"
    done
    "$quern" ask "$@" --max-tokens 12 --temperature 0 list the files
}
value() { # MODEL KEY
    "$quern" status --json | python3 -c 'import json, sys
print([m[sys.argv[2]] for m in json.load(sys.stdin)["models"] if m["model"] == sys.argv[1]][0])' "$1" "$2"
}
log_has() { grep -q "$1" "$work/log"; }

# Each alone
service_start "$tldr" --threads 2
answers >"$work/tldr.want" 2>&1
service_stop
service_start "$toy" --threads 2 --context 512 --kv q8_0
answers >"$work/toy.want" 2>&1
service_stop

# Both
both() { # OPTION...
    service_launch --model tldr="$tldr" --model toy="$toy" --threads 2 --context toy=512 \
        --kv toy=q8_0 --kv-bytes toy=8M --store "$store" --metrics "$work/metrics" "$@"
}
both -v
answers --model tldr >"$work/got" 2>&1
check "the first answers as alone" cmp "$work/got" "$work/tldr.want"
answers --model toy >"$work/got" 2>&1
check "the second answers as alone" cmp "$work/got" "$work/toy.want"
answers >"$work/got" 2>&1
check "who names none gets the first" cmp "$work/got" "$work/tldr.want"
clients=
for i in 1 2 3 4; do
    for model in tldr toy; do
        answers --model $model >"$work/got.$model.$i" 2>&1 &
        clients="$clients $!"
    done
done
# shellcheck disable=SC2086
wait $clients
for i in 1 2 3 4; do
    for model in tldr toy; do
        check "… $model, client $i of eight at once" cmp "$work/got.$model.$i" "$work/$model.want"
    done
done
fails "a model that is not there" 64 "$quern" generate --model flour --prompt a --max-tokens 1
check "… with the names" grep -q 'No model "flour" is served here; this service has "tldr", "toy"' \
    "$work/err"

# Values and figures of each
equal "a context of its own" "$(value tldr context) $(value toy context)" "1024 512"
equal "a kind of cache of its own" "$(value tldr kv_type) $(value toy kv_type)" "f16 q8_0"
check "a share of the cache of its own" [ "$(value toy kv_bytes)" -le $((8 << 20)) ]
equal "requests are counted for their model" "$(value toy requests)" \
    "$((5 * (1 + 4) * 3 + 5))"
sum=$(($(value tldr generated_tokens) + $(value toy generated_tokens)))
equal "… and together" "$("$quern" status | awk '$1 == "total_generated_tokens" { print $2 }')" $sum

python3 tests/tools/metrics.py "$work/metrics" --raw GET /metrics >"$work/page"
check "… and on the metrics page" grep -q "quern_requests_received_total{model=\"toy\"} $(value toy requests)" "$work/page"
check "… where both are" grep -q 'quern_weights_bytes{model="tldr",' "$work/page"

# A prefix belongs to a model, which need not be named again
one=$("$quern" prefix pin --model tldr a prompt of the first model)
two=$("$quern" prefix pin --model toy a prompt of the second model)
check "handles are told apart" [ "$one" != "$two" ]
equal "what goes on from a prefix goes to its model" \
    "$("$quern" generate --prefix "$two" --prompt ' b' --max-tokens 8 --temperature 0 --output ids)" \
    "$("$quern" generate --model toy --prompt 'a prompt of the second model b' --max-tokens 8 \
        --temperature 0 --output ids)"
fails "not to another" 64 "$quern" generate --model tldr --prefix "$two" --prompt b --max-tokens 1
check "… and is unpinned without a name" "$quern" prefix unpin "$one" "$two"

# A restart finds both in memory
if [ "$(value tldr weights_kept_by) $(value toy weights_kept_by)" = "hugetlbfs hugetlbfs" ]; then
    service_stop
    both -v
    equal "both are there again" "$(value tldr weights_warm) $(value toy weights_warm)" "yes yes"
    answers --model toy >"$work/got" 2>&1
    check "… and answer" cmp "$work/got" "$work/toy.want"
    service_stop
    service_start "$tldr" --threads 2 --store "$store" -v
    check "what is not served any more is dropped" log_has 'Dropped the kept weights'
    service_stop
    both
else
    echo "note: no huge pages were free: the restart that finds both in memory was not tried"
fi
service_stop

# The budget is one promise over all: the toy takes about 62 MiB of weights, and 64 of cache
quernd=$BUILD/quernd
fails "one that is not there" 66 "$quernd" --socket "$QUERN_SOCKET" --model a="$toy" --model b="$work/none"
fails "two of one name" 64 "$quernd" --socket "$QUERN_SOCKET" --model "$toy" --model "$work/toy.gguf"
cp "$toy" "$work/same.gguf"
fails "… or of one name in their files" 64 "$quernd" --socket "$QUERN_SOCKET" --model "$toy" \
    --model "$work/same.gguf"
service_start "$toy" --context 1024 --memory-limit 200M --kv-bytes 64M --store off
service_stop
fails "one fits, two do not" 71 "$quernd" --socket "$QUERN_SOCKET" --model one="$toy" \
    --model two="$work/other.gguf" --context 1024 --memory-limit 200M --kv-bytes 64M --store off
check "… with the numbers of each" grep -Eq '"one" 0\.[0-9]+: weights 0\.06, KV of [0-9]+ positions 0\.06, scratch [0-9.]+; "two" .* 0\.20 GiB are allowed' "$work/err"

# Reload: one model changes, and one comes and goes, while another answers
conf=$work/quern.conf
configure() { # FILE-OF-TOY [LINE...]
    printf '[service]\nmodel = tldr=%s\n[model toy]\nfile = %s\ncontext = 512\nkv = q8_0\n' \
        "$tldr" "$1" >"$conf"
    shift
    printf '%s\n' "$@" >>"$conf"
}
reload() { # until the journal has this line
    : >"$work/log"
    kill -HUP "$service"
    tries=0
    until log_has "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || { cat "$work/log"; return 1; }
        sleep 0.05
    done
}
configure "$toy"
service_launch --config "$conf" --threads 2 --store off
"$quern" generate --model tldr --prompt a --max-tokens 900 --temperature 1 --seed 1 --output ids >"$work/long" &
client=$!
"$quern" prefix pin --model tldr a prompt that stays >"$work/handle"
configure "$work/other.gguf"
check "another file for one" reload 'ready: toy'
wait $client
equal "what runs on the other is not disturbed" "$? $(wc -w <"$work/long")" "0 900"
answers --model tldr >"$work/got" 2>&1
check "… and it answers as before" cmp "$work/got" "$work/tldr.want"
check "… with its pinned prefix" "$quern" prefix unpin "$(cat "$work/handle")"
answers --model toy >"$work/got" 2>&1
check "the one answers otherwise" sh -c "! cmp -s '$work/got' '$work/toy.want'"
configure "$toy" '[model third]' "file = $work/other.gguf" 'context = 256'
check "a third one, and the first file again" reload 'ready: third'
answers --model toy >"$work/got" 2>&1
check "… which answers as alone" cmp "$work/got" "$work/toy.want"
equal "the third has its own values" "$(value third context)" 256
configure "$toy" '[model third]' "file = $work/none.gguf"
check "a file that is not there changes nothing" reload 'Nothing was changed'
check "… the third answers" "$quern" generate --model third --prompt a --max-tokens 2
configure "$toy" 'kv-bytes = 16M'
check "a value that needs a restart is named with its model" reload 'kv-bytes changed, which needs a restart.*toy'
fails "what was taken out is refused" 64 "$quern" generate --model third --prompt a --max-tokens 2
check "the others answer" "$quern" generate --model toy --prompt a --max-tokens 2
service_stop
finish
