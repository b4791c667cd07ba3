"""Rows, what is left out, the split, and the batches of an epoch.

The split is made first and from a seed of its own: whole pages, then 500 single examples for the published figures,
then 300 for watching the training. What is held out is never trained on, nor is any row with the same pair.
"""

import collections
import csv
import gzip
import os
import random
import re

from wording import lower_first, program_of, reword, reword_lightly

HERE = os.path.dirname(os.path.abspath(__file__))
SPLIT_SEED = 20240607
HELD_OUT_PAGES, HELD_OUT_EXAMPLES, WATCHED_EXAMPLES = 130, 500, 300

Row = collections.namedtuple("Row", "page request command")

# What an epoch is made of: the share of rows in tldr-pages' own words, and long chats for every short batch. The end of
# the training is nearer to what is asked of the model, and long enough chats cost too much to have them all the time.
Mix = collections.namedtuple("Mix", "plain long_share")
EARLY, LATE = Mix(plain=0.4, long_share=0.05), Mix(plain=0.6, long_share=0.12)


def load_rows():
    """English rows that ask for a shell command, each once."""
    rows = {}
    with gzip.open(os.path.join(HERE, "tldr-examples.tsv.gz"), "rt", encoding="utf-8") as file:
        for line in file:
            language, _, page, request, command = line.rstrip("\n").split("\t")
            if language != "en":
                continue
            # Pointers to other pages, and keys to press inside a program, are no shell commands.
            if request.startswith(("View documentation for the", "[Interactive]")) or len(command) > 200:
                continue
            request = request.strip().rstrip(".")
            rows.setdefault((page, pair_key(request, command)), Row(page, request, command))
    return list(rows.values())


def pair_key(request, command):
    """Two pairs are the same if they differ in case, spaces and punctuation of the request only."""
    return re.sub(r"\W+", " ", request.lower()).strip(), " ".join(command.split())


def split(rows):
    """-> train, watched, examples, pages"""
    rng = random.Random(SPLIT_SEED)
    pages = sorted({row.page for row in rows})
    held_pages = set(rng.sample(pages, HELD_OUT_PAGES))
    page_rows = [row for row in rows if row.page in held_pages]
    rest = [row for row in rows if row.page not in held_pages]
    rng.shuffle(rest)
    # An example is only held out from a page that keeps others for training.
    left = collections.Counter(row.page for row in rest)
    held, train = [], []
    for row in rest:
        if len(held) < HELD_OUT_EXAMPLES + WATCHED_EXAMPLES and left[row.page] > 1:
            held.append(row)
            left[row.page] -= 1
        else:
            train.append(row)
    # Nor is anything trained on that has a held-out pair, a held-out command of the same page in other words, or, from
    # whatever page, a command of a page that is held out.
    secret = {pair_key(row.request, row.command) for row in page_rows + held}
    commands = {(row.page, row.command) for row in held}
    page_commands = {row.command for row in page_rows}
    train = [
        row
        for row in train
        if pair_key(row.request, row.command) not in secret
        and (row.page, row.command) not in commands
        and row.command not in page_commands
    ]
    # Keys to press, some of which stand without the mark; after the split, so that it stays what it was.
    train = [row for row in train if not row.command.startswith("<")]
    return train, held[HELD_OUT_EXAMPLES:], held[:HELD_OUT_EXAMPLES], page_rows


