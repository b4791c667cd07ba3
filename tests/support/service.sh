# Sourced by the tests of the shell tool: a quernd of its own on a socket of its own.
#   service_start MODEL [OPTION...]   starts it and waits until it answers; QUERN_SOCKET is set
#   service_launch OPTION...          the same without a model on the command line
#   service_stop                      ends it with SIGTERM and checks that it exits with 0
#   check NAME COMMAND...             runs the command; prints ok or FAIL with its output
#   skip_preload_with_sanitizer       ends the script with 77 where a library cannot be preloaded
#   fails NAME CODE COMMAND...        the same, and it must exit with CODE and say one line
# Ends the script with the number of failures through `finish`.
BUILD=${BUILD:-build}
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
service=
failures=0
export QUERN_SOCKET="$work/quern.sock"

cleanup() {
    [ -z "$service" ] || kill -KILL "$service" 2>/dev/null || :
    rm -rf "$work"
}
trap cleanup EXIT

skip_preload_with_sanitizer() {
    case $BUILD in
    *san)
        echo "a preloaded library comes before the sanitizer's"
        exit 77
        ;;
    esac
}

service_start() {
    model=$1
    shift
    service_launch --model "$model" "$@"
}

service_launch() {
    "$BUILD/quernd" --socket "$QUERN_SOCKET" "$@" 2>>"$work/log" &
    service=$!
    tries=0
    until "$BUILD/quern" status --wait >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 "$service" 2>/dev/null; then
            echo "the service did not start:"
            cat "$work/log"
            exit 1
        fi
        sleep 0.1
    done
}

service_stop() {
    kill -TERM "$service"
    rc=0
    wait "$service" || rc=$?
    service=
    [ "$rc" = 0 ] && return 0
    echo "FAIL  the service ended with $rc"
    cat "$work/log"
    failures=$((failures + 1))
}

check() {
    name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok    $name"
    else
        echo "FAIL  $name"
        sed 's/^/      /' "$work/out"
        failures=$((failures + 1))
    fi
}

fails() {
    name=$1 want=$2
    shift 2
    rc=0
    "$@" >"$work/out" 2>"$work/err" </dev/null || rc=$?
    if [ "$rc" = "$want" ] && [ "$(wc -l <"$work/err")" = 1 ]; then
        echo "ok    $name: $(cat "$work/err")"
    else
        echo "FAIL  $name: exit $rc, not $want"
        sed 's/^/      /' "$work/out" "$work/err"
        failures=$((failures + 1))
    fi
}

equal() {
    if [ "$2" = "$3" ]; then
        echo "ok    $1"
    else
        printf 'FAIL  %s\n      got  %s\n      want %s\n' "$1" "$2" "$3"
        failures=$((failures + 1))
    fi
}

finish() {
    [ -z "$service" ] || service_stop
    [ "$failures" = 0 ]
    exit
}
