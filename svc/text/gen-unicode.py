#!/usr/bin/env python3
"""Writes unicode-tables.h: the character classes that the split pattern needs, and what the quick
check of normalization form C needs.

Run:  python3 svc/text/gen-unicode.py >svc/text/unicode-tables.h

All comes from Python's unicodedata, so the Unicode version is that of the Python that runs this: the
committed table is of 14.0.0 (Python 3.11), which is also the version of the regular expression
engine (Oniguruma 6.9.8) behind the reference tokenizer. White space is the White_Space property of
PropList.txt, which unicodedata does not carry and which has not changed since Unicode 6.3.
"""
import sys
import unicodedata

SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
         0x202F, 0x205F, 0x3000}
OTHER, LETTER, NUMBER, WHITE = 0, 1, 2, 3
NO, MAYBE, FIRST = 1, 2, 4


def class_of(cp):
    if cp in SPACE:
        return WHITE
    category = unicodedata.category(chr(cp))
    return LETTER if category[0] == "L" else NUMBER if category[0] == "N" else OTHER


def compositions():
    """The first and the second characters of all primary composites (Unicode 14, D117); those that
    decompose count as first too, since a mark may come in between their parts."""
    first, second = set(), set()
    for cp in range(0x110000):
        parts = unicodedata.decomposition(chr(cp)).split()
        if not parts or parts[0][0] == "<":
            continue
        first.add(cp)
        if len(parts) == 2 and unicodedata.normalize("NFC", chr(cp)) == chr(cp):
            first.add(int(parts[0], 16))
            second.add(int(parts[1], 16))
    first.update(range(0x1100, 0x1113), range(0xAC00, 0xD7A4, 28))  # Hangul L and LV
    second.update(range(0x1161, 0x1176), range(0x11A8, 0x11C3))  # Hangul V and T
    return first, second


def normal_of(cp, first, second):
    char = chr(cp)
    if 0xD800 <= cp <= 0xDFFF:
        return (0, 0)
    return (unicodedata.combining(char),
            (NO if unicodedata.normalize("NFC", char) != char else 0)
            | (MAYBE if cp in second else 0) | (FIRST if cp in first else 0))


def array(values):
    return "\n".join("    " + " ".join(f"{v}," for v in values[i:i + 20])
                     for i in range(0, len(values), 20))


def print_stages(name, blocks, stage1):
    assert len(blocks) <= 256
    print(f"\nstatic const unsigned char {name}_stage1[{len(stage1)}] = {{")
    print(array(stage1))
    print(f"}};\n\nstatic const unsigned char {name}_stage2[{len(blocks)}][{len(next(iter(blocks)))}]"
          " = {")
    for packed in blocks:
        print("    {\n" + array(list(packed)) + "\n    },")
    print("};")


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"gen-unicode: this Python has Unicode {unicodedata.unidata_version}, not 14.0.0")
    first, second = compositions()
    classes, classes1, normals, normals1 = {}, [], {}, []
    kinds = {(0, 0): 0}
    for start in range(0, 0x110000, 256):
        packed = bytes(class_of(start + i) | class_of(start + i + 1) << 2
                       | class_of(start + i + 2) << 4 | class_of(start + i + 3) << 6
                       for i in range(0, 256, 4))
        classes1.append(classes.setdefault(packed, len(classes)))
        packed = bytes(kinds.setdefault(normal_of(start + i, first, second), len(kinds))
                       for i in range(256))
        normals1.append(normals.setdefault(packed, len(normals)))
    print("/* Character classes of Unicode 14.0.0. Made by svc/text/gen-unicode.py; do not edit. */")
    print("/* clang-format off */")
    print('#define UNICODE_TABLES_VERSION "14.0.0"')
    print("\n/* two bits a character: enum unicode_class */")
    print_stages("class", classes, classes1)
    print("\n/* an index of normal_kinds */")
    print_stages("normal", normals, normals1)
    print("\n/* canonical combining class, enum unicode_normal */")
    print(f"static const struct unicode_kind normal_kinds[{len(kinds)}] = {{")
    print("\n".join(f"    {{{ccc}, {flags}}}," for ccc, flags in kinds))
    print("};\n/* clang-format on */")


main()
