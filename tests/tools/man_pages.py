#!/usr/bin/env python3
"""The man pages against what they describe; prints each difference and exits 1 if there is one.

man_pages.py tool QUERN     quern.1 against `QUERN --help` and `QUERN VERB --help`, and those against
                            what the verbs accept
man_pages.py service QUERND quernd.8 and quern.conf.5 against `QUERND --help` and svc/options.c
man_pages.py header         the pages of section 3 against client/quern.h; prints a C program that
                            declares their prototypes again
man_pages.py names          NAME.SECTION of all pages, further names included
man_pages.py examples PAGE KIND FOLDER
                            writes the page's examples of a kind to FOLDER/1, FOLDER/2 …
"""
import glob
import os
import re
import subprocess
import sys

MAN = 'docs/man/'
problems = []


def differ(what, have, want):
    """`have` is what the page says, `want` what is there."""
    for name in sorted(set(want) - set(have)):
        problems.append('%s lacks %s' % (what, name))
    for name in sorted(set(have) - set(want)):
        problems.append('%s has %s, which is not there' % (what, name))


def page(name):
    with open(MAN + name, encoding='utf-8') as f:
        return f.read()


def sections(text, macro):
    """Heading → text under it, for .Sh or .Ss."""
    parts = re.split(r'^\.%s (.*)$' % macro, text, flags=re.M)
    return {parts[i].strip('"'): parts[i + 1] for i in range(1, len(parts), 2)}


def page_options(text):
    """The long options of a list: its .It Fl lines."""
    ret = set()
    for line in re.findall(r'^\.It (Fl .*)$', text, flags=re.M):
        ret.update(re.findall(r'(?:Fl|,) -([a-z][a-z0-9-]*)', line))
    return ret


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def help_options(text):
    return set(re.findall(r'(?<![\w-])--([a-z][a-z0-9-]*)', text))


def tool_table():
    with open('client/cli/options.c', encoding='utf-8') as f:
        return set(re.findall(r'^ +\{"([a-z0-9-]+)", (?:required|no|optional)_argument', f.read(), flags=re.M))


def check_tool(quern):
    text = page('quern.1')
    parts = sections(text, 'Sh')
    verbs = sections(parts['VERBS'], 'Ss')
    sampling = page_options(parts['SAMPLING OPTIONS'])
    common = page_options(parts['COMMON OPTIONS'])
    differ('quern.1: verbs', verbs, re.findall(r'^  ([a-z]+) +\S', said(quern, '--help'), flags=re.M))
    used = set()
    for verb, body in verbs.items():
        own = page_options(body) | common | (sampling if 'SAMPLING OPTIONS' in body else set())
        text = said(quern, verb, '--help')
        differ('quern.1: %s' % verb, own, help_options(text) | {'help'})
        accepted = {'help'} | {o for o in tool_table() if accepts(quern, verb, o)}
        differ('quern %s --help' % verb, help_options(text) | {'help'}, accepted)
        used |= accepted
    differ('the verbs of quern', used, tool_table())


def accepts(quern, verb, option):
    """Whether a verb takes an option: the only question that is settled before its value is looked at."""
    r = subprocess.run([quern, verb, '--' + option, '1', '--help'], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL)
    return 'takes no --' not in r.stderr


def check_service(quernd):
    with open('svc/options.c', encoding='utf-8') as f:
        rows = re.findall(r'^ +\{"([a-z-]+)", (NULL|"[a-z]+"), OPTION_', f.read(), flags=re.M)
    names = {name for name, _ in rows}
    text = sections(page('quernd.8'), 'Sh')
    help_text = said(quernd, '--help')
    differ('quernd.8', page_options(text['DESCRIPTION']), names)
    differ('quernd --help', help_options(help_text), names)
    lines = help_text.count('\n')
    if lines > 24 or max(map(len, help_text.split('\n'))) > 80:
        problems.append('quernd --help does not fit a screen: %d lines' % lines)
    verbs = re.search(r'VERB …\s+(.*?)\n  -', help_text, flags=re.S).group(1)
    documented = set(re.findall(r'^\.It Ic ([a-z]+)', text['VERBS'], flags=re.M))
    differ('quernd --help: verbs', re.findall(r'[a-z]+', verbs), documented)
    with open('svc/main.c', encoding='utf-8') as f:
        differ('quernd.8: verbs', documented, re.findall(r'\{"([a-z]+)", cmd_', f.read()))
    conf = sections(page('quern.conf.5'), 'Sh')
    for section in {s.strip('"') for _, s in rows if s != 'NULL'}:
        keys = re.findall(r'^\.It Cm ([a-z-]+) No =', conf.get('[%s]' % section, ''), flags=re.M)
        differ('quern.conf.5: [%s]' % section, keys, [n for n, s in rows if s.strip('"') == section])
    with open('svc/policy_file.c', encoding='utf-8') as f:
        policy = re.findall(r'strcmp\(key, "([a-z-]+)"\)', f.read())
    keys = set(re.findall(r'^\.It Cm ([a-z-]+) No =', conf['THE POLICY FILE'], flags=re.M))
    differ('quern.conf.5: policy', keys, policy)


