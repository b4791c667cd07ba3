#!/bin/sh
# Runs under the test's systemd, as a unit: install, upgrade under load, remove, purge.
cd /
. /usr/lib/quern-test/checks.sh
version=$(cat /debs/version)
apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends -o Dpkg::Use-Pty=0 \
        -o APT::Sandbox::User=root "$@"
}
field() {
    quern status | sed -n "s/^$1  *//p"
}

free=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages)
check "install" apt install /debs/first/libquern0_*.deb /debs/first/libquern-dev_*.deb /debs/first/quern_*.deb
equal "the socket listens" "$(property ActiveState quern.socket)/$(property UnitFileState quern.socket)" active/enabled
equal "the service waits for a client" "$(property ActiveState)" inactive
check "the service has a user of its own" getent passwd quern
check "the first connect starts it" quern status --wait
equal "… the version that was installed" "$(field version)" "$version"
one=$(answer)
check "it answers" [ -n "$one" ]
score=$(systemd-analyze security quern.service 2>/dev/null | sed -n 's/.*level for quern.service: \([0-9.]*\).*/\1/p')
check "it is confined (security $score)" awk "BEGIN { exit !($score <= 2.0) }"
equal "systemd-analyze verify is silent" "$(systemd-analyze verify --man=no quern.service quern.socket \
    quern-hugepages.service quern-metrics.socket 2>&1 | grep quern | grep -v quern-test)" ""
for page in 'quern.1' 'quernd.8' 'quern.conf.5' 'quern_close.3' 'quern-protocol.7'; do
    check "man page $page" man -w "${page##*.}" "${page%.*}"
done
check "a program builds with libquern-dev" sh -c \
    'cc /debs/ten_lines.c $(pkg-config --cflags --libs quern) -o /tmp/ten_lines'
check "… and asks" sh -c '/tmp/ten_lines | grep -q .'

# The administrator's settings and model (the shipped one is a new file after an upgrade, which no
# kept weights belong to), and a client that does not stop asking
cp /usr/share/quern/quern-tldr.gguf /var/lib/quern/models/mine.gguf
printf '[service]\nverbose = 1\nmodel = /var/lib/quern/models/mine.gguf\n' \
    >/etc/quern/quern.conf.d/50-test.conf
sed -i 's/^#token-gap-ms = .*/token-gap-ms = 77/' /etc/quern/quern.conf
systemctl restart quern.service
check "settings are taken" until_true '[ "$(field token_gap_ms)" = 77 ]'
warm() {
    journal -u quern.service | grep -c 'Weights kept from the process before' || :
}
before=$(warm) first=$(property MainPID) listens=$(property ActiveEnterTimestampMonotonic quern.socket)
rm -f /tmp/stop /tmp/wrong
: >/tmp/answers
(
    until [ -e /tmp/stop ]; do
        got=$(answer 2>/dev/null)
        rc=$?
        [ $rc = 69 ] || [ "$rc/$got" = "0/$one" ] || echo "$rc $got" >>/tmp/wrong
        echo $rc >>/tmp/answers
    done
) &
load=$!
until_true '[ "$(wc -l </tmp/answers)" -gt 3 ]'
check "upgrade under load" apt install /debs/second/libquern0_*.deb /debs/second/libquern-dev_*.deb \
    /debs/second/quern_*.deb
check "… which restarts the service" [ "$(property MainPID)" != "$first" ]
equal "… and leaves the socket as it is" "$(property ActiveEnterTimestampMonotonic quern.socket)" "$listens"
quern status --wait >/dev/null
lines=$(wc -l </tmp/answers)
until_true '[ "$(wc -l </tmp/answers)" -gt '$((lines + 3))' ]'
touch /tmp/stop
wait $load
check "… no wrong answer" sh -c '! cat /tmp/wrong'
equal "… the clients are served again" "$(tail -n 1 /tmp/answers)" 0
equal "… by the new version" "$(field version)" 99.0
if [ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)" -ge 64 ]; then
    check "… which took the weights over" [ "$(warm)" -gt "$before" ]
fi
equal "… with the settings kept" "$(field token_gap_ms)" 77
equal "… and the same answers" "$(answer)" "$one"

printf '[service]\nmodel = /var/lib/quern/models/mine.gguf\nverbose = 1\nexit-on-idle-s = 1\n' \
    >/etc/quern/quern.conf.d/50-test.conf
systemctl restart quern.service
check "unused, it ends by itself" until_true '[ "$(property ActiveState)" = inactive ]'
before=$(warm)
equal "… and answers the same when it is asked" "$(answer)" "$one"
if [ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)" -ge 64 ]; then
    check "… with the weights kept" [ "$(warm)" -gt "$before" ]
fi

check "remove" apt remove quern
check "… no service is left" sh -c '! systemctl is-active -q quern.service quern.socket'
check "… no program and no unit" sh -c '! ls /usr/sbin/quernd /lib/systemd/system/quern.service'
equal "… the settings stay" "$(grep -c '^token-gap-ms = 77' /etc/quern/quern.conf)" 1
equal "… and the huge pages are free again" \
    "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages)" "$free"
check "purge" apt purge quern libquern0 libquern-dev
check "… no settings, no cache" sh -c '! ls -d /etc/quern /etc/default/quern /var/cache/quern'
check "… models that somebody fetched stay" test -e /var/lib/quern/models/mine.gguf
check "install again" apt install /debs/second/quern_*.deb
equal "… answers the same" "$(answer)" "$one"
check "and remove" apt purge quern
equal "no unit failed" "$(systemctl --failed --no-legend --plain | awk '{ print $1 }' | tr '\n' ' ')" ""
finish
