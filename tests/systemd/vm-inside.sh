#!/bin/sh
# Runs under the systemd of the test's virtual machine, as a unit: what a container cannot show.
cd /
. /usr/lib/quern-test/checks.sh
settings=/etc/quern/quern.conf.d/50-test.conf
group=/sys/fs/cgroup/system.slice/quern.service
configure() { # LINE...: settings of the test, in place of those before
    printf '%s\n' '[service]' 'verbose = 1' 'model = /usr/share/quern/toy.gguf' '[requests]' 'context = 4096' "$@" >$settings
}
override() { # LINE...: a drop-in for [Service]
    mkdir -p /run/systemd/system/quern.service.d
    printf '%s\n' '[Service]' "$@" >/run/systemd/system/quern.service.d/test.conf
    systemctl daemon-reload
}
limit() { # NAME=VALUE...: of the service that runs
    systemctl set-property --runtime quern.service "$@"
}
generate() { # N: that many tokens
    quern generate --tokens 5,6,7 --max-tokens "$1" --temperature 1 --seed 7 --output ids
}
answer() {
    generate 100
}
restart() {
    systemctl reset-failed quern.service
    systemctl restart quern.service
}
field() {
    quern status | sed -n "s/^$1  *//p"
}
long_request() { # until its first token is there: $client, its output in /tmp/long
    rm -f /tmp/long
    generate $long >/tmp/long 2>&1 &
    client=$!
    until_true '[ -s /tmp/long ]'
}
long_request_ends() { # NAME
    wait $client
    equal "$1, a request under way ends" $? 0
    check "… with the same answer" cmp /tmp/long /tmp/long.want
    equal "… of the same process" "$(property MainPID)" "$pid"
}
sleeps() { # NAME: to memory, for longer than the watchdog waits; QEMU wakes with one processor
    echo 0 >/sys/devices/system/cpu/cpu1/online
    check "$1" rtcwake -m mem -s 8
    echo 1 >/sys/devices/system/cpu/cpu1/online
}
want=$(cat /usr/lib/quern-test/answer)
long=250
echo "# $(systemctl --version | head -n 1), Linux $(uname -r), up after $(cut -d. -f1 /proc/uptime) s"

# A machine without a pool: the unit makes one
configure
equal "the machine has no huge pages" "$(cat /proc/sys/vm/nr_hugepages)" 0
systemctl start quern.socket
check "the first connect starts the service" quern status --wait
check "the pool was made" [ "$(cat /proc/sys/vm/nr_hugepages)" -gt 0 ]
equal "the weights are on it" "$(field weights_pages)" "2 MiB huge pages, locked"
equal "its out-of-memory score" "$(cat "/proc/$(property MainPID)/oom_score_adj")" -500
check "the answer is that of another processor" [ "$(answer)" = "$want" ]
override WatchdogSec=5 TimeoutAbortSec=1
restart
pid=$(property MainPID)
generate $long >/tmp/long.want

# Suspend
sleeps "the machine sleeps and wakes"
check "… by its firmware" sh -c 'dmesg | grep "Waking up from system sleep state S3"'
check "at rest: the answer after it" [ "$(answer)" = "$want" ]
equal "… of the same process" "$(property MainPID)" "$pid"
long_request
sleeps "it sleeps again"
check "… before the request had ended" kill -0 $client
long_request_ends "after it"

# Time of day that is set
long_request
date -s '+2 days' >/dev/null
sleep 1
date -s '-3 days' >/dev/null
long_request_ends "with a clock that is set"
date -s '+1 day' >/dev/null
check "the watchdog had no reason" sh -c '! journalctl -b --no-pager | grep "Watchdog timeout"'

# Processors taken and given while it computes
long_request
limit CPUQuota=30%
equal "a quota" "$(cut -d' ' -f1 $group/cpu.max)" 30000
sleep 2
limit CPUQuota=
check "… lifted" sh -c "! grep 30000 $group/cpu.max"
limit AllowedCPUs=1
equal "one processor is left" "$(cat $group/cpuset.cpus.effective)" 1
long_request_ends "meanwhile"
limit AllowedCPUs=
limit CPUQuota=100%
restart
equal "at a start it takes as many threads as the quota has" "$(field threads)" 1
check "… and answers the same" [ "$(answer)" = "$want" ]
limit CPUQuota=

