"""Fetches a metrics page and checks it as OpenMetrics with the parser of prometheus_client, and the older
format with that one's. Prints each sample of the first: name{label=value,...} value.
    metrics.py PATH|HOST:PORT [--raw METHOD URL]   (--raw prints status and body)"""
import http.client
import socket
import sys


def fetch(where, accept, method="GET", url="/metrics"):
    connection = http.client.HTTPConnection("localhost" if where[0] == "/" else where, timeout=30)
    if where[0] == "/":
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(where)
    connection.request(method, url, headers={"Accept": accept})
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type"), answer.read().decode()


where = sys.argv[1]
if len(sys.argv) > 2:
    status, kind, body = fetch(where, "*/*", sys.argv[3], sys.argv[4])
    print(status, body, end="")
    sys.exit(0)
status, kind, text = fetch(where, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
assert status == 200 and kind.startswith("application/openmetrics-text"), (status, kind)
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as prometheus

samples = 0
for family in openmetrics.text_string_to_metric_families(text):
    assert family.documentation, family.name
    for s in family.samples:
        samples += 1
        print("%s{%s} %g" % (s.name, ",".join("%s=%s" % l for l in sorted(s.labels.items())), s.value))
status, kind, text = fetch(where, "text/plain")
assert status == 200 and kind.startswith("text/plain; version=0.0.4"), (status, kind)
old = sum(len(f.samples) for f in prometheus.text_string_to_metric_families(text))
assert old == samples, (old, samples)
