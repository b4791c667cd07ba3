"""The same request in other words: what people type is not what tldr-pages write.

Every change keeps the meaning, and where a file name or a number of the request also stands in the command, both
change alike. Nothing is invented that the pair did not say.
"""

import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))

FRAMES = [
    "how do I {}?",
    "how do i {}",
    "how to {}",
    "how can I {}?",
    "how would you {}?",
    "please {}",
    "can you {}?",
    "I want to {}",
    "I need to {}",
    "i would like to {}",
    "{}, please",
    "what is the command to {}?",
    "which command lets me {}?",
    "command to {}",
    "a command to {}",
    "give me a command to {}",
]
NAMED = ["{d} with {p}", "{d} using {p}", "{p}: {d}", "{p}: {d}", "{p} {d}", "use {p} to {d}", "{d} ({p})", "{d} in {p}", "with {p}, {d}"]

NAMED_SHARE = 0.35  # of the requests that could do without

FILE_STEMS = (
    "notes report draft backup data test main index photo holiday song invoice letter list todo old new config log "
    "results budget summary thesis chapter1 sample input output project users table readme archive2024 my_file demo"
).split()
FOLDER_NAMES = (
    "src docs Downloads Documents projects backup tmp data music photos build work website old logs scripts test "
    "my_project Pictures public lib assets"
).split()
SUFFIXES = "txt md csv log json py c html conf".split()

FILE_PHRASE = re.compile(
    r"\b(?:a|an|the)(?: (?:specific|specified|given|particular|single|local|input|source|existing))*"
    r" ((?:\w+ )?(?:file|image|video|archive|document|script|directory|folder)|directory|file|tarball|PDF|binary)\b(?! name| system|name)"
)
PATH = re.compile(r"path/to/(?:[\w-]+/)*[\w.-]+")
NUMBER = re.compile(r"(?<![\w.:/-])\d{1,5}(?![\w.:/])")


def load_synonyms():
    table = {}
    with open(os.path.join(HERE, "synonyms.tsv"), encoding="utf-8") as file:
        for line in file:
            word, *others = line.rstrip("\n").split("\t")
            table[word] = others
    return table


SYNONYMS = load_synonyms()


def lower_first(text):
    """Not where the first word is a name or an acronym."""
    return text[0].lower() + text[1:] if len(text) > 1 and text[0].isupper() and not text[1].isupper() else text


def swap_synonyms(rng, text, share):
    def swap(match):
        word = match.group()
        others = SYNONYMS.get(word) or SYNONYMS.get(word.lower())
        if not others or rng.random() > share:
            return word
        return rng.choice(others)

    return re.sub(r"[A-Za-z]+", swap, text)


def swap_numbers(rng, request, command):
    """A number that stands in both, to another of about its size."""
    shared = [n for n in set(NUMBER.findall(request)) if len(NUMBER.findall(command)) and n in NUMBER.findall(command)]
    for number in sorted(shared):
        other = str(rng.randint(1, max(9, 2 * int(number))))
        pattern = re.compile(rf"(?<![\w.:/-]){number}(?![\w.:/])")
        request, command = pattern.sub(other, request), pattern.sub(other, command)
    return request, command


def swap_path(rng, request, command):
    """"a file" with one placeholder in the command: both become the same concrete name."""
    paths = set(PATH.findall(command))
    phrases = list(FILE_PHRASE.finditer(request))
    if len(paths) != 1 or len(phrases) != 1:
        return request, command
    path, phrase = paths.pop(), phrases[0]
    folder = phrase.group(1).split()[-1] in ("directory", "folder")
    dot = path.rsplit("/", 1)[-1].partition(".")[2]
    if folder:
        name = rng.choice(FOLDER_NAMES)
    elif dot and dot != "ext":
        name = f"{rng.choice(FILE_STEMS)}.{dot}"
    else:
        name = f"{rng.choice(FILE_STEMS)}.{rng.choice(SUFFIXES)}"
    kind = rng.random()
    text = name if kind < 0.6 else f"the {phrase.group(1)} {name}" if kind < 0.9 else f'"{name}"'
    request = request[: phrase.start()] + text + request[phrase.end() :]
    return request, command.replace(path, name)


def program_of(page, command):
    """The page's title as a person would say it: "git commit" for the page git-commit."""
    words = page.replace("-", " ")
    return words if words in command else page


def drop_words(rng, request, command):
    """Up to every fifth word goes, but not what the command repeats: what is left must do."""
    said = set(re.findall(r"[\w./-]+", command))
    share = rng.random() * 0.2
    words = [w for w in request.split(" ") if w.strip("()`',.") in said or rng.random() >= share]
    return " ".join(words) if len(words) > 1 else request


def reword(rng, request, command, program, name_it, plain):
    """One random wording of a pair. `name_it`: the request must name the program, or nobody could answer it. A share
    `plain` keeps the words of tldr-pages."""
    if rng.random() < plain:
        return (f"{program}: {request}" if name_it or rng.random() < NAMED_SHARE else request), command
    if rng.random() < 0.3:
        request, command = swap_path(rng, request, command)
    if rng.random() < 0.5:
        request, command = swap_numbers(rng, request, command)
    if rng.random() < 0.25:  # an aside in brackets
        request = re.sub(r" \([^()]*\)", "", request)
    if rng.random() < 0.6:
        request = swap_synonyms(rng, request, 0.3)
    if rng.random() < 0.3:
        request = re.sub(r"\b(?:the|an?) ", "", request)
    framed = rng.random() < 0.35
    if framed or rng.random() < 0.5:
        request = lower_first(request)
    if rng.random() < 0.3:
        request = drop_words(rng, request, command)
    if name_it or rng.random() < NAMED_SHARE:
        if rng.random() < 0.25:
            program = program.split()[0]
        form = rng.choice(NAMED)
        inner = request if form.startswith("{d}") and not framed else lower_first(request)
        request = form.format(d=inner, p=program)
    if framed and ":" not in request and not request.startswith(("use ", "with ")):
        request = rng.choice(FRAMES).format(request)
    elif rng.random() < 0.05:
        request += "."
    return request, command


def reword_lightly(rng, request, command):
    """For pairs that already have several wordings of their own."""
    request, command = swap_numbers(rng, request, command) if rng.random() < 0.5 else (request, command)
    if rng.random() < 0.3:
        request = swap_synonyms(rng, request, 0.15)
    if rng.random() < 0.2:
        request = re.sub(r"\b(?:the|an?) ", "", request)
    if rng.random() < 0.5:
        request = lower_first(request)
    if rng.random() < 0.2:
        request = rng.choice(FRAMES).format(lower_first(request))
    return request, command
