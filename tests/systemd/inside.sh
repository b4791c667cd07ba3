#!/bin/sh
# Runs under the test's systemd, as a unit: what the units promise.
cd /
. /usr/lib/quern-test/checks.sh
settings=/etc/quern/quern.conf.d/50-test.conf
model=/usr/share/quern/quern-tldr.gguf
configure() { # LINE...: settings of the test, in place of those before
    printf '%s\n' '[service]' 'verbose = 1' "model = $model" "$@" >$settings
}
override() { # LINE...: a drop-in for [Service]
    mkdir -p /run/systemd/system/quern.service.d
    printf '%s\n' '[Service]' "$@" >/run/systemd/system/quern.service.d/test.conf
    systemctl daemon-reload
}
long_request() { # until its first token is there: $client, its output in /tmp/long
    rm -f /tmp/long
    quern generate --prompt "list files" --max-tokens "$1" --temperature 1 --seed 1 --output ids \
        >/tmp/long 2>/tmp/long.err &
    client=$!
    until_true '[ -s /tmp/long ]'
}

echo "# $(systemctl --version | head -n 1)"
man=no # whether Documentation= is looked up: verify takes no folder for its pages but the system's
! command -v man >/dev/null || man=yes
verify=$(systemd-analyze verify --man=$man quern.service quern.socket quern@two.service \
    quern@two.socket quern-hugepages.service quern-metrics.socket 2>&1 | grep -v 'quern-test')
equal "systemd-analyze verify is silent" "$verify" ""
equal "… and on the user's units" "$(systemd-analyze verify --user --man=no \
    /usr/lib/systemd/user/quern.service 2>&1 | grep -i quern)" ""
configure
check "the configuration has no problem" quernd --check-config
check "every setting that it names is one" sh -c 'mkdir /tmp/c && sed "s/^#\([a-z-]* =\|\[model \)/\1/; s|^file = .*|file = /usr/share/quern/quern-tldr.gguf|" \
    /etc/quern/quern.conf >/tmp/c/quern.conf && quernd --check-config --config /tmp/c/quern.conf'

# Activation
check "the socket starts" systemctl start quern.socket
equal "the service waits for a client" "$(property ActiveState)" inactive
check "the first connect starts it" quern status --wait
equal "it is ready" "$(property ActiveState)/$(property SubState)" active/running
if [ "$failures" != 0 ]; then
    journalctl -b --no-pager -o cat -u quern.service -u quern.socket -n 60
    echo "$failures failures, the rest not tried"
    exit 1
fi
check "ready means that the model is there" sh -c "systemctl restart quern.service && quern status | grep -q '^state *ready'"
check "it answers" quern generate --prompt "list files" --max-tokens 8 --temperature 0
one=$(answer)
check "it runs without capabilities" grep -qx 'CapBnd:.0000000000000000' "/proc/$(property MainPID)/status"
check "it runs under seccomp" grep -qx 'Seccomp:.2' "/proc/$(property MainPID)/status"
check "it does not run as root" sh -c "! grep -q '^Uid:.0' /proc/$(property MainPID)/status"
if sh -c 'echo -500 >/proc/self/oom_score_adj' 2>/dev/null; then # not where the machine forbids it
    equal "its out-of-memory score" "$(cat "/proc/$(property MainPID)/oom_score_adj")" -500
fi
check "the journal has its start" sh -c "journalctl -u quern.service -o cat --no-pager | grep -q ."
check "the journal has no prompt" sh -c "! journalctl -u quern.service --no-pager | grep -q 'list files'"
check "the pool was looked at" sh -c \
    "journalctl -u quern-hugepages.service -o cat --no-pager | grep -q 'huge pages'"
journalctl --update-catalog
message() { # ID FIELD: of the last message with an id
    journalctl --sync
    journalctl -b --no-pager -n 1 -o json "MESSAGE_ID=$1" | python3 -c \
        "import json, sys; print(json.loads(sys.stdin.readline() or '{}').get('$2'))"
}
ready=c4036644d4e240729e8583848848c3dc reload_failed=a09bef35aeb54560a287becd243a1004
equal "its message ready has an id and fields" "$(message $ready QUERN_MODEL)/$(message $ready _SYSTEMD_UNIT)" \
    "$(quern status | sed -n 's/^model  *//p')/quern.service"
check "… and an explanation" sh -c "journalctl -b -x --no-pager MESSAGE_ID=$ready | grep -q 'The service answers'"
score=$(systemd-analyze security quern.service 2>/dev/null | sed -n 's/.*level for quern.service: \([0-9.]*\).*/\1/p')
check "security at most 2.0 ($score)" awk "BEGIN { exit !($score <= 2.0) }"

