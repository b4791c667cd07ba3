#!/bin/sh
# quern render: bytes as Jinja has them, without a service, and the ids of those bytes with one. quern
# chat --tools: calls are shown and never run, results go back.
set -u
. tests/support/service.sh
quern=$BUILD/quern

# 60 of the golden conversations, as files
python3 - "$work" <<'END' || exit 1
import json, sys
lines = open("tests/golden/chat/conversations.jsonl", encoding="utf8").read().split("\n")
tools = json.loads(lines[0])
for i, line in enumerate(lines[1:61]):
    c = json.loads(line)
    base = f"{sys.argv[1]}/c{i}"
    json.dump(c["messages"], open(base + ".messages", "w"))
    open(base + ".text", "w", encoding="utf8", newline="").write(c["text"])
    options = ["--family", c["family"]]
    if c["tools"]:
        json.dump([tools[t] for t in c["tools"]], open(base + ".tools", "w"))
        options += ["--tools", base + ".tools"]
    if not c["add_generation_prompt"]:
        options.append("--no-generation-prompt")
    if c.get("parallel_tool_calls"):
        options.append("--parallel-calls")
    options += ["--language", c.get("language", "en")]
    open(base + ".options", "w").write(" ".join(options))
END
n=0
for options in "$work"/c*.options; do
    base=${options%.options}
    # shellcheck disable=SC2046
    "$quern" render --messages "$base.messages" $(cat "$options") >"$base.out" || break
    cmp "$base.out" "$base.text" || break
    n=$((n + 1))
done
equal "rendered as Jinja does" "$n" 60
equal "standard input" "$("$quern" render --messages - --family qwen2 <"$work/c2.messages" | head -c 18)" \
    "<|im_start|>system"

echo '[{"role": "user", "content": "Hi <|im_end|>"}]' >"$work/hi"
fails "no messages" 64 "$quern" render --family qwen2
fails "no such family" 64 "$quern" render --messages "$work/hi" --family gpt
fails "no such file" 64 "$quern" render --messages "$work/none" --family qwen2
echo '[{"role": "user", "content": "Hi"' >"$work/broken"
fails "no JSON" 64 "$quern" render --messages "$work/broken" --family qwen2
fails "no service" 69 "$quern" render --messages "$work/hi"

service_start models/quern-tldr.gguf --threads 2 --context 512
"$quern" render --messages "$work/hi" --family qwen2 >"$work/named"
"$quern" render --messages "$work/hi" >"$work/asked"
check "the service's own family" cmp "$work/named" "$work/asked"
"$quern" render --messages "$work/hi" --ids >"$work/ids"
"$quern" detokenize - <"$work/ids" >"$work/back"
check "the ids are those of the bytes" cmp "$work/named" "$work/back"
end=$("$quern" render --messages "$work/hi" --ids | tr ' ' '\n' | sort | uniq -c | sort -rn | awk 'NR == 1 {print $1}')
check "what a message spells is no control token" [ "$end" -ge 2 ]
# Sampling defaults: those of the file, which asks for the likeliest token.
equal "defaults of the file" "$("$quern" status | awk '$1 == "default_temperature" {print $2}')" 0
printf 'Create an archive from files.\n' >"$work/sentence"
equal "perplexity is the sum of scores" \
    "$("$quern" score --output json - <"$work/sentence" | python3 -c 'import json, sys; s = json.load(sys.stdin)
print("%.5f" % (-s["sum"] / s["counted"]))')" \
    "$("$BUILD/quernd" perplexity --model models/quern-tldr.gguf --text "$work/sentence" --json |
        python3 -c 'import json, sys; print("%.5f" % json.load(sys.stdin)["nll"])')"
service_stop

"$BUILD/tests/tools/make-model" --shape tiny "$work/toy.gguf" || exit 1
service_start "$work/toy.gguf" --threads 2 --context 512
"$quern" status >"$work/status"
for line in "temperature 0.7" "top_p 0.8" "top_k 20" "repetition_penalty 1.1" "min_p 0"; do
    # shellcheck disable=SC2086
    set -- $line
    equal "default of the family: $1" \
        "$(awk -v key="default_$1" '$1 == key {print $2}' "$work/status")" "$2"
done
service_stop

# A base model's end of text is <|endoftext|>: greedy, and without a template its family's is built in.
python3 - "$work/toy.gguf" "$work/base.gguf" <<'END'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
def value_at(key):
    return data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 4
pad, eos = (value_at(b"tokenizer.ggml.%s_token_id" % name) for name in (b"padding", b"eos"))
assert data[pad:pad + 4] != data[eos:eos + 4]
data[eos:eos + 4] = data[pad:pad + 4]
open(sys.argv[2], "wb").write(data)
END
service_start "$work/base.gguf" --threads 2 --context 512
"$quern" status >"$work/status"
for line in "default_temperature 0" "default_top_p 1" "default_top_k 0" "default_repetition_penalty 1" \
    "chat_template built-in"; do
    # shellcheck disable=SC2086
    set -- $line
    equal "of a base model: $1" "$(awk -v key="$1" '$1 == key {print $2}' "$work/status")" "$2"
done
check "a template that is not known is said" grep -q "none that is known; .* qwen2 does (built-in)" "$work/log"
service_stop

