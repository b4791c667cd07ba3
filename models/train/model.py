"""The Qwen2 architecture in torch: RMSNorm, q/k/v biases, grouped queries, NeoX RoPE, SwiGLU, tied embeddings.

This is the plain version, all float32. In training (fused.py) the matrix products run in bfloat16, on AMX where the
CPU has it, and the residual stream stays float32. Each chat begins with the same tokens (the system message), so training computes that
prefix once per batch: every row attends to the one shared copy of its keys and values, then to itself.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Config:
    vocab: int = 8192
    width: int = 256
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    ff: int = 768
    context: int = 1024
    rope_base: float = 1e6
    eps: float = 1e-6


def init_parameters(config, seed):
    """Named as in GGUF, so that export is a plain loop; matrices are (outputs, inputs)."""
    torch.manual_seed(seed)
    c = config
    q_size, kv_size = c.heads * c.head_size, c.kv_heads * c.head_size
    shapes = {"token_embd.weight": (c.vocab, c.width), "output_norm.weight": (c.width,)}
    for layer in range(c.layers):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm.weight": (c.width,),
                "attn_q.weight": (q_size, c.width),
                "attn_q.bias": (q_size,),
                "attn_k.weight": (kv_size, c.width),
                "attn_k.bias": (kv_size,),
                "attn_v.weight": (kv_size, c.width),
                "attn_v.bias": (kv_size,),
                "attn_output.weight": (c.width, q_size),
                "ffn_norm.weight": (c.width,),
                "ffn_gate.weight": (c.ff, c.width),
                "ffn_up.weight": (c.ff, c.width),
                "ffn_down.weight": (c.width, c.ff),
            }.items()
        }
    parameters = {}
    for name, shape in shapes.items():
        if name.endswith("norm.weight"):
            value = torch.ones(shape)
        elif name.endswith(".bias"):
            value = torch.zeros(shape)
        else:
            # What writes to the residual stream starts smaller, so that depth does not make it grow.
            deep = name.endswith(("attn_output.weight", "ffn_down.weight"))
            scale = 0.02 if name == "token_embd.weight" else shape[-1] ** -0.5
            value = torch.randn(shape) * (scale / math.sqrt(2 * c.layers) if deep else scale)
        parameters[name] = value.requires_grad_()
    return parameters


class Qwen2:
    def __init__(self, config, parameters, dtype=torch.float32):
        self.config, self.parameters, self.dtype = config, parameters, dtype
        half = config.head_size // 2
        inverse = config.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(config.context, dtype=torch.float64)[:, None] * inverse
        self.cos, self.sin = angles.cos().float(), angles.sin().float()

    def weights(self):
        """The matrices in the type of the products; cast once per step."""
        return {name: p.to(self.dtype) if p.dim() == 2 or name.endswith("bias") else p for name, p in self.parameters.items()}

    # What is not a matrix product. Training replaces these by kernels (fused.py).

    def norm(self, x, weight):
        return x * (x.square().mean(-1, keepdim=True) + self.config.eps).rsqrt() * weight

    def rope(self, x, start):
        """Rotate halves; x is (rows, length, heads, head_size)."""
        cos = self.cos[start : start + x.shape[1], None]
        sin = self.sin[start : start + x.shape[1], None]
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def softmax(self, scores, scale):
        """Causal; scores are (heads, length, past + length)."""
        length, width = scores.shape[1:]
        mask = torch.full((length, width), -math.inf).triu(width - length + 1)
        return (scores * scale + mask).softmax(-1)

    def swiglu(self, gate, up):
        return F.silu(gate) * up

    def residual(self, x, h, keep):
        """x + h, channels dropped where keep (rows, width) is 0"""
        return x + h if keep is None else x + h * keep[:, None]

    def attend(self, q, keys, values):
        """q (rows, length, heads, size) over keys/values (rows, past + length, kv_heads, size)."""
        c = self.config
        rows, length = q.shape[:2]
        group = c.heads // c.kv_heads
        # The query heads of a kv head are extra rows of one product.
        q = q.view(rows, length, c.kv_heads, group, -1)
        q = q.permute(0, 2, 3, 1, 4).reshape(rows * c.kv_heads, group * length, -1)
        keys = keys.transpose(1, 2).flatten(0, 1)
        values = values.transpose(1, 2).flatten(0, 1)
        scores = torch.bmm(q, keys.transpose(1, 2))
        p = self.softmax(scores.view(-1, length, keys.shape[1]), c.head_size**-0.5)
        out = torch.bmm(p.view(scores.shape), values).view(rows, c.kv_heads, group, length, c.head_size)
        return out.permute(0, 3, 1, 2, 4).reshape(rows, length, -1)

    def forward(self, ids, cache=None, drop=0.0, weights=None):
        """Hidden states of ids (rows, length) and the cache that a continuation needs: per layer (keys, values), of
        one row or as many as ids. `drop` is dropout with one mask per row and channel, the same at every position:
        as good here, and nearly free."""
        c, w = self.config, weights or self.weights()
        rows, length = ids.shape
        past = cache[0][0].shape[1] if cache else 0

        def keep():
            return torch.bernoulli(torch.full((rows, c.width), 1 - drop)).div_(1 - drop) if drop else None

        x = F.embedding(ids, self.parameters["token_embd.weight"])
        new_cache = []
        for layer in range(c.layers):
            b = f"blk.{layer}."
            h = self.norm(x, w[b + "attn_norm.weight"])
            q = F.linear(h, w[b + "attn_q.weight"], w[b + "attn_q.bias"]).view(rows, length, c.heads, -1)
            k = F.linear(h, w[b + "attn_k.weight"], w[b + "attn_k.bias"]).view(rows, length, c.kv_heads, -1)
            v = F.linear(h, w[b + "attn_v.weight"], w[b + "attn_v.bias"]).view(rows, length, c.kv_heads, -1)
            q, k = self.rope(q, past), self.rope(k, past)
            if cache:
                k = torch.cat((cache[layer][0].expand(rows, -1, -1, -1), k), dim=1)
                v = torch.cat((cache[layer][1].expand(rows, -1, -1, -1), v), dim=1)
            new_cache.append((k, v))
            h = self.attend(q, k, v)
            x = self.residual(x, F.linear(h, w[b + "attn_output.weight"]), keep())
            h = self.norm(x, w[b + "ffn_norm.weight"])
            h = self.swiglu(F.linear(h, w[b + "ffn_gate.weight"]), F.linear(h, w[b + "ffn_up.weight"]))
            x = self.residual(x, F.linear(h, w[b + "ffn_down.weight"]), keep())
        return x, new_cache

    def logits(self, x, weights=None):
        """x: any (..., width) selection of hidden states."""
        w = weights or self.weights()
        return F.linear(self.norm(x, w["output_norm.weight"]), w["token_embd.weight"])

    def loss(self, logits, targets, weight):
        """-> the weighted mean, the loss of each row"""
        each = F.cross_entropy(logits, targets, reduction="none")
        return each @ (weight / weight.sum()), each.detach()
