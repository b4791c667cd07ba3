#!/usr/bin/env python3
"""Writes golden lines of normalization form C from Python's unicodedata (Unicode 14.0.0).

Run:  python3 tests/tools/golden-nfc.py >tests/golden/nfc.tsv

Each line: code points, tab, code points of the normalized text, in hexadecimal. First every code
point that changes alone, then random sequences from ranges where composition happens.
"""
import random
import unicodedata


def line(text):
    return "\t".join(" ".join(f"{ord(c):x}" for c in t)
                     for t in (text, unicodedata.normalize("NFC", text)))


def main():
    assert unicodedata.unidata_version == "14.0.0"
    random.seed(1)
    every = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    pools = [
        [c for c in every if unicodedata.combining(chr(c)) or unicodedata.decomposition(chr(c))],
        [*range(0x1100, 0x1200), *range(0xAC00, 0xAC80)],
        [*range(0x980, 0xA00), *range(0xB80, 0xC00), *range(0xD80, 0xE00), *range(0x1000, 0x1050)],
        [*range(0x41, 0x7B), *range(0xC0, 0x250), *range(0x300, 0x370), *range(0x1E00, 0x2000)],
        [*range(0x11080, 0x111D0), *range(0x1D150, 0x1D1C0), 0x340, 0x341, 0x343, 0x344],
    ]
    for c in every:
        if unicodedata.normalize("NFC", chr(c)) != chr(c):
            print(line(chr(c)))
    for pool in pools:
        for _ in range(500):
            text = "".join(chr(random.choice(pool)) for _ in range(random.randint(2, 7)))
            print(line(unicodedata.normalize("NFD", text) if random.random() < 0.3 else text))


main()
