#!/usr/bin/env python3
"""Writes golden renderings of whole Jinja programs and of small ones, for the interpreter's tests.

Run (needs the jinja2 module, Debian's python3-jinja2):
    python3 tests/tools/golden-jinja.py >tests/golden/jinja/cases.jsonl

Each line: "program" (its text) or "file" (of tests/golden/jinja or tests/golden/chat), "messages", "tools", "gen"
(add_generation_prompt), "extra" (further variables), and "text", or "error": Jinja raises an exception.
The environment is that of transformers: see golden-conversations.py.
"""
import json
import os
import random

import jinja2
import jinja2.ext

GENERATOR = {}
source = open(os.path.join(os.path.dirname(__file__), "golden-conversations.py"), encoding="utf8").read()
exec(source[:source.rindex("main()")], GENERATOR)  # its conversations and its environment

FILES = ["jinja/qwq", "jinja/qwen3", "jinja/qwen3-coder", "jinja/deepseek-r1-distill-qwen", "jinja/smollm3",
         "jinja/mistral-nemo", "jinja/phi-3.5", "jinja/glm-4.6", "chat/qwen2", "chat/qwen1.5",
         "chat/qwen1.5-early", "chat/qwen2.5", "chat/qwen2-tools", "chat/qwen2.5-base",
         "chat/qwen2.5-math"]

EXPRESSIONS = r"""
1 + 2 * 3
-7 // 2
-7 % 3
7 / 2
2 - -3
+4
(1, 2)
[1, 'a', none, true, 1.5]
{'a': [1], "b": {}}
'it''s'
"a" "b"
'a' ~ 1 ~ none ~ true
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'a' == "a"
[1] == [1]
{'a': 1} == {'a': 1.0}
none == undefined_thing
'a' < 'b'
'é' > 'z'
not true
not 0 or 1
0 or ''
'' or 'x' and 'y'
1 if true
1 if false
1 if false else 2 if false else 3
'x' in 'xyz'
'q' not in 'xyz'
2 in [1, 2]
'k' in {'k': 1}
1 not in [1]
'abc'[0]
'abc'[-1]
'abc'[5]
'日本語'[1]
'日本語'[1:]
'日本語'[::-1]
'abcdef'[1:-1]
'abcdef'[::2]
'abcdef'[-2:]
'abcdef'[10:]
'abcdef'[4:1]
[1,2,3][1:]
[1,2,3][::-1]
(1,2,3)[:2]
[1,2,3][-1]
[1,2,3][9] is defined
{'a': 1}['a']
{'a': 1}.a
{'a': 1}.b
{'a': {'b': 2}}.a.b
{'items': 3}['items']
{'items': 3}.items is callable
{'x': 1}.items()|list
{'x': 1}.keys()|list
{'x': 1, 'y': 2}.values()|list
{'a': 1}.get('a')
{'a': 1}.get('b')
{'a': 1}.get('b', 'c')
'  a b '.strip()
'xxaxx'.strip('x')
'  a '.lstrip() ~ '|'
'  a '.rstrip() ~ '|'
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
' a  b c '.split()
' a  b c '.split(none, 1)
'a,b,c'.rsplit(',', 1)
'a--b'.split('--')
''.split(',')
'hello'.startswith('he')
'hello'.endswith(('x', 'lo'))
'aBc'.upper()
'aBc'.lower()
'aBC dE'.capitalize()
'aXbX'.replace('X', '-')
'aXbX'.replace('X', '-', 1)
'ab'.replace('', '.')
', '.join(['a', 'b'])
'banana'.find('an')
'banana'.rfind('an')
'日本'.find('本')
'banana'.count('an')
'banana'.removeprefix('ba')
'banana'.removesuffix('na')
'abc'|length
'日本語'|length
[1, 2]|length
{'a': 1}|length
nothing|length
' x '|trim
'xyx'|trim('x')
3|string ~ 4
none|string
'12'|int + 1
'x'|int
'x'|int(7)
3.9|int
true|int
-3|abs
-2.5|abs
nothing|default('d')
''|default('d')
''|default('d', true)
none|default('d')
none|d('d', boolean=true)
[1, 2, 3]|join
[1, 'b', none]|join(', ')
messages|map(attribute='role')|join('/')
['a', 'B']|map('upper')|join
[1, 2]|first
[1, 2]|last
[]|first
'abc'|first
'abc'|last
{'a': 1}|first
'abc'|list
(1, 2)|list
{'b': 1, 'a': 2}|list
{'b': 1, 'A': 2, 'a': 3}|dictsort
{'b': [1]}|items|list
'abc'|reverse
[1, 2]|reverse|list
'a<b'|safe
'a<b'|safe + '<c'
'x' + ('a<b'|safe)
('<'|safe) ~ '<'
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(width=1, blank=true)
'a\n'|indent
''|indent(2, true)
'a-b'|replace('-', '+')
[0, 1, '', 'x']|select|list
[0, 1, '', 'x']|reject|list
[1, 2, 3, 4]|select('even')|list
[1, 2, 3]|reject('gt', 1)|list
[1, 'a']|select('string')|list
messages|selectattr('role', 'equalto', 'user')|list|length
messages|rejectattr('role', 'in', ['user', 'system'])|map(attribute='role')|list
messages|selectattr('tool_calls', 'defined')|list|length
messages[0].content
messages[-1]['role']
messages[99]
messages[1:]|length
tools is none
documents is none
add_generation_prompt
bos_token
eos_token
date
nothing is defined
nothing is undefined
none is none
'' is string
1 is number
true is number
1.5 is float
1 is integer
true is integer
true is boolean
1 is boolean
{} is mapping
[] is mapping
[] is iterable
'' is iterable
1 is iterable
[] is sequence
{} is sequence
nothing is iterable
true is true
1 is true
false is false
1 is odd
2 is even
6 is divisibleby 3
7 is divisibleby(3)
'a' is in 'abc'
'a' is eq 'a'
1 is ne 2
1 is lt 2
2 is gt 1
not nothing is defined
1 is not none
range(3)|list
range(1, 7, 2)|list
range(3, 0, -1)|list
dict(a=1, b='x')
dict({'a': 1}, b=2) == {'a': 1, 'b': 2}
namespace(a=1).a
namespace(a=1).b is defined
[1] + [2]
(1,) + (2,)
'ab' * 3
'ab' * 0
1.0
1e5
1e16
0.1 + 0.2
1.5 * 2
7.0 / 2
100000000000000000000.0
'\x41\u00e9\n\t\\\q\'\"'
"\101"
{'a': [1, {'b': none}], 'c': true, 'd': 'é"\\/\n'}|tojson
{'a': [1, {'b': none}], 'e': {}, 'f': []}|tojson(indent=2)
[]|tojson(indent=4)
'</script>'|tojson
[1.0, 1e-7]|tojson
[1, 'it''s', "it's", '"', '\n', 'é', '\u200b', '\x7f', '\\']|['a', ('b',), {'c': none}]|{'a': 'b'}|string|[true, none, nothing]|['日本', '\u3000']|-1|- 1|not not 1
""".strip().split("\n")

