#!/bin/sh
# docs/protocol.md against ipc/layout.h, field by field and number by number; and that the comparison
# sees a difference: each of some small changes to a copy of the page must be found.
cd "$(dirname "$0")/../.." || exit 1
if ! command -v python3 >/dev/null; then
    echo "python3 is not installed"
    exit 77
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

agrees() {
    python3 tests/tools/protocol_page.py "$1" ipc/layout.h >"$work/check.c" 2>"$work/out" &&
        ${CC:-cc} -std=gnu11 -include stddef.h -I. -fsyntax-only "$work/check.c" >>"$work/out" 2>&1
}

if ! agrees docs/protocol.md; then
    echo "FAIL: docs/protocol.md and ipc/layout.h differ"
    cat "$work/out"
    exit 1
fi
echo "ok: $(grep -c _Static_assert "$work/check.c") statements of the page hold"

n=0
while IFS='@' read -r from to; do
    [ -n "$from" ] || continue
    n=$((n + 1))
    sed "s@$from@$to@" docs/protocol.md >"$work/page.md"
    if cmp -s docs/protocol.md "$work/page.md"; then
        echo "FAIL: the page has no \"$from\" to change"
        exit 1
    fi
    if agrees "$work/page.md"; then
        echo "FAIL: \"$to\" for \"$from\" was not seen"
        exit 1
    fi
done <<'END'
^| 72 | u64 | reply_head@| 80 | u64 | reply_head
^| 56 | f32 | repetition@| 56 | u32 | repetition
^| 94 | u16 | samples@| 94 | u32 | samples
^| 36 | u32 | model_bytes.*$@
3 tokenize, 4 detokenize@4 tokenize, 3 detokenize
| 0x010; 0 < r@| 0x020; 0 < r
^| | 48 | u64 | prefill_us@| | 48 | u64 | decode_us
`0x21`@`0x22`
END
echo "ok: each of $n changes to the page is seen"
