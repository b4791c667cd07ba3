"""Reads the tables and lists of docs/protocol.md and writes a C program that does not compile unless
ipc/layout.h says the same: every offset, width and kind of field, every number of an operation,
flag, parameter bit, event, reason and code. Exits with 1 where the page lacks a field of the header,
has one too many, or leaves a gap.

    protocol_page.py docs/protocol.md ipc/layout.h >check.c
"""

import re
import sys

WIDTH = {"u16": 2, "u32": 4, "u64": 8, "f32": 4}
CTYPE = {"u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t", "f32": "float"}
# Tables of `| offset | type | field or word | |`, in the order of the page.
STRUCTS = ["ipc_hello", "ipc_welcome", "ipc_refusal", "ipc_request_words", "ipc_reply_words",
           "ipc_request_record", "ipc_event_record"]

problems = []
checks = []


def problem(text):
    problems.append(text)


def check(expression, text):
    checks.append('_Static_assert(%s, "%s");' % (expression, text.replace('"', "'")))


def rows_of(lines, start):
    """Cells of the table whose head is at lines[start]."""
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def header_fields(header, struct):
    """{path: is it reserved} of a struct of layout.h, union members with their path."""
    body = re.search(r"struct %s \{(.*?)^\}" % struct, header, re.S | re.M).group(1)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
    fields, prefix = {}, ""
    for m in re.finditer(r"(union \{)|(struct \{)|\} (\w+);|[\w ]+?\b(\w+)(\[\w+\])?;", body):
        if m.group(1):
            prefix = "u."
        elif m.group(2):
            inner = []
        elif m.group(3) and m.group(3) != "u":
            for name in inner:
                fields["u.%s.%s" % (m.group(3), name)] = True
            inner = None
        elif m.group(4):
            if prefix and inner is not None:
                inner.append(m.group(4))
            elif not prefix:
                fields[m.group(4)] = True
    return [f for f in fields if not re.search(r"(reserved\d?|pad\d|raw)$", f)]


def one_field(struct, path, offset, kind, bytes_):
    member = "((struct %s *)0)->%s" % (struct, path)
    check("offsetof(struct %s, %s) == %d" % (struct, path, offset), "%s.%s at" % (struct, path))
    check("sizeof(%s) == %d" % (member, bytes_), "%s.%s size" % (struct, path))
    if kind in CTYPE:
        check("_Generic(%s, %s: 1, default: 0)" % (member, CTYPE[kind]),
              "%s.%s is %s" % (struct, path, kind))


def check_struct(struct, rows, header):
    at, names = 0, []
    for offset, kind, name, *_ in rows:
        offset = int(offset)
        m = re.match(r"(u16|u32|u64|f32)(?: × (\d+))?$|(\d+) bytes$", kind)
        bytes_ = int(m.group(3)) if m.group(3) else WIDTH[m.group(1)] * int(m.group(2) or 1)
        if "words" not in struct and offset != at:
            problem("%s: a row at %d, expected at %d" % (struct, offset, at))
        at = offset + bytes_
        if name in ("reserved", ""):
            continue
        names.append(name)
        one_field(struct, name, offset, m.group(1) if not m.group(2) else "", bytes_)
    if "words" not in struct:
        check("sizeof(struct %s) == %d" % (struct, at), "size of %s" % struct)
    for field in header_fields(header, struct):
        if not field.startswith("u.") and field not in names:
            problem("%s.%s is not in the page" % (struct, field))


def check_events(rows, header):
    names, member = [], ""
    for kind_of, offset, kind, text, *_ in rows:
        member = kind_of or member
        path = "u.%s.%s" % (member, re.match(r"\w+", text).group(0))
        names.append(path)
        one_field("ipc_event_record", path, int(offset), kind, WIDTH[kind])
    for field in header_fields(header, "ipc_event_record"):
        if field.startswith("u.") and field not in names:
            problem("event: %s is not in the page" % field)


