#!/bin/sh
# A model of Qwen2-7B's shape (an empty file: its weights are a hole) that may have half the memory that
# it needs: refused with the numbers of each part, before a byte of weights is read or memory for them
# is taken.
set -u
. tests/support/service.sh
command -v python3 >/dev/null || {
    echo "python3 is not installed"
    exit 77
}
case $BUILD in
*san)
    echo "a sanitizer takes memory of its own"
    exit 77
    ;;
esac
"$BUILD/tests/tools/make-model" --shape 7b --mix q4_k_m --empty "$work/7b.gguf" || exit 1

# refused LIMIT [OPTION…]: its exit code, MiB read, MiB of memory at most, and then the sentence
refused() {
    python3 - "$BUILD/quernd" --model "$work/7b.gguf" --socket "$work/sock" --context 2048 --image off \
        --store off --memory-limit "$@" <<'END'
import os, subprocess, sys
service = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)
os.waitid(os.P_PID, service.pid, os.WEXITED | os.WNOWAIT)
with open(f"/proc/{service.pid}/io") as io:
    counts = dict(line.split(": ") for line in io)
read = max(int(counts["rchar"]), int(counts["read_bytes"]))
_, status, usage = os.wait4(service.pid, 0)
print(os.waitstatus_to_exitcode(status), read >> 20, usage.ru_maxrss >> 10)
print(service.stderr.read(), end="")
END
}

for pages in off prefer; do
    refused 2500M --huge-pages $pages >"$work/refused"
    read -r code read_mib memory_mib <"$work/refused"
    sed -n 2p "$work/refused"
    equal "7B with half its memory is refused ($pages)" "$code" 71
    equal "… in one sentence" "$(wc -l <"$work/refused")" 2
    check "… that has the number of each part" grep -Eq \
        'needs 4\.[0-9]+ GiB \(weights 4\.3[0-9], KV of [0-9]+ positions 0\.[0-9]+, scratch 0\.[0-9]+\) and 2\.44 GiB are allowed' \
        "$work/refused"
    check "… with $read_mib MiB read" [ "$read_mib" -le 16 ]
    check "… and $memory_mib MiB of memory taken" [ "$memory_mib" -le 128 ]
done
finish
