#!/bin/sh
# A client in another mount, pid and user namespace: it has nothing of this machine but the
# programs and the bind-mounted folder of the socket, and works. What uid the service sees, and that
# it notices the end of a client whose pid it cannot name, is looked at too. The other way round:
# a service in a user namespace of its own refuses users that it cannot name.
cd "$(dirname "$0")/../.." || exit 1
. tests/support/service.sh

if ! unshare --user --map-root-user --mount --pid --fork --kill-child true 2>/dev/null; then
    echo "this machine lets no one make user namespaces"
    exit 77
fi
"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 "$work/toy.gguf" >/dev/null || exit 1
mkdir "$work/run"
chmod 755 "$work" "$work/run"
export QUERN_SOCKET="$work/run/quern.sock"
service_start "$work/toy.gguf" --context 65536 --threads 1 -v -v

# What the test made is hidden in the container, and /mnt has the folder of the socket alone, as a
# volume has it.
cat >"$work/enter" <<'END'
work=$1
shift
mount --bind "$work/run" /mnt && mount -t tmpfs none "$work" || exit 99
exec "$@"
END
namespaces='--user --map-root-user --mount --pid --fork --kill-child --mount-proc'
in_container() {
    unshare $namespaces sh "$work/enter" "$work" "$@"
}

"$BUILD/quern" generate --tokens 5,6,7 --max-tokens 20 --temperature 0 --output ids >"$work/outside" || exit 1
in_container "$BUILD/quern" --socket /mnt/quern.sock generate --tokens 5,6,7 --max-tokens 20 \
    --temperature 0 --output ids >"$work/inside" 2>"$work/inside.err"
rc=$?
[ $rc = 0 ] || cat "$work/inside.err"
equal "a client in mount, pid and user namespaces is served" "$rc" 0
equal "with the same bytes" "$(cat "$work/inside")" "$(cat "$work/outside")"
equal "inside, its uid is 0 and its pid is small" "$(in_container sh -c 'test $$ -lt 10 && id -u')" 0
equal "outside, the service saw the uid that it has here, and no other" \
    "$(sed -n 's/.* connected (\(uid [0-9]*\),.*/\1/p' "$work/log" | sort -u)" "uid $(id -u)"

# It is killed in the middle of an answer: the service must notice, with nothing but the kernel's word.
wait_for() { # KEY VALUE
    tries=0
    until "$BUILD/quern" status | grep -q "^$1[=: ]*$2\$" || [ $tries -gt 200 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    "$BUILD/quern" status | sed -n "s/^$1[=: ]*//p"
}
unshare $namespaces sh "$work/enter" "$work" "$BUILD/quern" --socket /mnt/quern.sock \
    generate --tokens 5 --max-tokens 60000 >/dev/null 2>&1 &
container=$!
equal "a client in a container is at work" "$(wait_for running 1)" 1
kill -KILL $container 2>/dev/null
wait $container 2>/dev/null
equal "killed, it leaves nothing running" "$(wait_for running 0)" 0
equal "and no client behind" "$(wait_for clients 1)" 1
service_stop

# A service that knows one user, and a client that is another: seen as 65534 and told so.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    unshare --user --map-root-user "$BUILD/quernd" --model "$work/toy.gguf" --socket "$QUERN_SOCKET" \
        --context 256 --threads 1 2>"$work/log" &
    service=$!
    tries=0
    until "$BUILD/quern" status --wait >/dev/null 2>&1 || [ $tries -gt 300 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    check "a service in a user namespace serves the user that it knows" "$BUILD/quern" status
    chmod 666 "$QUERN_SOCKET"
    cp "$BUILD/quern" "$work/quern-copy" && chmod 755 "$work/quern-copy"
    setpriv --reuid 12345 --regid 12345 --clear-groups "$work/quern-copy" --socket "$QUERN_SOCKET" \
        status >"$work/out" 2>"$work/err"
    rc=$?
    equal "and refuses one that it does not" "$([ $rc != 0 ] && grep -c 65534 "$work/err")" 1
fi
finish
