#!/usr/bin/env python3
"""Writes digests of token ids by an implementation of Qwen2's tokenizer from its definition alone.

Run:  python3 tests/tools/golden-corner.py >tests/golden/tokenizer/digests.tsv
      python3 tests/tools/golden-corner.py --texts 5   prints the texts of 5 corner blocks with their ids as
                                                       JSON lines, to compare with others

Slow and plain: unicodedata for NFC and for the classes (Unicode 14.0.0), Python's re for the pattern,
and merges by repeated search. Two kinds of text, each a digest per block:
  corner BLOCK: 1,000 texts of 1 to 12 random snippets (snippets.tsv);
  points BLOCK: code points, 1,024 to a block and all of them, alone, doubled, and before and after each neighbour.
tests/unit/corner_test.c makes the same texts with the same generator and compares.
"""
import json
import re
import struct
import sys
import unicodedata

VOCAB = "tests/golden/qwen2-vocab.bin"
SNIPPETS = "tests/golden/tokenizer/snippets.tsv"
NEIGHBOURS = ["a", "7", " ", "\t", "\n", "!", "'", "中", "\u0301"]
CORNER_BLOCKS, CORNER_TEXTS = 100, 1000
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def ranges(letter):
    """A character set, for a class of re, of all code points of a general category."""
    out, start = [], None
    for cp in range(0x110001):
        is_in = cp < 0x110000 and unicodedata.category(chr(cp))[0] == letter
        if is_in and start is None:
            start = cp
        elif not is_in and start is not None:
            out.append(f"\\U{start:08x}-\\U{cp - 1:08x}")
            start = None
    return "".join(out)


def pattern():
    L, N, S = ranges("L"), ranges("N"), SPACE
    return re.compile(f"'(?:[sS\u017ftTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
                      f"|[^\\r\\n{L}{N}]?[{L}]+|[{N}]| ?[^{S}{L}{N}]+[\\r\\n]*"
                      f"|[{S}]*[\\r\\n]+|[{S}]+(?![^{S}])|[{S}]+")


class Tokenizer:
    def __init__(self):
        data = open(VOCAB, "rb").read()
        n, = struct.unpack_from("<I", data, 8)
        own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        order = own + [b for b in range(256) if b not in own]
        self.byte = {b: i for i, b in enumerate(order)}
        self.ranks = {}
        for i in range(n):
            at = 16 + 6 * i
            pair = (int.from_bytes(data[at:at + 3], "little"),
                    int.from_bytes(data[at + 3:at + 6], "little"))
            self.ranks[pair] = i
        self.pattern = pattern()
        self.cache = {}

    def piece(self, piece):
        ids = self.cache.get(piece)
        if ids is None:
            ids = [self.byte[b] for b in piece.encode()]
            while len(ids) > 1:
                best = min((self.ranks.get((a, b), 1 << 30), i)
                           for i, (a, b) in enumerate(zip(ids, ids[1:])))
                if best[0] == 1 << 30:
                    break
                ids[best[1]:best[1] + 2] = [256 + best[0]]
            self.cache[piece] = ids
        return ids

    def encode(self, text):
        text = unicodedata.normalize("NFC", text)
        return [i for m in self.pattern.finditer(text) for i in self.piece(m.group())]


def unescape(text):
    return re.sub(r"\\(u\{(\w+)\}|.)",
                  lambda m: chr(int(m[2], 16)) if m[2] else {"n": "\n", "r": "\r", "t": "\t"}[m[1]],
                  text)


def corner_texts(block, snippets):
    seed = block

    def draw(n):
        nonlocal seed
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (seed >> 33) % n

    for _ in range(CORNER_TEXTS):
        yield "".join(snippets[draw(len(snippets))] for _ in range(1 + draw(12)))


def point_texts(block):
    for cp in range(1024 * block, 1024 * (block + 1)):
        if not 0xD800 <= cp <= 0xDFFF:
            c = chr(cp)
            yield c
            yield c + c
            for n in NEIGHBOURS:
                yield n + c
                yield c + n


def digest(tokenizer, texts):
    h = 0xCBF29CE484222325
    for text in texts:
        for i in tokenizer.encode(text):
            h = (h ^ i) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        h = (h ^ 0xFFFFFFFF) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def main():
    assert unicodedata.unidata_version == "14.0.0"
    snippets = [unescape(s) for s in open(SNIPPETS, encoding="utf8").read().split("\n")[:-1]]
    if sys.argv[1:2] == ["--texts"]:
        tokenizer = Tokenizer()
        for block in range(int(sys.argv[2])):
            for text in corner_texts(block, snippets):
                print(json.dumps([text, tokenizer.encode(text)]))
        return
    tokenizer = Tokenizer()
    for block in range(CORNER_BLOCKS):
        print(f"corner\t{block}\t{digest(tokenizer, corner_texts(block, snippets)):016x}")
    for block in range(0x110000 // 1024):
        tokenizer.cache.clear()
        print(f"points\t{block}\t{digest(tokenizer, point_texts(block)):016x}")


main()