def numbers(text):
    return [(int(n), words) for n, words in re.findall(r"(\d+) ([a-z][a-z ]*)", text)]


def check_list(text, prefix, last, names=None):
    """`1 generate, 2 cancel` against an enum; the names in words may be given another name."""
    listed = numbers(text)
    for n, words in listed:
        constant = (names or {}).get(words.strip(), words.strip().upper().replace(" ", "_"))
        check("%s%s == %d" % (prefix, constant, n), "%s%s" % (prefix, constant))
    if last:
        check("%s == %d" % (last, max(n for n, _ in listed)), "%s is the last in the page" % last)
    if sorted(n for n, _ in listed) != list(range(listed[0][0], listed[0][0] + len(listed))):
        problem("%s: numbers are left out: %s" % (prefix, text))


def cell(rows, name):
    return next(row[3] for row in rows if row[2] == name)


def main():
    page = open(sys.argv[1], encoding="utf-8").read()
    header = open(sys.argv[2], encoding="utf-8").read()
    lines = page.split("\n")
    heads = [i for i, line in enumerate(lines) if re.match(r"\| offset \| type \| (field|word) \|", line)]
    if len(heads) != len(STRUCTS):
        raise SystemExit("the page has %d tables of fields, not %d" % (len(heads), len(STRUCTS)))
    tables = {struct: list(rows_of(lines, at)) for struct, at in zip(STRUCTS, heads)}
    for struct, rows in tables.items():
        check_struct(struct, rows, header)
    by_type = next(i for i, line in enumerate(lines) if line.startswith("| type | offset | type |"))
    events = list(rows_of(lines, by_type))
    check_events(events, header)

    request, event = tables["ipc_request_record"], tables["ipc_event_record"]
    check_list(cell(request, "op"), "IPC_OP_", "IPC_OP_LAST")
    check_list(cell(request, "input"), "IPC_INPUT_", "IPC_INPUT_LAST")
    check_list(cell(request, "priority"), "IPC_PRIORITY_", "IPC_PRIORITY_LAST")
    check_list(cell(event, "type"), "IPC_EVENT_", "IPC_EVENT_LAST")
    final = next(row[3] for row in events if row[3].startswith("reason: 0 done"))
    check_list(final, "IPC_REASON_", "IPC_REASON_LAST", {"end of sequence": "EOS"})
    flags = re.findall(r"#define (IPC_FLAG_\w+) ", header)
    check("(%s) == (%s)" % ("|".join(flags),
                            "|".join(str(n) for n, _ in numbers(cell(request, "flags")))), "flags")
    given = {row[2]: m.group(0) for row in request if (m := re.match(r"0x[0-9a-f]+", row[3]))}
    for name, bit in given.items():
        check("IPC_GIVEN_%s == %s" % (name.upper(), bit), "bit of %s" % name)
    check("IPC_GIVEN_ALL == (%s)" % "|".join(given.values()), "bits of given")
    codes = re.search(r"\*\*Codes\*\*:(.*?)\n\n", page, re.S).group(1)
    last = max(int(n) for n in re.findall(r"(?:^|, |\s)(\d+) [a-z]", codes))
    check("IPC_CODE_LAST == %d" % last, "the last code")
    kinds = next(row[3] for row in events if row[3].startswith("kind: 1 ids"))
    if len(numbers(kinds)) != len(re.findall(r"^\s*IPC_DATA_\w+ = \d+,", header, re.M)):
        problem("kinds of data: the page has other ones than the header")
    check("IPC_MAGIC == UINT64_C(%s)" % re.search(r"`(0x[0-9a-f]{16})`", page).group(1), "magic")
    check("IPC_DOORBELL == %s" % re.search(r"packets of one byte, `(0x\w+)`", page).group(1), "doorbell")

    print('#include "ipc/layout.h"')
    print("\n".join(checks))
    for text in problems:
        print("protocol_page.py: " + text, file=sys.stderr)
    return 1 if problems else 0


sys.exit(main())
