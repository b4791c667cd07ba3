"""Train the shipped model: `train.py OUT [--steps N]`. Stop it at any time; the same command goes on where it was.

Everything random comes from the seed, the epoch and the step, so a stopped and resumed run sees the same batches.
OUT gets log.csv, last.pt (to resume from) and step-N.pt (weights alone, for averaging).
"""

import argparse
import csv
import os
import time

import torch

import data
from fused import AdamW, FusedQwen2
from model import Config, init_parameters
from tokenizer import Tokenizer


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--drop", type=float, default=0.15)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=150)
    return parser.parse_args()


def rate_at(step, args):
    """Warm up, hold, and fall to zero over the last 30 %: the level part does not depend on --steps, so a run can be
    shortened or prolonged until the fall begins and stays the run that it would have been."""
    hold = 0.7 * args.steps
    return args.rate * min((step + 1) / args.warmup, 1, (args.steps - step) / (args.steps - hold))


def pad(batch, filler):
    """-> ids (rows, longest), and the places of the loss: (row, position) predicts target."""
    ids = torch.full((len(batch), max(len(ids) for ids, _ in batch)), filler)
    where, targets = [], []
    for row, (tokens, spans) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        for start, end in spans:
            where += [(row, i - 1) for i in range(start, end)]
            targets += tokens[start:end]
    return ids, torch.tensor(where), torch.tensor(targets)


def loss_of(model, prefix, batch, filler, drop):
    """Mean cross entropy over the answers' tokens. The head is computed at those places only."""
    ids, where, targets = pad(batch, filler)
    weights = model.weights()
    _, cache = model.forward(prefix, weights=weights)
    hidden, _ = model.forward(ids, cache, drop, weights)
    chosen = hidden[where[:, 0], where[:, 1]]
    return model.loss(model.logits(chosen, weights), targets), len(targets)


@torch.no_grad()
def watch(model, prefix, tokenizer, rows):
    """Loss on the watched examples, as tldr-pages word them: alone, and with the program named."""
    sums = []
    for form in ("{r}", "{p}: {r}"):
        total = count = 0
        for at in range(0, len(rows), 50):
            batch = []
            for row in rows[at : at + 50]:
                request = form.format(r=row.request, p=data.program_of(row.page, row.command))
                head = tokenizer.encode(request) + tokenizer.middle()
                ids = head + tokenizer.encode(row.command) + [tokenizer.im_end]
                batch.append((ids, [(len(head), len(ids))]))
            loss, n = loss_of(model, prefix, batch, tokenizer.end_of_text, 0.0)
            total, count = total + loss.item() * n, count + n
        sums.append(total / count)
    return sums


def save(path, content):
    """Never leaves half a file under the name, whenever it is stopped."""
    torch.save(content, path + ".new")
    os.replace(path + ".new", path)


def start_log(path, step):
    """A new log, or the old one without the lines that a resumed run writes again."""
    lines = ["step,epoch,tokens,seconds,rate,loss,watched,watched_named\n"]
    if step:
        with open(path) as file:
            lines += [line for line in file.readlines()[1:] if int(line.split(",")[0]) <= step]
    with open(path, "w") as file:
        file.writelines(lines)


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer()
    train, watched, _, _ = data.split(data.load_rows())
    everyday = data.load_everyday()
    epochs = data.Epochs(tokenizer, train, everyday, args.batch_tokens, args.seed)

    config = Config(vocab=len(tokenizer.tokens), layers=args.layers)
    parameters = init_parameters(config, args.seed)
    optimizer = AdamW(parameters, args.decay)
    model = FusedQwen2(config, parameters)
    prefix = torch.tensor([tokenizer.prefix()])
    print(f"{sum(p.numel() for p in parameters.values())} parameters, {len(train)} + {len(everyday)} examples", flush=True)

    step = epoch = batch_at = tokens = 0
    seconds = 0.0
    last = os.path.join(args.out, "last.pt")
    if os.path.exists(last):
        state = torch.load(last)
        step, epoch, batch_at, tokens, seconds = state["at"]
        for name, p in parameters.items():
            p.data.copy_(state["parameters"][name])
        optimizer.moments, optimizer.steps = state["moments"], step
        print(f"resumed at step {step}", flush=True)

    log_path = os.path.join(args.out, "log.csv")
    start_log(log_path, step)
    sum_loss = sum_count = 0
    began = time.monotonic()
    batches = epochs.batches(epoch)
    while step < args.steps:
        if batch_at == len(batches):
            epoch, batch_at = epoch + 1, 0
            batches = epochs.batches(epoch)
        batch = batches[batch_at]
        torch.manual_seed(args.seed * 1_000_003 + step)
        loss, count = loss_of(model, prefix, batch, tokenizer.end_of_text, args.drop)
        loss.backward()
        optimizer.step(rate_at(step, args))
        step, batch_at = step + 1, batch_at + 1
        tokens += sum(len(ids) for ids, _ in batch)
        sum_loss, sum_count = sum_loss + loss.item() * count, sum_count + count

        if step % 50 == 0:
            now = seconds + time.monotonic() - began
            line = [step, epoch, tokens, round(now), f"{rate_at(step, args):.6f}", f"{sum_loss / sum_count:.4f}", "", ""]
            if step % args.save_every == 0:
                line[-2:] = [f"{x:.4f}" for x in watch(model, prefix, tokenizer, watched)]
            with open(log_path, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(line)
            print(*line, flush=True)
            sum_loss = sum_count = 0
        if step % args.save_every == 0 or step == args.steps:
            weights = {name: p.detach().clone() for name, p in parameters.items()}
            state = {"at": (step, epoch, batch_at, tokens, seconds + time.monotonic() - began)}
            save(last, state | {"parameters": weights, "moments": optimizer.moments})
            save(os.path.join(args.out, f"step-{step}.pt"), weights)


if __name__ == "__main__":
    main()
