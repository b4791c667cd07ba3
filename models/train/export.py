"""Average checkpoints and write the model: `export.py OUT.gguf F32|Q8_0 CHECKPOINT.pt...`"""

import sys

import torch

import gguf
from model import Config
from tokenizer import SYSTEM, Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nSYSTEM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
).replace("SYSTEM", SYSTEM)

NORMAL, CONTROL = 1, 3  # llama.cpp's token types


def average(paths):
    total = torch.load(paths[0])
    for path in paths[1:]:
        for name, p in torch.load(path).items():
            total[name] += p
    return {name: (p / len(paths)).numpy() for name, p in total.items()}


def metadata(config, tokenizer, file_type):
    types = [NORMAL] * tokenizer.control + [CONTROL] * 3
    return [
        ("general.architecture", gguf.STRING, "qwen2"),
        ("general.type", gguf.STRING, "model"),
        ("general.name", gguf.STRING, "quern tldr"),
        ("general.basename", gguf.STRING, "quern-tldr"),
        ("general.size_label", gguf.STRING, "10M"),
        ("general.description", gguf.STRING, "A request in plain words in, a shell command out."),
        ("general.license", gguf.STRING, "cc-by-4.0"),
        ("general.languages", gguf.ARRAY, (gguf.STRING, ["en"])),
        ("general.quantization_version", gguf.U32, 2),
        ("general.file_type", gguf.U32, file_type),
        # Generation defaults: greedy, since a command has few right wordings.
        ("general.sampling.temp", gguf.FLOAT, 0.0),
        ("general.sampling.top_k", gguf.I32, 1),
        ("general.sampling.top_p", gguf.FLOAT, 1.0),
        ("general.sampling.penalty_repeat", gguf.FLOAT, 1.0),
        ("qwen2.block_count", gguf.U32, config.layers),
        ("qwen2.context_length", gguf.U32, config.context),
        ("qwen2.embedding_length", gguf.U32, config.width),
        ("qwen2.feed_forward_length", gguf.U32, config.ff),
        ("qwen2.attention.head_count", gguf.U32, config.heads),
        ("qwen2.attention.head_count_kv", gguf.U32, config.kv_heads),
        ("qwen2.rope.freq_base", gguf.FLOAT, config.rope_base),
        ("qwen2.attention.layer_norm_rms_epsilon", gguf.FLOAT, config.eps),
        ("tokenizer.ggml.model", gguf.STRING, "gpt2"),
        ("tokenizer.ggml.pre", gguf.STRING, "qwen2"),
        ("tokenizer.ggml.tokens", gguf.ARRAY, (gguf.STRING, tokenizer.tokens)),
        ("tokenizer.ggml.token_type", gguf.ARRAY, (gguf.I32, types)),
        ("tokenizer.ggml.merges", gguf.ARRAY, (gguf.STRING, tokenizer.merges)),
        ("tokenizer.ggml.eos_token_id", gguf.U32, tokenizer.im_end),
        ("tokenizer.ggml.padding_token_id", gguf.U32, tokenizer.end_of_text),
        ("tokenizer.ggml.bos_token_id", gguf.U32, tokenizer.end_of_text),
        ("tokenizer.ggml.add_bos_token", gguf.BOOL, False),
        ("tokenizer.chat_template", gguf.STRING, CHAT_TEMPLATE),
    ]


def main():
    out, kind, *checkpoints = sys.argv[1:]
    tensors = average(checkpoints)
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    ff, width = tensors["blk.0.ffn_gate.weight"].shape
    config = Config(layers=layers, ff=ff, width=width, heads=tensors["blk.0.attn_q.weight"].shape[0] // 64)
    matrix_type, file_type = {"F32": (gguf.F32, 0), "Q8_0": (gguf.Q8_0, 7)}[kind]
    gguf.write(out, metadata(config, Tokenizer(), file_type), tensors, matrix_type)


if __name__ == "__main__":
    main()