PROGRAMS = [
    "{% for x in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }} {% endfor %}",
    "{% for x in [] %}a{% else %}b{% endfor %}", "{% for x in nothing %}a{% else %}b{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for x in range(9) if x is odd %}{{ x }}{{ loop.index0 }} {% endfor %}",
    "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in 'ab' %}{{ loop.index }}{{ y }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.previtem }}<{{ x }}<{{ loop.nextitem }} {% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(n=0, s='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = (b, a) %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set a, b = [1, 2, 3] %}",
    "{% if true %}{% set x = 5 %}{% endif %}{{ x }}", "{% set x %}a{{ 1 + 1 }}{% endset %}{{ x }}{{ x|length }}",
    "{% macro m(a, b=2, c='') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(1, 4) }}{{ m() }}{{ m(1)|length }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ x }}{% endmacro %}{% set x = 3 %}{{ m(1) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}  \n  b\n  {%- endif %}\n c\n\n", "a {%- if true -%} b {%- endif -%} c", "  {% if 1 %}x{% endif %}",
    "a  {%+ if true %}b{% endif +%}\nc", "a\n   {# note #}\nb{# x #}\n{#- y -#}  c", "x {{- ' y ' -}} z", "{{ '{{' }}{% raw %}{{ x }}{% endraw %}!", "{%- raw -%}  {% a %}  {%- endraw -%}  b",
    "line\r\nend\rmac\n{{ 'a\r\nb' }}", "\n\n{% set x = 1 %}\n\n{{ x }}\n\n", "  {{ 1 }}  \n", "{{ {'a': {'b': {}}} }}", "{{ 'a' if nothing else 'b' }}",
    "{{ nothing }}", "{{ nothing.a }}", "{{ nothing['a'] }}", "{{ none.a }}", "{{ none.a.b }}", "{{ nothing + 1 }}", "{{ 'a' + 1 }}", "{{ 1 + none }}", "{{ 1 < 'a' }}", "{{ 1 in 'a' }}", "{{ 1 / 0 }}", "{{ none|length }}",
    "{% set x = [] %}{{ x.append(1) }}", "{% set x = {} %}{{ x.update({'a': 1}) }}", "{% if false %}{{ messages.append(1) }}{% endif %}x",
    "{{ raise_exception('No!') }}", "{{ {'a': 1}.update({}) }}", "{{ 5.strip() }}", "{{ messages() }}", "{{ 'a'.nothing }}", "{{ [].nothing is defined }}", "{{ tools|tojson }}",
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content + '<|im_end|>' }}{% endfor %}",
    "{% generation %}x{{ 1 }}{% endgeneration %}y", "{%if 1%}a{%elif 2%}b{%else%}c{%endif%}", "{% if 0 %}a{% elif '' %}b{% else %}c{% endif %}",
    "{% for a in [[1, 2], [3, 4]] %}{% for b in a %}{{ b }}{% if not loop.last %},{% endif %}{% endfor %};{% endfor %}",
    "{% set x = [1, 2] %}{% for i in x %}{% set x = 'inner' %}{% endfor %}{{ x }}", "{{ range(3) | map('string') | join('-') }}", "{{ loop is defined }}",
    "{% set d = {'a': 1} %}{% for k in d %}{{ k }}{{ d[k] }}{% endfor %}", "{{ (1 if true else 2) + 3 }}", "{{ 'a'.upper() ~ 'b' if 1 == 1 else 'c' }}", "{{ [1, 2, 3,] }}{{ {'a': 1,} }}{{ (1,) }}{{ () }}",
]


