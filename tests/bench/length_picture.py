#!/usr/bin/env python3
"""Draws prefill and decode over length, ours and llama.cpp's, from tests/bench/length.sh.

  length_picture.py RESULTS OUT.png
RESULTS has lines "prefill|decode LENGTH OURS PEER", tokens a second.
"""
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def main(results, out):
    points = {"prefill": [], "decode": []}
    for line in open(results):
        kind, length, ours, peer = line.split()
        points[kind].append((int(length), float(ours), float(peer)))
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, kind, of in zip(axes, points, ("tokens of the prompt", "tokens that stand before")):
        rows = sorted(points[kind])
        axis.plot([r[0] for r in rows], [r[1] for r in rows], "o-", label="quernd")
        axis.plot([r[0] for r in rows], [r[2] for r in rows], "s--", label="llama.cpp")
        axis.set(title=kind, xlabel=of, ylabel="tokens a second")
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    fig.tight_layout()
    fig.savefig(out, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