def check_header():
    with open('client/quern.h', encoding='utf-8') as f:
        header = f.read()
    pages = {p: page(os.path.basename(p)) for p in glob.glob(MAN + '*.3')}
    everything = '\n'.join(pages.values())
    words = set(re.findall(r'\w+', everything))
    constants = set(re.findall(r'\bQUERN_[A-Z0-9_]*[A-Z0-9]\b', header)) - {'QUERN_H', 'QUERN_API'}
    headings = {os.path.basename(p)[:-2].upper() for p in pages}
    differ('section 3: constants', set(re.findall(r'\bQUERN_[A-Z0-9_]+', everything)) - headings -
           {'QUERN_SOCKET'}, constants - {'QUERN_SOCKET'})
    code = re.sub(r'/\*.*?\*/', '', header, flags=re.S)
    fields = set()
    for body in re.findall(r'struct quern_\w+ \{(.*?)^\};', code, flags=re.S | re.M):
        fields.update(re.findall(r'(\w+)(?:\[\d+\])?;', body))
    for name in sorted(fields - {'reserved', 'reserved_', 'capacity', 'u'} - words):
        problems.append('section 3 lacks the field %s' % name)
    print('#include "client/quern.h"')
    declared = set(re.findall(r'^QUERN_API[^(;]*?\b(quern_\w+)\(', header, flags=re.M))
    documented = set()
    for name, text in pages.items():
        synopsis = sections(text, 'Sh')['SYNOPSIS']
        names = set(re.findall(r'^\.Nm (\w+)', sections(text, 'Sh')['NAME'], flags=re.M))
        synopsis = re.sub(r'^\.Fo (\w+)\n((?:\.Fa .*\n)+)\.Fc',
                          lambda m: '.Fn ' + m[1] + ''.join(' ' + l[4:] for l in m[2].splitlines()),
                          synopsis, flags=re.M)
        for ret, f, args in re.findall(r'^\.Ft (.*)\n\.Fn (\w+) (.*)$', synopsis, flags=re.M):
            args = re.findall(r'"([^"]*)"|(\S+)', args)
            print('%s %s(%s);' % (ret.strip('"'), f, ', '.join(a or b for a, b in args)))
            documented.add(f)
            if f not in names:
                problems.append('%s: %s is not among its names' % (name, f))
    differ('section 3: functions', documented, declared)


def names():
    for path in sorted(glob.glob(MAN + '*.[1-8]')):
        section = path[-1]
        text = sections(page(os.path.basename(path)), 'Sh')['NAME']
        for name in re.findall(r'^\.Nm (\S+)', text, flags=re.M):
            print('%s.%s' % (name, section))


def examples(name, kind, folder):
    found = re.findall(r'^\.\\" %s\n\.Bd [^\n]*\n(.*?)^\.Ed' % kind, page(name), flags=re.S | re.M)
    for n, text in enumerate(found, 1):
        text = text.replace('\\e', '\\').replace('\\-', '-').replace('\\&', '')
        with open(os.path.join(folder, str(n)), 'w', encoding='utf-8') as f:
            f.write(text)
    print(len(found))


def main():
    what = sys.argv[1]
    {'tool': check_tool, 'service': check_service, 'header': check_header, 'names': names,
     'examples': examples}[what](*sys.argv[2:])
    for p in problems:
        print(p, file=sys.stderr)
    sys.exit(1 if problems else 0)


main()