class Generation(jinja2.ext.Extension):
    """The tag by which transformers marks what the assistant says."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = GENERATOR["environment"]().filters["tojson"]
    env.globals["raise_exception"] = raise_exception
    return env


def conversation(i):
    if i % 3 == 0:
        messages = [{"role": "user", "content": random.choice(GENERATOR["TEXTS"])}]
        for _ in range(random.randint(0, 2)):
            messages.append({"role": "assistant", "content": random.choice(GENERATOR["TEXTS"] + ["<think>\nhm\n</think>\n\nyes"])})
            messages.append({"role": "user", "content": random.choice(GENERATOR["TEXTS"])})
        if random.random() < 0.5:
            messages.insert(0, {"role": "system", "content": random.choice(GENERATOR["SYSTEMS"])})
        return messages
    messages = GENERATOR["conversation"](False)
    for message in messages if i % 3 == 1 else []:
        for call in message.get("tool_calls", []):
            call["id"] = f"call{random.randint(0, 99999):05}"
        if message.get("content") is None:
            message["content"] = ""
    return messages


def case(env, source, fields):
    try:
        text = env.from_string(source).render(
            messages=fields["messages"], tools=fields["tools"], documents=None, add_generation_prompt=fields["gen"],
            bos_token="<|endoftext|>", eos_token="<|im_end|>", **fields["extra"])
        result = {"text": text}
    except Exception:  # of whatever kind: the prompt is refused
        result = {"error": True}
    print(json.dumps({**fields, **result}, ensure_ascii=False))


def main():
    random.seed(17)
    env = environment()
    plain = {"messages": [{"role": "system", "content": "S <|im_end|>"}, {"role": "user", "content": " é\n"},
                          {"role": "assistant", "content": "", "tool_calls": []}], "tools": None, "gen": True, "extra": {"date": "today"}}
    for expression in EXPRESSIONS:
        program = "{{ " + expression + " }}"
        case(env, program, {"program": program, **plain})
    for program in PROGRAMS:
        case(env, program, {"program": program, **plain})
    for name in FILES:
        source = open(f"tests/golden/{name}.jinja", encoding="utf8", newline="").read()
        for i in range(40):
            numbers = random.sample([0, 1, 2, 4], random.choice([0, 0, 1, 2]))
            case(env, source, {"file": name, "messages": conversation(i),
                               "tools": [GENERATOR["TOOLS"][n] for n in numbers] or None,
                               "gen": random.random() < 0.7,
                               "extra": random.choice([{}, {}, {"enable_thinking": False}, {"parallel_tool_calls": True}])})


main()