# Reload
configure '[requests]' 'token-gap-ms = 44'
check "reload" systemctl reload quern.service
check "… is taken" until_true "quern status | grep -q 'token_gap_ms *44'"
configure '[requests]' 'token-gpa-ms = 55'
systemctl reload quern.service
check "a wrong file is named in the journal" until_true \
    "journal -u quern.service | grep -q '50-test.conf:5: .*token-gap-ms'"
equal "… by a message with an id" "$(message $reload_failed PRIORITY)" 3
check "… and changes nothing" sh -c "quern status | grep -q 'token_gap_ms *44'"
model=/usr/share/quern/toy.gguf # whose answers have no end of their own
configure
systemctl reload quern.service
check "another model by reload" until_true "quern status | grep -q '^model  *random tiny'"
check "… answers otherwise" [ "$(answer)" != "$one" ]
one=$(answer)
systemctl restart quern.service
equal "… and the same after a restart" "$(answer)" "$one"

# Restarts: killed, hung, ten under load; weights stay on huge pages where there is a pool
pool=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)
warm() {
    journal -u quern.service | grep -c 'Weights kept from the process before' || :
}
first=$(property MainPID) before=$(warm)
kill -KILL "$first"
check "a killed service is started again" until_true \
    '[ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != '"$first"' ]'
equal "… and gives the same answer" "$(answer)" "$one"
if [ "$pool" -ge 64 ]; then
    check "the fd store holds the weights" [ "$(property NFileDescriptorStore)" -ge 1 ]
    check "the next process took them over" [ "$(warm)" -gt "$before" ]
fi
override WatchdogSec=5 TimeoutAbortSec=1
systemctl restart quern.service
quern status --wait >/dev/null
first=$(property MainPID) before=$(warm) restarts=$(property NRestarts)
long_request 3000
kill -STOP "$first"
check "a hung step is killed by the watchdog" until_true \
    '[ "$(property NRestarts)" -gt '"$restarts"' ] && [ "$(property ActiveState)" = active ]'
check "… which the journal says" sh -c "journalctl -u quern.service --no-pager | grep -q 'Watchdog timeout'"
wait $client
equal "… its client hears of it" $? 69
equal "… and the next answer is the same" "$(answer)" "$one"
[ "$pool" -lt 64 ] || check "… with the weights kept" [ "$(warm)" -gt "$before" ]
first=$(property MainPID)
sleep 7
equal "a resting service is left alone" "$(property MainPID)" "$first"
override

rm -f /tmp/stop /tmp/wrong
(
    until [ -e /tmp/stop ]; do
        got=$(answer 2>/dev/null)
        rc=$?
        [ $rc = 69 ] || [ "$rc/$got" = "0/$one" ] || echo "$rc $got" >>/tmp/wrong
    done
) &
load=$!
for i in 1 2 3 4 5 6 7 8 9 10; do
    systemctl reset-failed quern.service
    systemctl restart quern.service || echo "restart $i" >>/tmp/wrong
    quern status --wait >/dev/null
done
touch /tmp/stop
wait $load
check "ten restarts under load, no wrong answer" sh -c '! cat /tmp/wrong'
equal "… and the right one after them" "$(answer)" "$one"

# Stop, with a long request
long_request 3000
check "a stop does not wait for a long request" timeout 20 systemctl stop quern.service
equal "… ends cleanly" "$(property Result)" success
wait $client
equal "… its client is told" $? 69
check "… why" grep -q 'service is stopping' /tmp/long.err
configure 'drain-s = 25'
quern status --wait >/dev/null
long_request 100
check "with drain-s it does" systemctl stop quern.service
wait $client
equal "… the request came to its end" "$?/$(wc -w </tmp/long)" 0/100
configure 'drain-s = 1'
systemctl restart quern.service
long_request 3500
check "… but not for longer than that" timeout 20 systemctl stop quern.service
equal "… and ends cleanly" "$(property Result)" success
wait $client
equal "… its client is told" $? 69
configure 'exit-on-idle-s = 1'
quern status --wait >/dev/null
check "unused, it ends by itself" until_true '[ "$(property ActiveState)" = inactive ]'
equal "… cleanly" "$(property Result)" success
before=$(warm)
equal "and the socket starts it again" "$(answer)" "$one"
if [ "$pool" -ge 64 ]; then
    check "… with the weights kept" [ "$(warm)" -gt "$before" ]
fi
configure
systemctl restart quern.service
equal "in systemd's store again, the same answer" "$(answer)" "$one"

