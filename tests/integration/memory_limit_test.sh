#!/bin/sh
# The service in a cgroup with a memory limit: a cache that does not fit is refused at the start, with
# the numbers, and one that fits is served and stays below the limit. Needs a cgroup with the memory
# controller, of version 1 or 2, that we may make a child of.
set -u
. tests/support/service.sh
memory1=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' /proc/self/mounts)
memory2=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
group=
if [ -n "$memory1" ]; then
    group=$memory1$(sed -n 's/^[0-9]*:\([a-z,]*,\)\?memory\(,[a-z,]*\)\?://p' /proc/self/cgroup | head -n 1)
    limit=memory.limit_in_bytes peak=memory.max_usage_in_bytes
elif [ -n "$memory2" ]; then
    group=$memory2$(sed -n 's/^0:://p' /proc/self/cgroup)
    limit=memory.max peak=memory.peak
fi
group=$group/quern-memory.$$
mkdir "$group" 2>/dev/null || {
    echo "no cgroup with the memory controller can be made"
    exit 77
}
leave() {
    cleanup
    tries=0
    until rmdir "$group" 2>/dev/null || [ $tries -gt 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
}
trap leave EXIT
echo $((256 << 20)) 2>/dev/null >"$group/$limit" || {
    echo "the cgroup has no memory controller"
    exit 77
}
case $BUILD in
*san)
    echo "a sanitizer takes memory of its own"
    exit 77
    ;;
esac

"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 "$work/toy.gguf" || exit 1
mkdir "$work/limited"
cat >"$work/limited/quernd" <<END
#!/bin/sh
echo \$\$ >"$group/cgroup.procs"
exec "$PWD/$BUILD/quernd" "\$@"
END
chmod +x "$work/limited/quernd"
case $BUILD in
/*) sed -i "s|\"$PWD/|\"|" "$work/limited/quernd" ;;
esac
fails "what does not fit is refused" 71 "$work/limited/quernd" --model "$work/toy.gguf" --huge-pages off \
    --context 1024 --kv-bytes 400M --socket "$QUERN_SOCKET"
check "… with the numbers" grep -Eq '400 MiB.* [0-9]+ MiB' "$work/err"
ln -s "$(cd "$BUILD" && pwd)/quern" "$work/limited/quern"
plain=$BUILD BUILD=$work/limited
service_start "$work/toy.gguf" --threads 2 --huge-pages off --context 4096 --kv-bytes 64M
equal "what fits is served" \
    "$("$BUILD/quern" generate --tokens 5,6,7 --max-tokens 2000 --temperature 0 --output ids | wc -w)" 2000
check "… in the cgroup" grep -qx "$service" "$group/cgroup.procs"
service_stop
BUILD=$plain
[ ! -e "$group/$peak" ] || check "… below its limit" [ "$(cat "$group/$peak")" -lt $((256 << 20)) ]
finish
