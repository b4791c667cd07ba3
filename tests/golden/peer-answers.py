#!/usr/bin/env python3
"""Our greedy answers against llama.cpp's, on the same file: `peer-answers.py MODEL PEER_LLAMA [REQUESTS...]`

Our answers come from the service on $QUERN_SOCKET, which must serve MODEL. llama.cpp (through a program that writes
raw logits: `PEER_LLAMA logits MODEL OUT ID...`) reads prompt and answer and must find each token of the answer the
likeliest; where it first does not, the two part. For each such place the margins are printed: by how much we prefer our
token to llama.cpp's, by how much llama.cpp prefers its own, and how far the two programs' logits are apart anyway (the
standard deviation over all tokens at that place). Both round activations to 8 bits, in different places.

REQUESTS are files of one request a line, or the .tsv files of held-out examples (asked as PROGRAM: REQUEST).
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "models", "train"))
from tokenizer import Tokenizer  # noqa: E402

BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))


def read_requests(path):
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    if path.endswith(".tsv"):
        return ["{}: {}".format(*line.split("\t")[:2]) for line in lines[1:]]
    return lines


def logits_of(command, out, vocabulary):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return np.fromfile(out, "<f4").reshape(-1, vocabulary)


def main():
    model, peer, *files = sys.argv[1:]
    tokenizer = Tokenizer()
    vocabulary = len(tokenizer.tokens)
    requests = [request for path in files for request in read_requests(path)]
    agreed = tokens = own = 0
    apart = []
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits")
        for request in requests:
            ask = [f"{BUILD}/quern", "ask", "--temperature", "0", "--max-tokens", "64", "--", request]
            answer = subprocess.run(ask, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
            head = tokenizer.prefix() + tokenizer.encode(request) + tokenizer.middle()
            said = tokenizer.encode(answer.removesuffix("\n"))
            ids = head + said + ([tokenizer.im_end] if len(said) < 64 else [])
            listed = [str(i) for i in ids]
            ours = logits_of([f"{BUILD}/quernd", "logits", "--model", model, "--tokens", ",".join(listed), "--out", out], out, vocabulary)
            theirs = logits_of([peer, "logits", model, out, *listed], out, vocabulary)
            places = range(len(head) - 1, len(ids) - 1)
            # An answer whose text is not tokenized as it was generated cannot be followed; count it.
            if any(ours[at].argmax() != ids[at + 1] for at in places):
                own += 1
                continue
            apart += [float(np.std(ours[at] - theirs[at])) for at in places]
            tokens += len(places)
            parted = next((at for at in places if theirs[at].argmax() != ids[at + 1]), None)
            if parted is None:
                agreed += 1
                continue
            a, b = ids[parted + 1], int(theirs[parted].argmax())
            print(f"parts after {tokenizer.decode(ids[len(head) : parted + 1])!r}: {request}")
            print(
                f"    ours {tokenizer.tokens[a]!r} by {ours[parted, a] - ours[parted, b]:.3f}, theirs {tokenizer.tokens[b]!r} by"
                f" {theirs[parted, b] - theirs[parted, a]:.3f}; logits here {np.std(ours[parted] - theirs[parted]):.3f} apart",
                flush=True,
            )
    print(f"{agreed} of {len(requests) - own} answers agree ({tokens} tokens; logits apart by {np.median(apart):.3f}, median)")
    if own:
        print(f"{own} answers are not tokenized as they were generated and were left out")


main()
