#!/bin/sh
# Runs every test program given, each under a time limit, and prints one closing line.
# A program passes with exit 0, is skipped with 77 (its last line says why), else it failed.
# TEST_TIMEOUT_S (default 300) bounds each; output of a failure is shown whole, and of a pass what
# begins with "note: ".
set -u
BUILD=${BUILD:-build}
export BUILD
limit=${TEST_TIMEOUT_S:-300}
out=$BUILD/test-output
mkdir -p "$out"
passed=0 failed=0 skipped=0 why='' bad=''
for t in "$@"; do
    name=$(echo "${t#"$BUILD"/}" | tr '/' '.')
    log=$out/$name.log
    start=$(date +%s)
    case $t in
    *.sh) timeout -k 10 "$limit" sh "$t" >"$log" 2>&1 </dev/null ;;
    *) timeout -k 10 "$limit" "./$t" >"$log" 2>&1 </dev/null ;;
    esac
    rc=$?
    took=$(($(date +%s) - start))
    case $rc in
    0) passed=$((passed + 1)); echo "ok    $name (${took} s)"; sed -n 's/^note: /      /p' "$log" ;;
    77) skipped=$((skipped + 1)); r=$(tail -n 1 "$log"); echo "skip  $name: $r"
        why="$why
  skipped $name: $r" ;;
    *) failed=$((failed + 1)); bad="$bad
  failed $name (exit $rc, $log)"
        echo "FAIL  $name (exit $rc, ${took} s)"; tail -n 60 "$log" | sed 's/^/      /' ;;
    esac
done
[ -z "$why" ] || echo "skipped:$why"
[ -z "$bad" ] || echo "failed:$bad"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