def load_everyday():
    """Our own pairs: one command, then its wordings."""
    rows = []
    with open(os.path.join(HERE, "everyday.tsv"), encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                command, *requests = line.rstrip("\n").split("\t")
                rows += [Row("", request, command) for request in requests]
    return rows


def write_held_out(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(["program", "request", "command"])
        for row in rows:
            writer.writerow([program_of(row.page, row.command), row.request, row.command])


def ambiguous_requests(rows):
    """Requests that several pages share ("Display help"): to be answered only if the program is named."""
    pages = collections.defaultdict(set)
    for row in rows:
        pages[row.request].add(row.page)
    return {request for request, where in pages.items() if len(where) > 1}


class Epochs:
    """The batches of every epoch, each a function of (seed, epoch, mix) alone."""

    def __init__(self, tokenizer, train, everyday, batch_tokens, seed, everyday_times=2):
        self.tokenizer, self.train, self.everyday = tokenizer, train, everyday
        self.batch_tokens, self.seed = batch_tokens, seed
        self.everyday_times = everyday_times
        self.ambiguous = ambiguous_requests(train)

    def short(self, rng, plain):
        """Every row in one wording -> (ids, start of the answer)"""
        for row in self.train:
            program = program_of(row.page, row.command)
            yield self.turn(*reword(rng, row.request, row.command, program, row.request in self.ambiguous, plain))
        for _ in range(self.everyday_times):
            for row in self.everyday:
                yield self.turn(*reword_lightly(rng, row.request, row.command))

    def turn(self, request, command):
        t = self.tokenizer
        head = t.encode(request) + t.middle()
        return head + t.encode(command) + [t.im_end], len(head)

    def batches(self, epoch, mix):
        """-> list of batches; a batch is a list of (ids, [(start, end) of each answer])."""
        rng = random.Random(f"{self.seed}/{epoch}")
        items = [(ids, [(start, len(ids))]) for ids, start in self.short(rng, mix.plain)]
        # Rows of about one length share a batch, and who shares it with whom changes from epoch to epoch.
        rng.shuffle(items)
        items.sort(key=lambda item: len(item[0]) + rng.random() * 2)
        batches, batch = [], []
        for item in items:
            if batch and len(item[0]) * (len(batch) + 1) > self.batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(item)
        batches.append(batch)
        for _ in range(round(len(batches) * mix.long_share)):
            batches.append(self.long_batch(rng))
        rng.shuffle(batches)
        return batches

    def long_batch(self, rng):
        """Chats of one length whose first request quotes a page of commands, some of them invented, and which then
        ask for them: what long contexts are for, and what a needle test asks."""
        length = rng.choice((192, 256, 384, 512, 768, 1000))
        rows = max(1, self.batch_tokens // length)
        return [self.long_chat(rng, length) for _ in range(rows)]

    def long_chat(self, rng, length):
        t = self.tokenizer
        form = rng.choice(LINE_FORMS)
        mixed = rng.random() < 0.3
        questions = rng.randint(1, max(1, min(6, length // 80)))
        ids, lines = [], []
        budget = length - 45 * questions
        while True:
            row = rng.choice(self.train)
            invented = rng.random() < 0.5 or not lines
            command = invent(rng, row.command) if invented else row.command
            line = (rng.choice(LINE_FORMS) if mixed else form).format(d=lower_first(row.request), D=row.request, c=command)
            size = len(t.encode(line + "\n"))
            if lines and len(ids) + size > budget:
                break
            if size > 60:
                continue
            ids += t.encode(line + "\n")
            lines.append((row.request, command, invented))
        # Invented commands can be known only from the text above; most questions are about them.
        asked = sorted(rng.sample(lines, min(len(lines), 2 * questions)), key=lambda line: not line[2])[:questions]
        rng.shuffle(asked)
        spans = []
        for i, (request, command, _) in enumerate(asked):
            if rng.random() < 0.5:
                request = lower_first(request)
            if rng.random() < 0.3:
                request = rng.choice(("how do I {}?", "which command would {}?", "command to {}")).format(lower_first(request))
            turn = (t.encode("\n" + request) if i == 0 else t.next_turn() + t.encode(request)) + t.middle()
            answer = t.encode(command) + [t.im_end]
            if len(ids) + len(turn) + len(answer) > length:
                break
            ids += turn
            spans.append((len(ids), len(ids) + len(answer)))
            ids += answer
        if not spans:
            return self.long_chat(rng, length)
        return ids, spans


LINE_FORMS = [
    "{D}: {c}",
    "{D}: `{c}`",
    "{c}: {d}",
    "To {d}, run: {c}",
    "To {d}, run `{c}`.",
    "{c}  # {d}",
    "The command to {d} is: {c}",
    "The command to {d} is `{c}`.",
    "- {D}\n  {c}",
]

SYLLABLES = "ba zor vik lum tra plo nex fib qua dro sel mip gar wen tol kra shi dun pel ox rif yam cus het jol bri".split()


def invent(rng, command):
    """The same arguments for a program that does not exist."""
    words = command.split(" ")
    at = 1 if words[0] == "sudo" and len(words) > 1 else 0
    words[at] = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    if rng.random() < 0.3:
        words = words[: at + 1] + [f"--{rng.choice(SYLLABLES)}{rng.choice(SYLLABLES)}", str(rng.randint(1, 999))]
    return " ".join(words)

