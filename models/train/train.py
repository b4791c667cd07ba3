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
from fused import FusedQwen2, Optimizer
from model import Config, init_parameters
from tokenizer import Tokenizer


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, help="plan by time, not by steps")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--drop", type=float, default=0.2)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--adam", action="store_true")
    parser.add_argument("--request-weight", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=150)
    return parser.parse_args()


FALL_AT = 0.6  # where the rate begins to fall


def progress_at(step, seconds, args):
    """What share of the run is over: of the steps or, with --minutes, of the time, so that a run on a machine that others
    use too ends when it should, with its rate at zero. Then the log has the rate of every line."""
    return min(1.0, seconds / (60 * args.minutes) if args.minutes else step / args.steps)


def rate_at(step, progress, args):
    """Warm up, hold, and fall to zero in the last part."""
    return args.rate * min((step + 1) / args.warmup, 1, (1 - progress) / (1 - FALL_AT))


def mix_at(progress):
    """Of the epoch that begins at this point of the run."""
    return data.EARLY if progress < FALL_AT else data.LATE


def pad(batch, filler, request_weight):
    """-> ids (rows, longest), and the places of the loss: (row, position) predicts target, which counts `weight`."""
    ids = torch.full((len(batch), max(len(ids) for ids, _ in batch)), filler)
    where, targets, weight = [], [], []
    for row, (tokens, spans) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        scored = [1 if any(start <= i < end for start, end in spans) else request_weight for i in range(len(tokens))]
        places = [i for i in range(1, len(tokens)) if scored[i]]
        where += [(row, i - 1) for i in places]
        targets += [tokens[i] for i in places]
        weight += [scored[i] for i in places]
    return ids, torch.tensor(where), torch.tensor(targets), torch.tensor(weight, dtype=torch.float32)


def loss_of(model, prefix, batch, filler, drop, request_weight=0.0):
    """-> what is minimized: the mean cross entropy over the answers' tokens and, with `request_weight`, the requests';
    the sum over the answers' tokens alone, and their number. The head is computed at those places only."""
    ids, where, targets, weight = pad(batch, filler, request_weight)
    weights = model.weights()
    _, cache = model.forward(prefix, weights=weights)
    hidden, _ = model.forward(ids, cache, drop, weights)
    chosen = hidden[where[:, 0], where[:, 1]]
    mean, each = model.loss(model.logits(chosen, weights), targets, weight)
    return mean, each[weight == 1].sum().item(), int((weight == 1).sum())


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
            _, loss, n = loss_of(model, prefix, batch, tokenizer.end_of_text, 0.0)
            total, count = total + loss, count + n
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

    config = Config(vocab=len(tokenizer.tokens), layers=args.layers, width=args.width, heads=args.width // 64)
    parameters = init_parameters(config, args.seed)
    optimizer = Optimizer(parameters, args.decay, muon=not args.adam)
    model = FusedQwen2(config, parameters)
    prefix = torch.tensor([tokenizer.prefix()])
    print(f"{sum(p.numel() for p in parameters.values())} parameters, {len(train)} + {len(everyday)} examples", flush=True)

    step = epoch = batch_at = tokens = 0
    seconds, mix = 0.0, data.EARLY
    last = os.path.join(args.out, "last.pt")
    if os.path.exists(last):
        state = torch.load(last)
        step, epoch, batch_at, tokens, seconds, mix = state["at"]
        for name, p in parameters.items():
            p.data.copy_(state["parameters"][name])
        optimizer.moments, optimizer.steps = state["moments"], step
        print(f"resumed at step {step}", flush=True)

    log_path = os.path.join(args.out, "log.csv")
    start_log(log_path, step)
    sum_loss = sum_count = 0
    began = time.monotonic()
    batches = epochs.batches(epoch, mix)
    progress = progress_at(step, seconds, args)
    while progress < 1:
        if batch_at == len(batches):
            epoch, batch_at, mix = epoch + 1, 0, mix_at(progress)
            batches = epochs.batches(epoch, mix)
        batch = batches[batch_at]
        torch.manual_seed(args.seed * 1_000_003 + step)
        mean, loss, count = loss_of(model, prefix, batch, tokenizer.end_of_text, args.drop, args.request_weight)
        mean.backward()
        rate = rate_at(step, progress, args)
        optimizer.step(rate)
        step, batch_at = step + 1, batch_at + 1
        tokens += sum(len(ids) for ids, _ in batch)
        sum_loss, sum_count = sum_loss + loss, sum_count + count

        now = seconds + time.monotonic() - began
        progress = progress_at(step, now, args)
        if step % 50 == 0 or progress == 1:
            line = [step, epoch, tokens, round(now), f"{rate:.6f}", f"{sum_loss / sum_count:.4f}", "", ""]
            if step % args.save_every == 0 or progress == 1:
                line[-2:] = [f"{x:.4f}" for x in watch(model, prefix, tokenizer, watched)]
            with open(log_path, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(line)
            print(*line, flush=True)
            sum_loss = sum_count = 0
        if step % args.save_every == 0 or progress == 1:
            weights = {name: p.detach().clone() for name, p in parameters.items()}
            state = {"at": (step, epoch, batch_at, tokens, seconds + time.monotonic() - began, mix)}
            save(last, state | {"parameters": weights, "moments": optimizer.moments})
            save(os.path.join(args.out, f"step-{step}.pt"), weights)


if __name__ == "__main__":
    main()
