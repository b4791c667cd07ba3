"""The kernels of training against the plain model: loss and the direction of every gradient. Exit 1 if they part."""

import sys

import torch
import torch.nn.functional as F

from fused import FusedQwen2
from model import Config, Qwen2, init_parameters

COSINE_MIN = 0.99  # bfloat16 products; a wrong kernel gives far less


def gradients(kind, config):
    parameters = init_parameters(config, seed=1)
    for name, p in parameters.items():  # biases and norms away from their neutral start
        if p.dim() == 1:
            p.data.add_(torch.randn(p.shape) * 0.1)
    model = kind(config, parameters)
    ids = torch.randint(0, config.vocab, (20, 30))
    weights = model.weights()
    _, cache = model.forward(torch.arange(100, 117)[None], weights=weights)
    hidden, _ = model.forward(ids, cache, 0.15, weights)
    logits = model.logits(hidden[:, 10:].reshape(-1, config.width), weights)
    loss, _ = model.loss(logits, ids[:, 10:].reshape(-1), torch.rand(len(logits)) + 0.5)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in parameters.items()}


if __name__ == "__main__":
    config = Config(layers=2)
    plain_loss, plain = gradients(Qwen2, config)
    fused_loss, fused = gradients(FusedQwen2, config)
    cosines = {name: F.cosine_similarity(plain[name].flatten(), fused[name].flatten(), dim=0).item() for name in plain}
    worst = min(cosines, key=cosines.get)
    print(f"loss {plain_loss:.4f} and {fused_loss:.4f}; least cosine {cosines[worst]:.5f} ({worst})")
    sys.exit(cosines[worst] < COSINE_MIN or abs(plain_loss - fused_loss) > 0.01)
