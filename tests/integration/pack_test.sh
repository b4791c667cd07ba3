#!/bin/sh
# quernd pack, verify, inspect of images and --drop-weights: an image made by hand is the one that a
# start reads, what is wrong with one is said, and the disk may be full at any point of writing it.
set -eu
# Once more, with huge pages for the weights that are kept.
[ "${WITH_PAGES:-}" = 1 ] || WITH_PAGES=1 exec "${BUILD:-build}/tests/tools/with-huge-pages" 64 sh "$0"
. tests/support/service.sh
quernd=$BUILD/quernd
model=$work/model.gguf
image=$work/model.quern
"$BUILD/tests/tools/make-model" --shape tiny --vocab tests/golden/qwen2-vocab.bin --merges 3000 \
    --context 1024 --type f16 "$model"

check "pack writes an image" "$quernd" pack "$model" "$image"
check "… and says when there is nothing to do" sh -c "'$quernd' pack '$model' '$image' | grep -q 'up to date'"
check "verify finds it good" "$quernd" verify "$image"
check "… and equal to its model" sh -c "'$quernd' verify '$image' '$model' | grep -q 'holds what is in'"
check "inspect lists its parts" sh -c "'$quernd' inspect '$image' | grep -q '^tokenizer  *[0-9]'"
fails "pack of what is no model" 65 "$quernd" pack "$image" "$work/other.quern"
fails "pack of what is not there" 66 "$quernd" pack "$work/none.gguf" "$work/other.quern"
fails "pack into no folder" 70 "$quernd" pack "$model" "$work/none/other.quern"
fails "verify of what is no image" 65 "$quernd" verify "$model"
fails "verify of what is not there" 66 "$quernd" verify "$work/none.quern"
fails "inspect of a cut image" 65 sh -c "head -c 5000 '$image' >'$work/cut.quern'; exec '$quernd' inspect '$work/cut.quern'"

# The same weights in another file: the image of one is that of the other, by content.
cp "$model" "$work/copy.gguf"
check "verify goes by content" "$quernd" verify "$image" "$work/copy.gguf"
"$BUILD/tests/tools/make-model" --shape tiny --vocab tests/golden/qwen2-vocab.bin --merges 3000 \
    --context 1024 --type f16 --seed 2 "$work/other.gguf"
fails "other weights" 65 "$quernd" verify "$image" "$work/other.gguf"
"$BUILD/tests/tools/make-model" --shape tiny --type f16 --context 1024 "$work/bytes.gguf"
fails "another model" 65 "$quernd" verify "$image" "$work/bytes.gguf"

# One bit in a section.
cp "$image" "$work/flipped.quern"
printf '\377' | dd of="$work/flipped.quern" bs=1 seek=100001 conv=notrunc 2>/dev/null
fails "a changed byte" 65 "$quernd" verify "$work/flipped.quern"

# The service reads it, and answers as it does without.
answer() {
    "$BUILD/quern" generate --prompt "one two" --max-tokens 12 --temperature 0 --output ids
}
service_start "$model" --image off --context 256
want=$(answer)
service_stop
service_start "$model" --image "$image" --context 256 -v
equal "the same answer from the image" "$(answer)" "$want"
service_stop
check "the service says that it read it" grep -q "Weights read from $image" "$work/log"
service_start "$model" --image "$work/flipped.quern" --context 256 -v
equal "the same answer beside a damaged one" "$(answer)" "$want"
service_stop
check "the service says that it is damaged" grep -q "flipped.quern is damaged" "$work/log"

# A disk that is full after so many KiB: nothing is left of the new image, the old one stays, and the
# service packs in memory.
if mkdir "$work/small" && mount -t tmpfs -o size=16k quern-test "$work/small" 2>/dev/null; then
    bytes=$(wc -c <"$image")
    left=0
    for i in $(seq 0 19); do
        # tmpfs has no fallocate that fails early at a smaller size than the file's: fill it instead
        umount "$work/small"
        mount -t tmpfs -o "size=$((bytes / 1024 + 64))k" quern-test "$work/small"
        head -c $((bytes + 65536 - bytes * i / 20)) /dev/zero >"$work/small/filler" 2>/dev/null || :
        rc=0
        "$quernd" pack "$model" "$work/small/image" >"$work/out" 2>"$work/err" || rc=$?
        [ $rc = 70 ] && grep -q "No space left" "$work/err" || left=$((left + 1))
        [ ! -e "$work/small/image" ] && [ ! -e "$work/small/image.tmp" ] || left=$((left + 1))
    done
    equal "a full disk at 20 points is said, and leaves nothing" "$left" 0
    service_start "$model" --image "$work/small/image" --context 256 -v
    equal "the same answer beside a full disk" "$(answer)" "$want"
    service_stop
    check "the service says that the disk is full" grep -q "No space left" "$work/log"
    umount "$work/small"
fi

# Weights kept in a folder of hugetlbfs, until they are dropped.
mkdir "$work/huge"
if mount -t hugetlbfs -o pagesize=2M quern-test "$work/huge" 2>/dev/null; then
    if service_start "$model" --image off --store "$work/huge/quern" --context 256 --huge-pages prefer &&
        "$BUILD/quern" status | grep -q '^weights_kept_by *hugetlbfs'; then
        check "status says for how long" sh -c "'$BUILD/quern' status | grep -q '^weights_kept_s *[0-9]'"
        service_stop
        check "the weights wait" sh -c "ls '$work/huge/quern' | grep -q weights-"
        check "they are dropped" "$quernd" --drop-weights --store "$work/huge/quern"
        equal "nothing waits any more" "$(ls "$work/huge/quern")" ""
    else
        echo "skip  no huge pages are free for kept weights"
        service_stop
    fi
    umount "$work/huge"
fi
fails "no store to drop from" 66 env -u NOTIFY_SOCKET "$quernd" --drop-weights
finish
