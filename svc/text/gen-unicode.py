#!/usr/bin/env python3
"""Writes unicode-tables.h, the character classes that the split pattern needs.

Run:  python3 svc/text/gen-unicode.py >svc/text/unicode-tables.h

Letters and numbers come from Python's unicodedata, so the Unicode version is that of the Python
that runs this: the committed table is of 14.0.0 (Python 3.11), which is also the version of the
regular expression engine (Oniguruma 6.9.8) behind the reference tokenizer. White space is the
White_Space property of PropList.txt, which unicodedata does not carry and which has not changed
since Unicode 6.3.
"""
import sys
import unicodedata

SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
         0x202F, 0x205F, 0x3000}
OTHER, LETTER, NUMBER, WHITE = 0, 1, 2, 3


def class_of(cp):
    if cp in SPACE:
        return WHITE
    category = unicodedata.category(chr(cp))
    return LETTER if category[0] == "L" else NUMBER if category[0] == "N" else OTHER


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"gen-unicode: this Python has Unicode {unicodedata.unidata_version}, not 14.0.0")
    blocks, stage1 = {}, []
    for start in range(0, 0x110000, 256):
        packed = bytes(class_of(start + i) | class_of(start + i + 1) << 2
                       | class_of(start + i + 2) << 4 | class_of(start + i + 3) << 6
                       for i in range(0, 256, 4))
        stage1.append(blocks.setdefault(packed, len(blocks)))
    assert len(blocks) <= 256

    def array(values):
        return "\n".join("    " + " ".join(f"{v}," for v in values[i:i + 20])
                         for i in range(0, len(values), 20))

    print("/* Character classes of Unicode 14.0.0. Made by svc/text/gen-unicode.py; do not edit. */")
    print("/* clang-format off */")
    print('#define UNICODE_TABLES_VERSION "14.0.0"')
    print(f"\nstatic const unsigned char unicode_stage1[{len(stage1)}] = {{")
    print(array(stage1))
    print(f"}};\n\nstatic const unsigned char unicode_stage2[{len(blocks)}][64] = {{")
    for packed in blocks:
        print("    {\n" + array(list(packed)) + "\n    },")
    print("};\n/* clang-format on */")


main()
