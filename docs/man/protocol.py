#!/usr/bin/env python3
"""protocol.py PAGE.md: the protocol page as quern-protocol(7), in mdoc, on standard output.

Knows what docs/protocol.md uses: headings, paragraphs, lists, indented code, tables. The result is
kept in the repository (docs/man/quern-protocol.7), so that installing needs no Python; a test makes
it again and compares.
"""
import re
import sys
import textwrap

HEAD = """'\\" t
.\\" Made from docs/protocol.md by docs/man/protocol.py: change that page, not this one.
.Dd November 24, 2026
.Dt QUERN-PROTOCOL 7
.Os
.Sh NAME
.Nm quern-protocol
.Nd what quernd and its clients say to each other through shared memory
.Sh DESCRIPTION
"""
TAIL = """.Sh SEE ALSO
.Xr libquern 3 ,
.Xr unix 7 ,
.Xr quernd 8
"""


def inline(text):
    """Text of a line: escapes for roff, then bold and code as fonts."""
    text = text.replace('\\', '\\e')
    text = re.sub(r'\*\*(.+?)\*\*', r'\\fB\1\\fP', text)
    text = re.sub(r'(?<![\w*])\*([^*]+)\*(?!\w)', r'\\fI\1\\fP', text)
    text = re.sub(r'`([^`]+)`', r'\\fB\1\\fP', text)
    return '\\&' + text if text[:1] in ".'" else text


def cells(line):
    return [c.strip() for c in line.strip().strip('|').split('|')]


def table(lines):
    rows = [cells(l) for l in lines]
    widths = len(rows[0])
    align = ['r' if c.endswith(':') else 'l' for c in rows[1]]
    align[-1] = 'lx'
    yield '.Pp'
    yield '.TS'
    yield ' '.join(align) + '.'
    for n, row in enumerate([rows[0]] + rows[2:]):
        row += [''] * (widths - len(row))
        row = [inline(c) for c in row]
        if n == 0:
            row = ['\\fI%s\\fP' % c if c else '' for c in row]
        if row[-1]:
            yield '\t'.join(row[:-1]) + '\tT{'
            yield row[-1]
            yield 'T}'
        else:
            yield '\t'.join(row)
    yield '.TE'


def sentences(lines):
    """Each sentence begins a line, as mdoc wants it."""
    text = ' '.join(l.strip() for l in lines)
    for s in re.split(r'(?<=[.!?]) +(?=\S)', text):
        yield from (inline(l) for l in textwrap.wrap(s, 98, break_on_hyphens=False))


def lists(lines):
    yield '.Bl -%s -compact' % ('enum' if lines[0][0].isdigit() else 'bullet')
    entries = []
    for l in lines:
        begins = re.match(r'(?:-|\d+\.) +(.*)', l)
        entries += [[begins.group(1)]] if begins else []
        if not begins:
            entries[-1].append(l)
    for e in entries:
        yield '.It'
        yield from sentences(e)
    yield '.El'


def blocks(text):
    """The page as blocks: lines that belong together."""
    block = []
    for l in text.splitlines() + ['']:
        if l.strip():
            block.append(l)
        elif block:
            yield block
            block = []


def convert(text):
    for b in blocks(text):
        if b[0].startswith('# ') or (b[0].startswith('*') and not b[0].startswith('**')):
            continue
        if b[0].startswith('## '):
            yield '.Ss ' + b[0][3:]
            b = b[1:]
        if not b:
            continue
        if b[0].startswith('|'):
            yield from table(b)
        elif b[0].startswith('    '):
            yield from ['.Bd -literal -offset indent'] + \
                ['\\&' + l[4:].replace('\\', '\\e') for l in b] + ['.Ed']
        elif re.match(r'(-|\d+\.) ', b[0]):
            yield from lists(b)
        else:
            yield '.Pp'
            yield from sentences(b)


def main():
    body = list(convert(open(sys.argv[1], encoding='utf-8').read()))
    # A paragraph break right after a heading is one too many.
    for i in range(len(body) - 1, 0, -1):
        if body[i] == '.Pp' and body[i - 1].startswith('.Ss'):
            del body[i]
    if body[0] == '.Pp':
        del body[0]
    sys.stdout.write(HEAD + '\n'.join(body) + '\n' + TAIL)


main()
