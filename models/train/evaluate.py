"""Greedy answers of a GGUF file, in float32: `evaluate.py MODEL.gguf [--requests FILE] [--json OUT] [REQUEST...]`

Without requests: the held-out table. A command counts as right only if it equals tldr's byte for byte, so most
"wrong" answers of the right program are a different option or placeholder name.
"""

import argparse
import json
import os

import torch

import data
import gguf
from model import Config, Qwen2
from tokenizer import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.dirname(HERE)


def load(path):
    metadata, tensors = gguf.read(path)
    config = Config(
        vocab=len(metadata["tokenizer.ggml.tokens"]),
        width=metadata["qwen2.embedding_length"],
        layers=metadata["qwen2.block_count"],
        heads=metadata["qwen2.attention.head_count"],
        kv_heads=metadata["qwen2.attention.head_count_kv"],
        ff=metadata["qwen2.feed_forward_length"],
        context=metadata["qwen2.context_length"],
        rope_base=metadata["qwen2.rope.freq_base"],
        eps=metadata["qwen2.attention.layer_norm_rms_epsilon"],
    )
    return Qwen2(config, {name: torch.from_numpy(array) for name, array in tensors.items()})


@torch.no_grad()
def answer_ids(model, tokenizer, prompts, limit):
    """Greedy continuations of prompts of one length, up to <|im_end|>."""
    weights = model.weights()
    hidden, cache = model.forward(torch.tensor(prompts), weights=weights)
    answers = [[] for _ in prompts]
    live = set(range(len(prompts)))
    for _ in range(limit):
        best = model.logits(hidden[:, -1], weights).argmax(-1)
        for row in list(live):
            if best[row] == tokenizer.im_end:
                live.remove(row)
            else:
                answers[row].append(int(best[row]))
        if not live:
            break
        hidden, cache = model.forward(best[:, None], cache, weights=weights)
    return answers


def answers(model, tokenizer, requests, limit=96):
    """Requests of one length share a batch, so that nothing is padded."""
    prompts = [tokenizer.prefix() + tokenizer.encode(request) + tokenizer.middle() for request in requests]
    by_length = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    out = [None] * len(requests)
    for places in by_length.values():
        for i, ids in zip(places, answer_ids(model, tokenizer, [prompts[i] for i in places], limit)):
            out[i] = tokenizer.decode(ids)
    return out


def score(got, wanted):
    """-> share of first words right, share of whole commands equal"""
    first = sum(g.split(" ")[0] == w.split(" ")[0] for g, w in zip(got, wanted))
    whole = sum(g == w for g, w in zip(got, wanted))
    return first / len(wanted), whole / len(wanted)


def read_tsv(path):
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file.read().splitlines()[1:]]


def table(model, tokenizer):
    report, log = {}, []
    for name, file in (("500 examples", "heldout-500.tsv"), ("130 pages", "heldout-pages.tsv")):
        rows = read_tsv(os.path.join(MODELS, file))
        wanted = [command for _, _, command in rows]
        for form in ("{r}", "{p}: {r}"):
            requests = [form.format(p=program, r=request) for program, request, _ in rows]
            got = answers(model, tokenizer, requests)
            first, whole = score(got, wanted)
            shown = form.format(p="PROGRAM", r="REQUEST")
            report[f"{name}, asked as {shown}"] = {"examples": len(rows), "first word": first, "whole command": whole}
            print(f"{name:14} {shown:18} first word {first:6.1%}   whole command {whole:6.1%}", flush=True)
            log += [{"set": name, "request": r, "wanted": w, "got": g} for r, w, g in zip(requests, wanted, got)]
    return report, log


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("request", nargs="*")
    parser.add_argument("--requests", help="a file: request, then right commands, separated by tabs")
    parser.add_argument("--json", help="write scores and every answer here")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer, model = Tokenizer(), load(args.model)
    if args.request:
        for request, answer in zip(args.request, answers(model, tokenizer, args.request)):
            print(f"{request}\n    {answer}")
    elif args.requests:
        rows = read_tsv(args.requests)
        got = answers(model, tokenizer, [row[0] for row in rows])
        right = [answer in row[1:] for answer, row in zip(got, rows)]
        for (request, *_), answer, ok in zip(rows, got, right):
            print(f"{'right' if ok else '  -  '}  {request}\n         {answer}")
        print(f"{sum(right)} of {len(right)} as listed")
    else:
        report, log = table(model, tokenizer)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump({"scores": report, "answers": log}, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    main()
