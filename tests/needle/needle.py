#!/usr/bin/env python3
"""Hides the definition of an invented command among real ones and asks for it: what a model finds, by depth and
length of the context.

    needle.py --quern build/quern [--lengths 256,512] [--depths 11] [--trials 3] [--png FILE]

Talks to the service on $QUERN_SOCKET through the shell tool, so it runs on whatever model that serves. Each cell is
the share of trials whose greedy answer holds the invented command. Prints the map as text; --png draws it.
"""

import argparse
import json
import random
import struct
import subprocess
import zlib

SYLLABLES = "ba zor vik lum tra plo nex fib qua dro sel mip gar wen tol kra shi dun pel ox rif yam cus het jol bri".split()
OBJECTS = ["harbour", "orchard", "lantern", "compass", "meadow", "anchor", "chimney", "bridge", "quarry", "violin"]
ANSWER_TOKENS = 24  # room that is left for the answer
ROOM = 64  # for the template, the needle and the question


def run(arguments, text=None):
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def count_tokens(quern, text):
    return len(run([quern, "tokenize", "-"], text).split())


def read_lines(path):
    """Requests and commands of pages that no training saw, as lines of a manual."""
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return [f"{request}: {command}" for _, request, command in rows]


def haystack(quern, lines, length, rng):
    """Lines that fill the context but for the room, as long as counting them costs one call a guess."""
    wanted = length - ANSWER_TOKENS - ROOM
    shuffled = lines * (1 + length * 4 // (10 * len(lines)))
    rng.shuffle(shuffled)
    low, high = 0, len(shuffled)
    while low < high:  # the most lines that fit
        middle = (low + high + 1) // 2
        if count_tokens(quern, "\n".join(shuffled[:middle])) <= wanted:
            low = middle
        else:
            high = middle - 1
    return shuffled[:low]


def trial(quern, hay, depth, rng):
    name = "".join(rng.sample(SYLLABLES, 3))
    thing = rng.choice(OBJECTS)
    command = f"{name} --{rng.choice(SYLLABLES)}{rng.choice(SYLLABLES)} {thing}.txt"
    request = f"Polish the {thing}"
    at = round(depth * len(hay))
    text = "\n".join(hay[:at] + [f"{request}: {command}"] + hay[at:]) + f"\n\n{request}"
    answer = run([quern, "ask", "--temperature", "0", "--max-tokens", str(ANSWER_TOKENS)], text)
    return command in answer


# Digits of 3 x 5 dots: five rows, the left dot is 4.
GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711",
    "5": "74717", "6": "74757", "7": "71244", "8": "75757", "9": "75717", "%": "51245",
}  # fmt: skip
INK, PAPER, CELL, MARGIN, LINE = (40, 40, 40), (255, 255, 255), 28, 44, 14


def write_text(canvas, x, y, text):
    """Right-aligned at x, each dot two pixels."""
    for place, letter in enumerate(reversed(text)):
        for dy, row in enumerate(GLYPHS[letter]):
            for dx in range(3):
                if int(row) >> (2 - dx) & 1:
                    for pixel in range(4):
                        canvas[y + 2 * dy + pixel // 2][x - 8 * (place + 1) + 2 * dx + pixel % 2] = INK


def write_png(path, lengths, depths, rows):
    """Lengths down, depths across; from dark (never found) to green (always)."""
    width, height = MARGIN + 2 * CELL * len(depths), LINE + CELL * len(lengths)
    canvas = [[PAPER] * width for _ in range(height)]
    for column, depth in enumerate(depths):
        write_text(canvas, MARGIN + 2 * CELL * (column + 1), 2, f"{depth:.0%}")
    for line, (length, row) in enumerate(zip(lengths, rows)):
        top = LINE + CELL * line
        write_text(canvas, MARGIN - 4, top + CELL // 2 - 5, str(length))
        for column, share in enumerate(row):
            for y in range(top, top + CELL - 1):
                for x in range(MARGIN + 2 * CELL * column, MARGIN + 2 * CELL * (column + 1) - 1):
                    canvas[y][x] = (40, 40 + round(180 * share), 60)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\0" + b"".join(map(bytes, line)) for line in canvas)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quern", default="build/quern")
    parser.add_argument("--lines", default="models/heldout-pages.tsv")
    parser.add_argument("--lengths", help="of the context in tokens (256, doubled up to what the service has)")
    parser.add_argument("--depths", type=int, default=11, help="from 0 %% to 100 %% (11)")
    parser.add_argument("--trials", type=int, default=3, help="needles a cell (3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--png")
    args = parser.parse_args()

    status = json.loads(run([args.quern, "status", "--output", "json"]))
    context = int(status["context"])
    if args.lengths:
        lengths = [int(length) for length in args.lengths.split(",")]
    else:
        lengths = [256]
        while lengths[-1] * 2 <= context:
            lengths.append(lengths[-1] * 2)
        if lengths[-1] < context:
            lengths.append(context)
    lines = read_lines(args.lines)
    depths = [i / (args.depths - 1) for i in range(args.depths)]

    print("needles found, by length of the context (rows) and depth in it (columns)")
    print("tokens " + "".join(f"{depth:>6.0%}" for depth in depths))
    rows = []
    for length in lengths:
        rng = random.Random(f"{args.seed} {length}")
        hay = haystack(args.quern, lines, length, rng)
        rows.append([sum(trial(args.quern, hay, depth, rng) for _ in range(args.trials)) / args.trials for depth in depths])
        print(f"{length:>6} " + "".join(f"{share:>6.0%}" for share in rows[-1]), flush=True)
    found = [share for row in rows for share in row]
    print(f"found {sum(found) / len(found):.1%} of {len(found) * args.trials} needles")
    if args.png:
        write_png(args.png, lengths, depths, rows)


main()
