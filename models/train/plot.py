"""The loss curve: `plot.py log.csv OUT.png`"""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

if __name__ == "__main__":
    with open(sys.argv[1], newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axis = plt.subplots(figsize=(7, 4), dpi=90)
    for column, label in (
        ("loss", "training (reworded, with dropout)"),
        ("watched", "300 unseen examples, request alone"),
        ("watched_named", "300 unseen examples, program named"),
    ):
        points = [(int(row["tokens"]) / 1e6, float(row[column])) for row in rows if row[column]]
        axis.plot(*zip(*points), label=label, linewidth=1.2)
    axis.set(xlabel="million tokens", ylabel="cross entropy of the answer, nats per token", ylim=(0, 6))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(sys.argv[2])