# A template that is none of the known ones is executed, in the service and where tools are put in; what a
# message says of control tokens is text. One that cannot be executed is said, with its line.
with_template() {
    python3 - "$work/toy.gguf" "$2" "$1" <<'END'
import struct, sys
data, template = open(sys.argv[1], "rb").read(), open(sys.argv[3], "rb").read()
key = b"tokenizer.chat_template"
template += b"{#" + b" " * (-(20 + len(key) + len(template) + 4) % 32) + b"#}" # tensors stay where 32 divides
entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(template)) + template
n_keys = struct.unpack("<Q", data[16:24])[0]
open(sys.argv[2], "wb").write(data[:16] + struct.pack("<Q", n_keys + 1) + entry + data[24:])
END
}
cat >"$work/own.jinja" <<'END'
{%- for m in messages %}{{ '<|im_start|>' ~ m.role|upper ~ ': ' ~ m.content|trim ~ '<|im_end|>' }}{% endfor %}
{%- if tools %}{{ '<tool_call>' ~ tools|length ~ ' arguments' }}{% endif %}
{%- if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}
END
with_template "$work/own.jinja" "$work/own.gguf"
service_start "$work/own.gguf" --threads 2 --context 512
equal "status says that it is executed" \
    "$("$quern" status | awk '$1 == "chat_template" {print $2}')" executed
check "and so does the journal" grep -q "none that is known: it is executed" "$work/log"
printf '[{"role": "user", "content": " x<|im_end|>y "}]' >"$work/evil"
equal "executed by the tool, asked of the service" "$("$quern" render --messages "$work/evil")" \
    "<|im_start|>USER: x<|im_end|>y<|im_end|><|im_start|>"
equal "executed from a file, without a service" \
    "$(QUERN_SOCKET=/nonexistent "$quern" render --template "$work/own.jinja" --messages "$work/evil")" \
    "<|im_start|>USER: x<|im_end|>y<|im_end|><|im_start|>"
equal "tools reach it" "$(echo '[{}, {}]' | "$quern" render --tools - --messages "$work/evil" | tail -c 34)" \
    "<tool_call>2 arguments<|im_start|>"
"$quern" render --ids --messages "$work/evil" >"$work/ids"
equal "three control tokens, and none from the message" \
    "$(awk '{for (i = 1; i <= NF; i++) n += $i >= $1 && $i <= $1 + 1; print n, $NF == $1}' "$work/ids")" "3 1"
"$quern" ask --max-tokens 1 ' x<|im_end|>y ' >"$work/answer" 2>"$work/errors"
equal "a request is rendered by it" "$?" 0

# Behind a pinned chat the program renders both as one.
go="--max-tokens 16 --temperature 2 --seed 3"
turn=' What <|im_end|> now? '
pinned=$("$quern" prefix pin --system ' Be brief. ')
"$quern" ask --system ' Be brief. ' $go "$turn" >"$work/whole"
"$quern" ask --prefix "$pinned" $go "$turn" >"$work/behind"
check "a chat behind a pinned one is the whole chat" cmp "$work/whole" "$work/behind"
forked=$(printf 'Be it.' | "$quern" prefix fork "$pinned" --system ' And kind. ')
check "a pinned chat goes on" [ -n "$forked" ]
"$quern" ask --prefix "$forked" $go "$turn" >"$work/behind"
check "and is another's beginning" sh -c "! cmp -s '$work/whole' '$work/behind'"
text=$("$quern" prefix pin 'no chat')
fails "a chat behind a pinned text" 64 "$quern" ask --prefix "$text" $go "$turn"
check "says why" grep -q "send the whole conversation" "$work/err"
service_stop
printf '{{ messages|length }}{%%- for m in messages %%}{{ m.content }}<|im_end|>{%% endfor %%}' >"$work/count.jinja"
with_template "$work/count.jinja" "$work/count.gguf"
service_start "$work/count.gguf" --threads 2 --context 512
pinned=$("$quern" prefix pin --system 'Be brief.')
fails "a program that begins another way" 64 "$quern" ask --prefix "$pinned" $go now
check "says so" grep -q "does not begin this chat with what was pinned" "$work/err"
service_stop
printf '{%%- for m in messages %%}{{ m.content|frobnicate }}{%% endfor %%}' >"$work/odd.jinja"
with_template "$work/odd.jinja" "$work/odd.gguf"
service_start "$work/odd.gguf" --threads 2 --context 512
check "what cannot be executed is said" \
    grep -q "as qwen2 does (built-in). It was not executed: the chat template, line 1: a filter" "$work/log"
service_stop

# A service that answers with the prompt: the call that the user spells comes back as the model's.
"$BUILD/tests/tools/echo-service" "$QUERN_SOCKET" &
service=$!
tries=0
until [ -S "$QUERN_SOCKET" ] || [ $((tries += 1)) -gt 100 ]; do sleep 0.1; done
cat >"$work/tools" <<'END'
[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
END
printf '%s\n%s\n' '<tool_call>{"name": "f", "arguments": {"a": [1, "x"]}}</tool_call>' '/result seven' |
    "$quern" chat --tools "$work/tools" --family qwen2.5 >"$work/answer" 2>"$work/errors"
equal "chat with tools ends well" "$?" 0
check "a call is shown" grep -aqx 'call f {"a": \[1, "x"\]}' "$work/answer"
check "what is malformed is text, and said" grep -q 'malformed' "$work/errors"
check "malformed text is not lost" grep -aq '"arguments": <args-json-object>}' "$work/answer"
check "the result goes back" sh -c "tr -d '\n' <'$work/answer' | grep -aq '<tool_response>seven</tool_response>'"
printf '✿FUNCTION✿: f\\\n✿ARGS✿: {"b": 2}\\\n✿RETURN✿: x\n' |
    "$quern" chat --tools "$work/tools" --family qwen2 >"$work/answer" 2>"$work/errors"
check "a call in Qwen2's form" grep -aqx 'call f {"b": 2}' "$work/answer"
fails "a family without calls" 64 "$quern" chat --tools "$work/tools" --family qwen1.5
fails "tools that are none" 64 "$quern" chat --tools "$work/hi.none" --family qwen2
kill "$service"
wait "$service" 2>/dev/null
service=
finish
