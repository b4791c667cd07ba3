#!/usr/bin/env python3
"""Writes golden chat prompts: what Jinja makes of the models' own templates.

Run (needs the jinja2 module):  python3 tests/tools/golden-chat.py >tests/golden/chat/prompts.tsv

Each line: template, 0 or 1 (add_generation_prompt), the rendered text, and role and content of each
message, with the escapes \\\\ \\n \\t \\r. The templates, tests/golden/chat/*.jinja, are those of the
models' tokenizer_config.json (Apache License 2.0, Alibaba Cloud).
"""
import random

import jinja2

TEMPLATES = ["qwen2", "qwen1.5", "qwen1.5-early", "qwen2.5"]
TEXTS = ["Hello", "", " ", "\n", "\n\n  x", "Hi\n", "  two  ", "tab\tand\r\nline", "再见，世界", "สวัสดี", "नमस्ते",
         "😀👩‍👩‍👧", "it's 12 o'clock", "e\u0301", "{{ x }} {% raw %}", "a" * 70, "```c\nint x;\n```", "'quoted' \"too\"",
         "<tool_response>", "\\n is no line end", "user\nassistant\n"]


def escape(text):
    return (text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
            .replace("\r", "\\r"))


def main():
    random.seed(5)
    # as transformers renders: blocks trimmed, nothing added
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, newline_sequence="\n")
    for name in TEMPLATES:
        source = open(f"tests/golden/chat/{name}.jinja", encoding="utf8", newline="").read()
        template = environment.from_string(source)
        for _ in range(120):
            roles = ["user", "assistant", "tool"] if random.random() < 0.5 else ["user", "assistant"]
            messages = [{"role": random.choice(roles), "content": random.choice(TEXTS)}
                        for _ in range(random.randint(1, 6))]
            if random.random() < 0.5:
                messages.insert(0, {"role": "system", "content": random.choice(TEXTS)})
            if random.random() < 0.1:
                messages.append({"role": "system", "content": random.choice(TEXTS)})
            generation = random.random() < 0.7
            text = template.render(messages=messages, add_generation_prompt=generation)
            parts = [m[key] for m in messages for key in ("role", "content")]
            print("\t".join([name, str(int(generation)), escape(text), *map(escape, parts)]))


main()
