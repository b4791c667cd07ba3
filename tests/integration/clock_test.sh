#!/bin/sh
# Clocks that jump: the time of day goes back and forth by days at every look (as by NTP, an
# administrator, or a resume), and the clocks since boot are not the client's (a time namespace).
# Answers, deadlines and the time that the service was up do not care.
set -u
. tests/support/service.sh
skip_preload_with_sanitizer
cat >"$work/jump.c" <<'END'
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void)
{
    static _Atomic unsigned n;
    return (++n % 5 - 2L) * 86400 * 40;
}
int clock_gettime(clockid_t clock, struct timespec *ret)
{
    long r = syscall(SYS_clock_gettime, clock, ret);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI)
        ret->tv_sec += jump();
    return (int)r;
}
time_t time(time_t *ret)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (ret)
        *ret = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    ret->tv_sec = now.tv_sec;
    ret->tv_usec = now.tv_nsec / 1000;
    return 0;
}
END
${CC:-cc} -shared -fPIC -O1 "$work/jump.c" -o "$work/jump.so" || exit 1
check "the clock jumps" sh -c "LD_PRELOAD='$work/jump.so' python3 -c '
import time
assert len({round(time.time() / 86400 / 40) for _ in range(5)}) > 2'"
"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 "$work/toy.gguf" || exit 1
generate() {
    "$BUILD/quern" generate --tokens 5,6,7 --temperature 0 --output ids "$@"
}
service_start "$work/toy.gguf" --threads 2 --context 65536
one=$(generate --max-tokens 200)
service_stop

try() { # NAME: of the service that runs
    equal "$1: the same answer" "$(generate --max-tokens 200)" "$one"
    rc=0
    generate --max-tokens 65000 --deadline-ms 300 >"$work/cut" 2>"$work/err" || rc=$?
    check "$1: a deadline ends a request that would go on ($rc)" [ "$rc" != 0 ]
    check "$1: … which had begun" [ -s "$work/cut" ]
    rc=0
    generate --max-tokens 20 --deadline-ms 600000 >/dev/null || rc=$?
    equal "$1: and none that is in time" $rc 0
    up=$("$BUILD/quern" status | sed -n 's/^uptime_s *//p')
    check "$1: up for $up s" [ "$up" -lt 600 ]
}
cat >"$work/quernd" <<END
#!/bin/sh
exec env LD_PRELOAD="$work/jump.so" "$BUILD/quernd" "\$@"
END
cat >"$work/far" <<END
#!/bin/sh
exec unshare --time --monotonic 8000000 --boottime 9000000 --fork --kill-child "$BUILD/quernd" "\$@"
END
chmod +x "$work/quernd" "$work/far"
ln -s "$PWD/$BUILD/quern" "$work/quern" 2>/dev/null || ln -s "$BUILD/quern" "$work/quern"
plain=$BUILD
mkdir "$work/jumping" "$work/away"
for kind in jumping away; do cp -P "$work/quern" "$work/$kind/quern"; done
mv "$work/quernd" "$work/jumping/quernd"
mv "$work/far" "$work/away/quernd"
BUILD=$work/jumping
service_start "$work/toy.gguf" --threads 2 --context 65536
try "time of day jumps"
service_stop
if unshare --time --monotonic 1000 true 2>/dev/null; then
    BUILD=$work/away
    service_start "$work/toy.gguf" --threads 2 --context 65536
    try "other clocks since boot"
    kill -TERM $(awk -v parent="$service" '$1 == "PPid:" && $2 == parent { split(FILENAME, part, "/")
        print part[3] }' /proc/[0-9]*/status 2>/dev/null)
    wait "$service"
    equal "… and it stops" $? 0
    service=
else
    echo "note: no time namespace can be made; the clocks since boot were not tried"
fi
BUILD=$plain
finish
