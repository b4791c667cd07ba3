#!/bin/sh
# The service under a CPU quota that changes while a request runs: a twentieth of a processor, then a
# fifth of one, then none again. It goes on, and every answer is the same. Needs a cgroup with the
# cpu controller, of version 1 or 2, that we may make a child of.
set -u
. tests/support/service.sh
cpu1=$(awk '$3 == "cgroup" && $4 ~ /(^|,)cpu(,|$)/ { print $2; exit }' /proc/self/mounts)
cpu2=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
group=
if [ -n "$cpu1" ]; then
    group=$cpu1$(sed -n 's/^[0-9]*:\([a-z,]*,\)\?cpu\(,[a-z,]*\)\?://p' /proc/self/cgroup | head -n 1)/quern-quota.$$
elif [ -n "$cpu2" ]; then
    group=$cpu2$(sed -n 's/^0:://p' /proc/self/cgroup)/quern-quota.$$
fi
mkdir "$group" 2>/dev/null || {
    echo "no cgroup with the cpu controller can be made"
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
quota() { # PERCENT of one processor, or "none"
    case $group in
    "$cpu1"/*)
        echo 100000 >"$group/cpu.cfs_period_us"
        [ "$1" = none ] && echo -1 >"$group/cpu.cfs_quota_us" || echo "$1"000 >"$group/cpu.cfs_quota_us"
        ;;
    *) [ "$1" = none ] && echo max >"$group/cpu.max" || echo "$1"000 100000 >"$group/cpu.max" ;;
    esac
}
throttled() {
    sed -n 's/^nr_throttled //p' "$group/cpu.stat"
}
quota 100 2>/dev/null || {
    echo "the cgroup has no cpu controller"
    exit 77
}

"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 "$work/toy.gguf" || exit 1
service_start "$work/toy.gguf" --threads 2 --context 4096
generate() {
    "$BUILD/quern" generate --tokens 5,6,7 --max-tokens "$1" --temperature 0 --output ids
}
one=$(generate 600)
equal "an answer" "$(echo "$one" | wc -w)" 600
quota none
echo "$service" >"$group/cgroup.procs"
equal "the same in the cgroup" "$(generate 600)" "$one"
for percent in 5 20; do
    generate 600 >"$work/answer" &
    client=$!
    until [ -s "$work/answer" ]; do sleep 0.02; done
    before=$(throttled)
    quota $percent
    tries=0
    until [ "$(throttled)" -gt "$before" ] || [ $tries -gt 50 ]; do
        generate 300 >/dev/null
        tries=$((tries + 1))
    done
    check "a quota of $percent % holds it back" [ "$(throttled)" -gt "$before" ]
    quota none
    rc=0
    wait $client || rc=$?
    equal "… the request under way comes to its end" $rc 0
    equal "… with the same answer" "$(cat "$work/answer")" "$one"
done
quota 20
equal "asked under a quota, the same answer" "$(generate 600)" "$one"
quota none
equal "the service is the same process" "$(cat "$group/cgroup.procs")" "$service"
echo "$service" >"${group%/*}/cgroup.procs"
finish
