#!/bin/sh
# Runs under the test's systemd, as a unit: what quern.socket and quern.service promise.
cd /
failures=0
check() {
    name=$1
    shift
    if "$@" >/tmp/out 2>&1; then
        echo "ok    $name"
    else
        echo "FAIL  $name"
        sed 's/^/      /' /tmp/out
        failures=$((failures + 1))
    fi
}
equal() {
    check "$1 ($2)" [ "$2" = "$3" ]
}
property() {
    systemctl show -P "$1" quern.service
}
until_true() {
    tries=0
    until eval "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || return 1
        sleep 0.1
    done
}

echo "# $(systemctl --version | head -n 1)"
verify=$(systemd-analyze verify --man=no quern.service quern.socket 2>&1 | grep -v 'quern-test')
equal "systemd-analyze verify is silent" "$verify" ""
check "the socket starts" systemctl start quern.socket
equal "the service waits for a client" "$(property ActiveState)" inactive
check "the first connect starts it" quern status --wait
equal "it is ready" "$(property ActiveState)/$(property SubState)" active/running
if [ "$failures" != 0 ]; then
    journalctl -b --no-pager -o cat -u quern.service -u quern.socket -n 60
    echo "$failures failures, the rest not tried"
    exit 1
fi
check "it answers" quern generate --prompt "list files" --max-tokens 8 --temperature 0
one=$(quern generate --prompt "list files" --max-tokens 8 --temperature 0 --output ids)
check "it runs without capabilities" grep -qx 'CapBnd:.0000000000000000' "/proc/$(property MainPID)/status"
check "it runs under seccomp" grep -qx 'Seccomp:.2' "/proc/$(property MainPID)/status"
check "it does not run as root" sh -c "! grep -q '^Uid:.0' /proc/$(property MainPID)/status"
check "the journal has its start" sh -c "journalctl -u quern.service -o cat --no-pager | grep -q ."
check "the journal has no prompt" sh -c "! journalctl -u quern.service --no-pager | grep -q 'list files'"

first=$(property MainPID)
kill -KILL "$first"
check "a killed service is started again" until_true \
    '[ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != '"$first"' ]'
equal "… and gives the same answer" \
    "$(quern generate --prompt "list files" --max-tokens 8 --temperature 0 --output ids)" "$one"
check "it restarts" systemctl restart quern.service
check "it stops" systemctl stop quern.service
equal "it ended cleanly" "$(property Result)" success
check "the socket starts it again" quern status --wait
equal "… with the same answer" \
    "$(quern generate --prompt "list files" --max-tokens 8 --temperature 0 --output ids)" "$one"
equal "no unit failed" "$(systemctl --failed --no-legend --plain | awk '{ print $1 }' | tr '\n' ' ')" ""
echo "# security: $(systemd-analyze security quern.service 2>/dev/null | tail -n 1)"
[ "$failures" = 0 ] || journalctl -b --no-pager -u quern.service -u quern.socket -n 60
echo "$failures failures"
[ "$failures" = 0 ]