# A cgroup that is frozen for a while
long_request 100
systemctl freeze quern.service
sleep 1
check "frozen" [ "$(property FreezerState)" = frozen ]
systemctl thaw quern.service
wait $client
equal "thawed, the request goes on to its end" "$?/$(wc -w </tmp/long)" 0/100

# The system-call filter, with death in place of an error
override SystemCallErrorNumber=kill
systemctl restart quern.service
quern status --wait >/dev/null
first=$(property MainPID)
for verb in tokenize score; do check "$verb under the filter" quern $verb hello world; done
check "detokenize under the filter" quern detokenize 1 2 3
equal "generate under the filter" "$(answer)" "$one"
systemctl reload quern.service
sleep 0.5
quern ask --max-tokens 3 hello >/dev/null
equal "nothing was killed" "$(property MainPID)" "$first"
check "… at the end neither" systemctl restart quern.service
equal "no process was killed by SIGSYS" "$(journal -u quern.service | grep -c 'status=31/SYS')" 0
override

# The metrics page, by sockets that systemd opened, inside and outside of the sandbox
mkdir -p /etc/systemd/system/quern-metrics.socket.d
printf '[Socket]\nListenStream=127.0.0.1:9469\n' >/etc/systemd/system/quern-metrics.socket.d/port.conf
systemctl daemon-reload
systemctl stop quern.service
ip link set lo up 2>/dev/null
check "the metrics socket starts" systemctl start quern-metrics.socket
check "a scrape starts the service" python3 /usr/lib/quern-test/metrics.py /run/quern/metrics.sock --raw GET /metrics
check "… by the port, too" python3 /usr/lib/quern-test/metrics.py 127.0.0.1:9469 --raw GET /metrics
check "… with its figures" sh -c "python3 /usr/lib/quern-test/metrics.py 127.0.0.1:9469 --raw GET /metrics |
    grep -q '^quern_build_info'"
equal "… and it serves as before" "$(answer)" "$one"
systemctl stop quern-metrics.socket

# A second model, and a user's own service
printf '[service]\nmodel = /usr/share/quern/toy.gguf\nthreads = 1\n' >/etc/quern/two.conf
check "a second model" systemctl start quern@two.socket
check "… answers on its socket" env QUERN_SOCKET=/run/quern/two.sock quern generate --prompt a --max-tokens 3
systemctl stop quern@two.socket quern@two.service
if systemctl start user@0.service 2>/dev/null; then
    export XDG_RUNTIME_DIR=/run/user/0
    check "a user's socket" systemctl --user start quern.socket
    equal "… answers" "$(QUERN_SOCKET=/run/user/0/quern/quern.sock answer)" "$one"
    systemctl --user stop quern.socket quern.service
    unset XDG_RUNTIME_DIR
fi

# What goes wrong around it
configure '[memory]' 'huge-pages = require' 'kv-bytes = 2G' '[requests]' 'context = 64'
systemctl restart quern.service 2>/dev/null
check "without the pages that it requires it fails" until_true '[ "$(property ActiveState)" = failed ]'
check "… and says what is missing" sh -c "journalctl -u quern.service -o cat --no-pager | grep -i 'huge page'"
configure '[memory]' 'kv-bytes = 256M'
systemctl reset-failed quern.service quern.socket
systemctl start quern.socket
equal "with a pool that is too small it takes other pages" "$(answer)" "$one"
check "… and says so" until_true "journal -u quern.service | grep -q 'KV cache of .*: The pool of 2 MiB huge pages has .* of the 128 '"
systemctl stop quern.service
configure '[memory]' 'huge-pages = off'
systemctl reset-failed quern.service quern.socket
systemctl start quern.socket
equal "without huge pages it answers the same" "$(answer)" "$one"
configure
mount -t tmpfs -o size=512k full /run/log/journal && systemctl restart systemd-journald
head -c 1M /dev/zero >/run/log/journal/full 2>/dev/null
systemctl restart quern.service
equal "with a full journal, too" "$(answer)" "$one"
umount -l /run/log/journal && systemctl restart systemd-journald
systemctl stop quern.service
mount -o remount,ro / || find /proc/[0-9]*/fd -lname '/[a-ce-np-qs-z]*' -printf '%p %l\n'
check "the root is read-only" sh -c '! touch /usr/x 2>/dev/null'
equal "with a read-only root, too" "$(answer)" "$one"
mount -o remount,rw /
equal "no unit failed" "$(systemctl --failed --no-legend --plain | awk '{ print $1 }' | tr '\n' ' ')" ""
finish
