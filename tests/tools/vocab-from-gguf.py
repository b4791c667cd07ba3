#!/usr/bin/env python3
"""Writes the compact form of a byte-level vocabulary in which every merge makes the next id.

Run:  zcat qwen2-vocab.gguf.gz >/tmp/v.gguf
      python3 tests/tools/vocab-from-gguf.py /tmp/v.gguf tests/golden/qwen2-vocab.bin

The file (little endian): "QVOC0001"; u32 number of merges; u32 number of special tokens; for each
merge the ids of its two parts, three bytes each; for each special token u16 length and its text.
Ids 0 to 255 are the bytes in GPT-2's order, merge i makes id 256 + i, special tokens follow.
tests/support/vocab.h reads it.
"""
import struct
import sys

SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def string(self):
        n = self.number("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner = self.number("I")
            return [self.value(inner) for _ in range(self.number("Q"))]
        return self.number(SIZES[kind])


def main():
    reader = Reader(open(sys.argv[1], "rb").read())
    assert reader.number("I") == 0x46554747, "no GGUF file"
    reader.number("I"), reader.number("Q")
    keys = {}
    for _ in range(reader.number("Q")):
        name = reader.string().decode()
        keys[name] = reader.value(reader.number("I"))
    tokens, merges = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.merges"]
    types = keys["tokenizer.ggml.token_type"]
    ids = {t: i for i, t in reversed(list(enumerate(tokens)))}
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    codes = [chr(b) for b in own] + [chr(0x100 + i) for i in range(256 - len(own))]
    assert [c.encode() for c in codes] == tokens[:256], "the bytes are in another order"
    out = [b""]
    for i, merge in enumerate(merges):
        left, right = merge.split(b" ")
        assert tokens[256 + i] == left + right, f"merge {i} does not make id {256 + i}"
        out.append(struct.pack("<I", ids[left])[:3] + struct.pack("<I", ids[right])[:3])
    special = []
    for i in range(256 + len(merges), len(tokens)):
        if types[i] != 3:
            break
        special.append(struct.pack("<H", len(tokens[i])) + tokens[i])
    out[0] = b"QVOC0001" + struct.pack("<II", len(merges), len(special))
    open(sys.argv[2], "wb").write(b"".join(out + special))


main()
