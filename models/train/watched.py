"""Loss on the watched examples, alone and named, of each checkpoint and of the average of all: `watched.py CHECKPOINT.pt...`"""

import sys

import torch

import data
from export import average
from model import Config, Qwen2
from tokenizer import Tokenizer
from train import watch

if __name__ == "__main__":
    torch.set_num_threads(2)
    tokenizer = Tokenizer()
    prefix = torch.tensor([tokenizer.prefix()])
    _, rows, _, _ = data.split(data.load_rows())
    for paths in [[path] for path in sys.argv[1:]] + [sys.argv[1:]]:
        parameters = {name: torch.from_numpy(array) for name, array in average(paths).items()}
        layers = 1 + max(int(name.split(".")[1]) for name in parameters if name.startswith("blk."))
        width = parameters["output_norm.weight"].shape[0]
        model = Qwen2(Config(layers=layers, width=width, heads=width // 64), parameters)
        alone, named = watch(model, prefix, tokenizer, rows)
        print(f"{alone:.4f} {named:.4f}  {paths[0] if len(paths) == 1 else 'average'}", flush=True)
