#!/usr/bin/env python3
"""Draws what tests/bench/serve.sh printed, and the memory curve of tests/stress/thousands_test.

  serve_picture.py many RESULTS OUT.png     throughput and token gap against the number of clients
  serve_picture.py memory CURVE OUT.png     resident memory against time and requests
"""
import re
import sys
from statistics import median

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def many(path, out):
    rate = {"ours": {}, "peer": {}}
    gaps = {}
    for line in open(path):
        m = re.match(r"(ours|peer) (\d+):", line)
        if not m:
            continue
        who, n = m.group(1), int(m.group(2))
        r = re.search(r"decode_tps ([\d.]+)" if who == "ours" else r"tg\d+ x\d+ ([\d.]+)", line)
        rate[who].setdefault(n, []).append(float(r.group(1)))
        if who == "ours":
            gaps.setdefault(n, []).append([float(x) for x in re.findall(r"gap_p\d+_ms ([\d.]+)", line)])
    fig, (a, b) = plt.subplots(1, 2, figsize=(9, 3.6))
    for who, name in (("ours", "quernd, through the ring, sampled"), ("peer", "llama.cpp's batch, not sampled")):
        xs = sorted(rate[who])
        a.plot(xs, [median(rate[who][x]) for x in xs], "o-", label=name)
    xs = sorted(gaps)
    b.plot(xs, [median(g[0] for g in gaps[x]) for x in xs], "o-", label="quernd, p50")
    b.plot(xs, [median(g[1] for g in gaps[x]) for x in xs], "o--", label="quernd, p99")
    xs = sorted(rate["peer"])
    b.plot(xs, [1000 * x / median(rate["peer"][x]) for x in xs], "o-", label="llama.cpp, mean of a step")
    a.set_ylabel("tokens a second, together")
    b.set_ylabel("ms from token to token")
    for p in (a, b):
        p.set_xlabel("clients")
        p.set_ylim(bottom=0)
        p.grid(alpha=0.3)
        p.legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(out, dpi=80)


def memory(path, out):
    rows = [[float(x) for x in line.split()] for line in open(path) if line.strip()]
    fig, a = plt.subplots(figsize=(8, 3.4))
    minutes = [r[0] / 60 for r in rows]
    a.plot(minutes, [r[2] / 1024 for r in rows], label="MiB resident")
    a.set_ylim(bottom=0)
    a.set_xlabel("minutes")
    a.set_ylabel("MiB resident")
    b = a.twinx()
    b.plot(minutes, [r[1] / 1000 for r in rows], "C1", label="requests")
    b.set_ylabel("thousand requests ended")
    b.set_ylim(bottom=0)
    a.grid(alpha=0.3)
    fig.legend(loc="lower right", bbox_to_anchor=(0.85, 0.2))
    fig.tight_layout()
    fig.savefig(out, dpi=80)


{"many": many, "memory": memory}[sys.argv[1]](*sys.argv[2:4])
