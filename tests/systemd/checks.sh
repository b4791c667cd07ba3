# Sourced by what runs under the test's systemd.
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
    systemctl show -P "$1" "${2:-quern.service}"
}
until_true() {
    tries=0
    until eval "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || return 1
        sleep 0.1
    done
}
journal() {
    journalctl --sync
    journalctl -b --no-pager -o cat "$@"
}
answer() {
    quern generate --prompt "list files" --max-tokens 8 --temperature 0 --output ids
}
# Says how it went and ends.
finish() {
    [ "$failures" = 0 ] || journalctl -b --no-pager -u 'quern*' -n 80
    echo "$failures failures"
    [ "$failures" = 0 ]
    exit
}
