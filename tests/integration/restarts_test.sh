#!/bin/sh
# Ten restarts under load with a client that comes back: weights come from the disk once, every answer
# is whole or an error (no token that was handed out is lost), and all whole answers are equal. The
# guard is on: a step that allocates would abort the service.
set -eu
[ "${WITH_PAGES:-}" = 1 ] || WITH_PAGES=1 exec "${BUILD:-build}/tests/tools/with-huge-pages" 64 sh "$0"
. tests/support/service.sh
export QUERN_GUARD=1
model=$work/model.gguf
"$BUILD/tests/tools/make-model" --shape tiny --vocab tests/golden/qwen2-vocab.bin --merges 3000 \
    --context 2048 "$model"
mkdir "$work/huge"
store=off
if mount -t hugetlbfs -o pagesize=2M quern-test "$work/huge" 2>/dev/null; then
    store=$work/huge/quern
fi

generate() {
    "$BUILD/quern" generate --prompt "one two three" --max-tokens 200 --temperature 0 --output ids
}
service_start "$model" --image "$work/model.quern" --store "$store" --context 512 -v
kept=$("$BUILD/quern" status | sed -n 's/^weights_kept_by  *//p')
check "an answer" generate
generate >"$work/want"
cp "$work/log" "$work/log.0"

# The client: asks again and again; an answer that ends well is equal, one that is cut is a beginning.
cat >"$work/client.sh" <<'S'
n=0
while [ ! -e "$work/enough" ]; do
    rc=0
    "$BUILD/quern" generate --prompt "one two three" --max-tokens 200 --temperature 0 --output ids \
        >"$work/got" 2>/dev/null || rc=$?
    if [ $rc = 0 ]; then
        cmp -s "$work/got" "$work/want" || echo "another answer" >>"$work/wrong"
        n=$((n + 1))
    else
        size=$(wc -c <"$work/got")
        # the last number may be cut
        head -c "$size" "$work/want" | cmp -s - "$work/got" || echo "no beginning" >>"$work/wrong"
        sleep 0.02
    fi
done
echo $n >"$work/answers"
S
export work BUILD
sh "$work/client.sh" &
client=$!
warm=0
for i in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.3
    if [ $((i % 2)) = 0 ]; then
        kill -KILL "$service"
        wait "$service" || :
    else
        service_stop
    fi
    service_start "$model" --image "$work/model.quern" --store "$store" --context 512 -v
    if grep -q "Weights kept from the process before" "$work/log"; then
        warm=$((warm + 1))
    fi
done
sleep 1
touch "$work/enough"
wait "$client"
equal "no answer was wrong" "$(cat "$work/wrong" 2>/dev/null)" ""
check "there were answers all along ($(cat "$work/answers"))" [ "$(cat "$work/answers")" -ge 2 ]
if [ "$kept" = hugetlbfs ]; then
    equal "ten restarts found the weights in memory" "$warm" 10
else
    echo "skip  no huge pages were free: the weights came from the image"
fi
service_stop
[ "$store" = off ] || umount "$work/huge"
finish
