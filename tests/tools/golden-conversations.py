#!/usr/bin/env python3
"""Writes golden conversations with tools: what Jinja makes of the models' own templates.

Run (needs the jinja2 module, Debian's python3-jinja2):
    python3 tests/tools/golden-conversations.py >tests/golden/chat/conversations.jsonl

The first line is a list of tools. Each further line is one conversation: family, messages (in the form
of Hugging Face's apply_chat_template), the numbers of its tools in that list, options, and the text
that Jinja renders, in the environment that transformers uses (blocks trimmed, sandboxed, `tojson` by
json.dumps without escapes). "qwen2" with tools or calls is rendered by qwen2-tools.jinja, the template
of Qwen's own documentation.
"""
import json
import math
import random
import struct

from jinja2.sandbox import ImmutableSandboxedEnvironment

TEXTS = ["Hello", "", " ", "\n", "\n\n  x", "Hi\n", "  two  ", "tab\tand\r\nline", "再见，世界", "สวัสดี", "नमस्ते",
         "😀👩‍👩‍👧", "it's 12 o'clock", "e\u0301", "{{ x }} {% raw %}", "a" * 70, "```c\nint x;\n```", "'quoted' \"too\"",
         "<tool_response>", "<tool_call>\n{}\n</tool_call>", "✿FUNCTION✿: f\n✿ARGS✿: {}", "<|im_end|>", "\u3000wide\u2028",
         "\\n is no line end", "user\nassistant\n"]
SYSTEMS = TEXTS + ["You are a pirate.", "\u00a0 Be brief. \x1f", "日本語で。"]
VALUES = ["Paris", "Zürich, 8001", 3, -17, 0, 10**15, 9223372036854775807, 0.1, 1.0, -0.0, 1e16, 1e15, 123456789.125, 1e-4,
          1e-5, 5e-324, 1.7976931348623157e308, 2.5e-7, 1e22, 100000.0, True, False, None, [], {}, [1, [2, {"a": None}]],
          "\"quotes\" \\ / \b\f\n\r\t\x00\x1f\x7f", "é 漢 😀 \u2028", {"z": 1, "a": 2, "é": [True]}, ["", " "]]
TOOLS = [
    {"type": "function", "function": {
        "name": "get_current_temperature", "description": "Get current temperature at a location.",
        "parameters": {"type": "object", "properties": {
            "location": {"type": "string", "description": "The location, in the format \"City, State, Country\"."},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": None}}, "required": ["location"]}}},
    {"type": "function", "function": {
        "name": "get_temperature_date", "description": "Get temperature at a location and date.\nTwo lines.",
        "parameters": {"type": "object", "properties": {"date": {"type": "string"}}, "required": ["date"]}}},
    {"type": "function", "function": {"name": "天气", "description": "查询“天气” <b>&amp;</b> 'x'", "parameters": {}}},
    {"type": "function", "strict": True, "function": {
        "name": "tune", "description": "", "parameters": {
            "type": "object", "minimum": 1e-7, "maximum": 1e21, "multipleOf": 0.5, "examples": VALUES}}},
    {"type": "function", "function": {"name": "noop", "description": " ", "parameters": {"type": "object", "properties": {}}}},
]


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return env


def number():
    """A double of random bits, or a power of two: the hard cases of the shortest spelling."""
    if random.random() < 0.5:
        return math.ldexp(1.0, random.randint(-1074, 1023))
    value = struct.unpack("<d", random.randbytes(8))[0]
    return value if math.isfinite(value) else 0.5


def call():
    arguments = {random.choice(["location", "unit", "n", "é", "a b"]): random.choice(VALUES)
                 for _ in range(random.randint(0, 3))}
    if random.random() < 0.5:
        arguments["x"] = number()
    if random.random() < 0.1:
        arguments = json.dumps(arguments)  # as OpenAI's clients leave it: a string
    function = {"name": random.choice(TOOLS)["function"]["name"], "arguments": arguments}
    return {"type": "function", "function": function}


def conversation(flower):
    messages = []
    if random.random() < 0.5:
        messages.append({"role": "system", "content": random.choice(SYSTEMS)})
    messages.append({"role": "user", "content": random.choice(TEXTS)})
    for _ in range(random.randint(0, 4)):
        kind = random.random()
        if kind < 0.35:
            n = random.choice([1, 1, 1, 2, 3])
            message = {"role": "assistant", "tool_calls": [call() for _ in range(n)]}
            if not flower and random.random() < 0.3:
                message["tool_calls"] = [c["function"] for c in message["tool_calls"]]
            content = random.choice([None, "", "Let me see.", "absent"])
            if content != "absent":
                message["content"] = content
            messages.append(message)
            for _ in range(random.choice([0, n, n])):
                messages.append({"role": "tool", "content": random.choice(TEXTS + ["{\"temperature\": 26.1}"])})
        elif kind < 0.6:
            messages.append({"role": "assistant", "content": random.choice(TEXTS)})
        elif kind < 0.65:
            messages.append({"role": "system", "content": random.choice(TEXTS)})
        else:
            messages.append({"role": "user", "content": random.choice(TEXTS)})
    return messages


def main():
    random.seed(11)
    env = environment()
    templates = {name: env.from_string(open(f"tests/golden/chat/{name}.jinja", encoding="utf8", newline="").read())
                 for name in ("qwen2", "qwen2-tools", "qwen1.5", "qwen1.5-early", "qwen2.5")}
    print(json.dumps(TOOLS, ensure_ascii=False))
    for i in range(400):
        family = "qwen2.5" if i % 2 else "qwen2"
        messages = conversation(family == "qwen2")
        numbers = sorted(random.sample(range(len(TOOLS)), random.choice([0, 1, 1, 2, 3])))
        if 3 in numbers and random.random() < 0.7:
            numbers.remove(3)  # the long one
        called = any("tool_calls" in m for m in messages)
        options = {"add_generation_prompt": random.random() < 0.7}
        variables = dict(options, messages=messages)
        if numbers:
            variables["tools"] = [TOOLS[n] for n in numbers]
        template = templates[family]
        if family == "qwen2" and (numbers or called):
            template = templates["qwen2-tools"]
            options["parallel_tool_calls"] = variables["parallel_tool_calls"] = random.random() < 0.5
            options["language"] = variables["language"] = random.choice(["en", "zh"])
        elif family == "qwen2":
            family = random.choice(["qwen2", "qwen1.5", "qwen1.5-early"])
            template = templates[family]
        print(json.dumps({"family": family, "messages": messages, "tools": numbers, **options,
                          "text": template.render(**variables)}, ensure_ascii=False))


main()
