"""Activations rounded to 8 bits in blocks of 32 or of 256: what each costs in perplexity, by weight type.

`activation_blocks.py QUERND MODEL.gguf`: the weights are those of QUERND's own quantizer, read back exactly; all else is
float32. Scored are the answers of the held-out examples, asked as PROGRAM: REQUEST. A block of n activations is stored as
amax / 127 and n integers, as in docs/design.md.
"""

import math
import os
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F

import evaluate
from tokenizer import Tokenizer

TYPES = "f32 q8_0 q4_0 q2_k q3_k q4_k q5_k q6_k iq4_xs".split()
linear = F.linear


def rounded(x, block):
    blocks = x.reshape(-1, block)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    return ((blocks / scale.clamp_min(1e-30)).round() * scale).reshape(x.shape)


@torch.no_grad()
def nll(model, tokenizer, rows):
    total = count = 0
    weights = model.weights()
    for program, request, command in rows:
        head = tokenizer.prefix() + tokenizer.encode(f"{program}: {request}") + tokenizer.middle()
        ids = torch.tensor([head + tokenizer.encode(command) + [tokenizer.im_end]])
        hidden, _ = model.forward(ids[:, :-1], weights=weights)
        logits = model.logits(hidden[0, len(head) - 1 :], weights)
        total += F.cross_entropy(logits, ids[0, len(head) :], reduction="sum").item()
        count += logits.shape[0]
    return total / count


def main():
    quernd, path = sys.argv[1:]
    torch.set_num_threads(2)
    tokenizer = Tokenizer()
    rows = evaluate.read_tsv(os.path.join(evaluate.MODELS, "heldout-500.tsv"))
    print("| weights | float32 activations | blocks of 32 | blocks of 256 |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        original = os.path.join(folder, "f32.gguf")
        subprocess.run([quernd, "quantize", path, original, "f32"], check=True)
        for kind in TYPES:
            packed, exact = os.path.join(folder, "packed.gguf"), os.path.join(folder, "exact.gguf")
            subprocess.run([quernd, "quantize", original, packed, kind], check=True)
            subprocess.run([quernd, "quantize", packed, exact, "f32"], check=True)
            model, cells = evaluate.load(exact), []
            for block in (None, 32, 256):
                F.linear = (lambda x, w, b=None: linear(rounded(x, block), w, b)) if block else linear  # noqa: B023
                cells.append(math.exp(nll(model, tokenizer, rows)))
            print(f"| {kind.upper()} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
