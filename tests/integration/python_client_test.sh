#!/bin/sh
# A client in plain Python, written from docs/protocol.md alone, against the echo service: answers
# are known to the byte, and the rings are so small that it goes around them many times.
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
if ! command -v python3 >/dev/null; then
    echo "python3 is not installed"
    exit 77
fi
dir=$(mktemp -d) || exit 1
"$build/tests/tools/echo-service" "$dir/s" &
service=$!
trap 'kill $service 2>/dev/null; rm -rf "$dir"' EXIT
i=0
while [ ! -S "$dir/s" ] && [ $i -lt 200 ]; do
    sleep 0.05
    i=$((i + 1))
done

expect() {
    want=$1
    shift
    got=$(python3 tests/tools/plain_client.py "$dir/s" "$@") || { echo "FAIL: $* ended with $?: $got"; exit 1; }
    [ "$got" = "$want" ] || { echo "FAIL: $*"; echo "want: $want"; echo "got:  $got"; exit 1; }
}

long=$(python3 -c 'print(("millstone" * 600)[:5000])')
expect 'millmillmi
final: length, code 0, 4 in, 10 out ' generate 10 mill
expect "$long
final: length, code 0, 9 in, 5000 out " generate 5000 millstone
expect '97 98 99
final: done, code 0, 3 in, 3 out ' tokenize abc
expect 'echo=1

final: done, code 0, 0 in, 1 out ' status
got=$(python3 tests/tools/plain_client.py "$dir/s" cancel x)
case $got in
*'final: cancelled, code 0, 1 in, '*) ;;
*) echo "FAIL: cancel: $got"; exit 1 ;;
esac

kill $service
wait $service || { echo "FAIL: the service saw violations"; exit 1; }
echo "python client: all answers as expected"