# Memory
override MemoryMax=200M
configure '[memory]' 'huge-pages = off' 'kv-bytes = 400M'
restart
check "what does not fit into MemoryMax= is refused" until_true '[ "$(property ExecMainStatus)" = 71 ]'
check "… with the numbers" sh -c "journalctl -u quern.service -o cat --no-pager | grep -E '400 MiB.* [0-9]+ MiB'"
systemctl stop quern.service
configure '[memory]' 'huge-pages = off' 'kv-bytes = 64M'
systemctl reset-failed quern.service quern.socket
systemctl start quern.socket
check "what fits is served" [ "$(answer)" = "$want" ]
check "… below the limit" [ "$(cat $group/memory.peak)" -le $((200 << 20)) ]
override LimitMEMLOCK=64K
restart
check "with a low limit of locked memory, too" [ "$(answer)" = "$want" ]
check "… which is said" sh -c "journalctl -u quern.service -o cat --no-pager | grep 'raise LimitMEMLOCK='"
override
configure
restart
quern status --wait >/dev/null
pid=$(property MainPID)
systemd-run -q --wait --unit=hog tail /dev/zero
equal "where memory runs out, somebody else is killed" "$(property Result hog.service)/$(property MainPID)" "oom-kill/$pid"
systemctl reset-failed hog.service
check "… and the service answers" [ "$(answer)" = "$want" ]
restarts=$(property NRestarts)
limit MemoryMax=4M
check "a limit below what it has kills it" until_true '[ "$(property NRestarts)" -gt '"$restarts"' ] || [ "$(property ActiveState)" = failed ]'
limit MemoryMax=infinity
restart
check "… after which it answers again" [ "$(answer)" = "$want" ]
check "… with the weights kept" until_true "journal -u quern.service | grep -c 'Weights kept from the process before'"

# A user's own service, in what is delegated to the user
printf "u tester - - /home/tester /bin/sh\n" | systemd-sysusers -
uid=$(id -u tester)
install -d -o tester -g tester /home/tester
systemctl start user@$uid.service
user() {
    setpriv --reuid "$uid" --regid "$(id -g tester)" --clear-groups env HOME=/home/tester XDG_RUNTIME_DIR=/run/user/$uid \
        QUERN_SOCKET=/run/user/$uid/quern/quern.sock "$@"
}
user sh -c 'mkdir -p ~/.config/quern && cat >~/.config/quern/quern.conf' <<'CONF'
[service]
model = /usr/share/quern/toy.gguf
[requests]
context = 4096
CONF
delegated=/sys/fs/cgroup/user.slice/user-$uid.slice/user@$uid.service
check "memory and processors are delegated" sh -c "grep memory $delegated/cgroup.controllers | grep cpu"
check "a user's socket" user systemctl --user start quern.socket
check "… answers" [ "$(user quern generate --tokens 5,6,7 --max-tokens 100 --temperature 1 --seed 7 --output ids)" = "$want" ]
check "a user limits it" user systemctl --user set-property --runtime quern.service MemoryMax=300M CPUQuota=50%
equal "… which is so" "$(cat $delegated/app.slice/quern.service/memory.max) $(cut -d' ' -f1 $delegated/app.slice/quern.service/cpu.max)" \
    "$((300 << 20)) 50000"
check "… and answers" [ "$(user quern generate --tokens 5,6,7 --max-tokens 100 --temperature 1 --seed 7 --output ids)" = "$want" ]
user systemctl --user stop quern.socket quern.service
systemctl stop quern.socket quern.service
equal "no unit failed" "$(systemctl --failed --no-legend --plain | awk '{ print $1 }' | tr '\n' ' ')" ""
finish
