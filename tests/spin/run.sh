#!/bin/sh
# Checks the protocol model in ring.pml exhaustively: the true one must pass, every mutant must
# fail for the reason that its name says. `run.sh deep` adds larger sizes (minutes, up to 8 GB).
# Prints one line for each, with the number of states.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
bad=0

# check NAME EXPECTED FLAGS…: EXPECTED is ok, or a word of Spin's that the failure must show
check() {
    name=$1 expected=$2
    shift 2
    dir=$work/pan
    rm -rf "$dir" && mkdir "$dir" && cd "$dir" || exit 1
    spin "$@" -a "$here/ring.pml" >spin.out 2>&1 || { cat spin.out; exit 1; }
    ${CC:-cc} -O2 -DSAFETY -DCOLLAPSE -DMEMLIM="${memory_mb:-2000}" -w -o pan pan.c || exit 1
    ./pan -m3000000 >out 2>&1
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' out)
    states=$(awk '/states, stored/ { print $1 }' out)
    if [ "$expected" = ok ]; then
        [ "$errors" = 0 ] && ! grep -qE 'max search depth too small|out of memory|memory limit' out
    else
        [ "$errors" = 1 ] && grep -q "$expected" out
    fi
    if [ $? = 0 ]; then
        echo "ok    $name: $expected, $states states"
    else
        echo "FAIL  $name: expected $expected"
        cat out
        bad=1
    fi
    cd "$work" || exit 1
}

check 'the protocol' ok
check 'more tokens than the ring has slots' ok -DREQUESTS=1 -DTOKENS=2
check 'doorbells as edges' ok -DEDGES -DREQUESTS=1 -DTOKENS=2
check 'the client vanishes' ok -DDISCONNECT=1 -DREQUESTS=1 -DTOKENS=2
check 'the service vanishes' ok -DDISCONNECT=2 -DREQUESTS=1 -DTOKENS=2

check 'no fence A in the client' 'invalid end state' -DM_NO_FENCE_A_CLIENT
check 'no fence B in the client' 'invalid end state' -DM_NO_FENCE_B_CLIENT
check 'no fence A in the service' 'invalid end state' -DM_NO_FENCE_A_SERVICE
check 'no fence B in the service' 'invalid end state' -DM_NO_FENCE_B_SERVICE
check 'look, then flag' 'invalid end state' -DM_LOOK_THEN_FLAG
check 'park without a second look' 'invalid end state' -DM_PARK_WITHOUT_LOOK
check 'park without asking for room' 'invalid end state' -DM_PARK_WITHOUT_ROOM
check 'parked after arming, not armed for room' 'invalid end state' -DM_PARK_WHILE_ARMED -DREQUESTS=1 -DTOKENS=3
check 'armings are not counted' 'invalid end state' -DM_NO_COUNT
check 'doorbells drained after arming' 'invalid end state' -DM_DRAIN_AFTER_ARM
check 'deaf to a hang-up' 'invalid end state' -DM_DEAF_TO_HANG_UP -DDISCONNECT=2
check 'submission tail before its slot' 'assertion violated' -DM_TAIL_BEFORE_SLOT
check 'event tail before its slot' 'assertion violated' -DM_EVENT_TAIL_BEFORE_SLOT
check 'slot given back before it is copied' 'assertion violated' -DM_HEAD_BEFORE_COPY
check 'no slot kept for the final event' 'assertion violated' -DM_NO_FINAL_SLOT
check 'kept slots fill the ring' 'invalid end state' -DM_TOO_MANY_IN_FLIGHT -DTOKENS=2
check 'a final event twice' 'assertion violated' -DM_FINAL_TWICE

if [ "${1:-}" = deep ]; then
    memory_mb=8000
    check 'deep: store buffers of 4' ok -DBUFFER=4
    check 'deep: doorbells as edges' ok -DEDGES
    check 'deep: two in flight, longer rings' ok -DSUBMIT_ENTRIES=2 -DEVENT_ENTRIES=4 -DSOCKET=2
    check 'deep: two requests, two tokens each' ok -DTOKENS=2
    check 'deep: three tokens' ok -DREQUESTS=1 -DTOKENS=3 -DBUFFER=4
    check 'deep: the client vanishes' ok -DDISCONNECT=1
    check 'deep: the service vanishes' ok -DDISCONNECT=2
    check 'deep: one request, four tokens' ok -DREQUESTS=1 -DTOKENS=4
    check 'deep: the client vanishes, buffers of 4' ok -DREQUESTS=1 -DTOKENS=2 -DBUFFER=4 -DDISCONNECT=1
    check 'deep: the service vanishes, buffers of 4' ok -DREQUESTS=1 -DTOKENS=2 -DBUFFER=4 -DDISCONNECT=2
fi
exit $bad
