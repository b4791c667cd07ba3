#!/bin/sh
# Runs every fuzzer in $BUILD/fuzz for FUZZ_SECONDS (60) on its seeds, tests/fuzz/corpus/<name>; new
# inputs go to the build folder. A find is a file crash-* there: it becomes a seed and a test.
set -eu
build=${BUILD:-build/fuzz}
seconds=${FUZZ_SECONDS:-60}
failed=0
for f in "$build"/fuzz/*_fuzz; do
    name=${f##*/}
    seeds=tests/fuzz/corpus/$name
    work=$build/corpus/$name
    mkdir -p "$work" "$seeds"
    echo "fuzz: $name for $seconds s"
    if ! "./$f" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$work/" "$work" "$seeds" >"$work.log" 2>&1; then
        failed=$((failed + 1))
        tail -n 40 "$work.log"
    else
        grep -E 'number_of_executed_units|new_units_added' "$work.log" | sed 's/^/      /'
    fi
done
[ "$failed" = 0 ] && echo "fuzz: no finds"
