#!/bin/sh
# The metrics page: valid OpenMetrics and Prometheus text, figures that are those of what was asked,
# on a Unix socket and a loopback port; bad requests, and that a scrape wakes no thread of an idle
# service but its own.
set -u
. tests/support/service.sh
quern=$BUILD/quern
# Debian's own: another python3 in the PATH does not see its packages.
python=/usr/bin/python3
[ -x "$python" ] || python=python3
"$python" -c 'import prometheus_client.openmetrics.parser' 2>/dev/null || {
    echo "python3-prometheus-client is not installed"
    exit 77
}
page() {
    "$python" tests/tools/metrics.py "$work/metrics" >"$work/page"
}
sample() { # of the last page
    awk -v name="$1" 'index($0, name " ") == 1 { print $NF; exit }' "$work/page"
}

"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 \
    --vocab tests/golden/qwen2-vocab.bin "$work/toy.gguf" || exit 1
fails "an address of the network" 71 "$BUILD/quernd" --model "$work/toy.gguf" --metrics 0.0.0.0:9469
fails "no port" 71 "$BUILD/quernd" --model "$work/toy.gguf" --metrics 127.0.0.1:x
service_start "$work/toy.gguf" --threads 1 --metrics "$work/metrics"
toy='random tiny, seed 3'
"$quern" generate --prompt "The mill" --max-tokens 5 --temperature 0 >/dev/null
"$quern" generate --prompt "" >/dev/null 2>&1
check "the page is valid" page
equal "generated tokens" "$(sample "quern_tokens_total{kind=generated,model=$toy}")" 5
equal "prompt tokens" "$(sample "quern_tokens_total{kind=prompt,model=$toy}")" 2
equal "time to first token" "$(sample "quern_time_to_first_token_seconds_count{model=$toy}")" 1
equal "… its last bucket" \
    "$(sample "quern_time_to_first_token_seconds_bucket{le=+Inf,model=$toy}")" 1
equal "token gaps" "$(sample "quern_token_gap_seconds_count{model=$toy}")" 4
equal "failed requests" "$(sample "quern_requests_total{model=$toy,outcome=failed}")" 1
equal "nobody is connected" "$(sample "quern_clients{}")" 0
check "ring records are counted" [ "$(sample "quern_ring_records_total{direction=in}")" -ge 2 ]
check "KV pages are there" [ "$(sample "quern_kv_pages{model=$toy,state=free}")" -gt 0 ]
for n in quern_build_info quern_uptime_seconds quern_refusals_total quern_step_seconds_sum \
    quern_weights_bytes quern_memory_available_bytes process_resident_memory_bytes; do
    check "$n is there" grep -q "^$n{" "$work/page"
done
# jemalloc counts the heap; a sanitizer stands in its place and does not.
ldd "$BUILD/quernd" | grep -q jemalloc && uncounted='^$' || uncounted='^quern_heap_'
for n in $(grep -o 'quern_[a-z][a-z_]*\|process_[a-z_]*' docs/admin.md 2>/dev/null | sort -u |
    grep -v "$uncounted"); do
    check "the documented $n is there" grep -q "^$n\(_total\|_bucket\)\?{" "$work/page"
done
for n in $(sed -n 's/^\([a-z_]*\){.*/\1/p' "$work/page" |
    sed 's/_\(total\|bucket\|sum\|count\|created\)$//' | sort -u); do
    check "$n is documented" grep -q "\`$n\`" docs/admin.md
done
for n in $(grep -o 'quern_[a-z_]*' systemd/grafana-dashboard.json | sort -u |
    grep -v "$uncounted"); do
    check "the dashboard's $n is there" grep -q "^$n{" "$work/page"
done
equal "another page" "$("$python" tests/tools/metrics.py "$work/metrics" --raw GET /)" "404 The page is /metrics."
equal "another method" "$("$python" tests/tools/metrics.py "$work/metrics" --raw POST /metrics)" "405 Only GET."
check "nonsense is no harm" "$python" -c "
import socket
s = socket.socket(socket.AF_UNIX)
s.connect('$work/metrics')
s.sendall(b'\x00\xff' * 5000)"

# The step loop's thread does not run for a scrape
sleep 3
switches() {
    awk '/ctxt_switches/ { n += $2 } END { print n }' "/proc/$service/task/$service/status"
}
before=$(switches)
check "ten scrapes" sh -c "for i in 1 2 3 4 5; do $python tests/tools/metrics.py '$work/metrics' || exit; done"
equal "the main thread slept through them" "$(switches)" "$before"
service_stop
check "the socket is removed" [ ! -e "$work/metrics" ]

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
service_start "$work/toy.gguf" --threads 1 --metrics "127.0.0.1:$port"
check "on a port of the loopback device" "$python" tests/tools/metrics.py "127.0.0.1:$port"
finish
