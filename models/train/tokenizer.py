"""Qwen2's byte-level BPE, cut to its first merges (merges.txt).

A prefix of a merge list is itself a valid BPE, so the ids below the cut are Qwen2's own: 0-255 are the bytes in
GPT-2's order, each merge makes the next id. The three control tokens follow the last merge.
"""

import functools
import os
import unicodedata

import regex

HERE = os.path.dirname(os.path.abspath(__file__))

# The pre-tokenizer of Qwen2: digits one at a time, (?i:) on ASCII contractions only.
SPLIT = regex.compile(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SYSTEM = "You are a helpful assistant."  # the template's default; what `quern ask` sends too


def byte_alphabet():
    """GPT-2's printable stand-in for every byte, and the order in which bytes get ids 0-255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    symbols = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return symbols, printable + others


class Tokenizer:
    def __init__(self, path=os.path.join(HERE, "merges.txt")):
        with open(path, encoding="utf-8") as file:
            self.merges = file.read().splitlines()
        self.symbols, order = byte_alphabet()
        self.tokens = [self.symbols[b] for b in order]
        self.ranks = {}
        for rank, merge in enumerate(self.merges):
            left, right = merge.split(" ")
            self.ranks[left, right] = rank
            self.tokens.append(left + right)
        self.control = len(self.tokens)  # ids from here on are control tokens
        self.end_of_text, self.im_start, self.im_end = range(self.control, self.control + 3)
        self.tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.bytes_of = {symbol: byte for byte, symbol in self.symbols.items()}
        self.encode_word = functools.lru_cache(1 << 17)(self.encode_word)
        self.newline = self.encode("\n")

    def encode_word(self, word):
        parts = [self.symbols[b] for b in word.encode("utf-8")]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: self.ranks.get(pair, 1 << 30))
            if best not in self.ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return [self.ids[part] for part in parts]

    def encode(self, text):
        """Ids of plain text; a control token written out in it stays plain text."""
        text = unicodedata.normalize("NFC", text)
        return [i for word in SPLIT.findall(text) for i in self.encode_word(word)]

    def decode(self, ids):
        symbols = "".join(self.tokens[i] for i in ids if i < self.control)
        return bytes(self.bytes_of[s] for s in symbols).decode("utf-8", "replace")

    # The pieces of Qwen2's chat template: PREFIX request MIDDLE answer <|im_end|>.

    def prefix(self):
        return [
            *[self.im_start, *self.encode("system\n" + SYSTEM), self.im_end, *self.newline],
            *[self.im_start, *self.encode("user\n")],
        ]

    def middle(self):
        return [self.im_end, *self.newline, self.im_start, *self.encode("assistant\n")]

    def next_turn(self):
        """Between an answer's <|im_end|> and the next request of the same chat."""
        return [*self.newline, self.im_start, *self.encode("user\n")]
