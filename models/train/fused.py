"""The kernels of kernels.c as autograd functions. Tensors are contiguous; bfloat16 unless said otherwise."""

import collections
import ctypes
import os
import subprocess
import tempfile

import torch

from model import Qwen2

HERE = os.path.dirname(os.path.abspath(__file__))


def build():
    path = os.path.join(tempfile.mkdtemp(), "kernels.so")
    command = ["cc", "-Ofast", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", path, os.path.join(HERE, "kernels.c"), "-lm"], check=True)
    return ctypes.CDLL(path)


library = build()


def call(name, *arguments):
    """ints as long, floats as float, tensors as their address"""
    convert = {int: ctypes.c_long, float: ctypes.c_float, torch.Tensor: lambda t: ctypes.c_void_p(t.data_ptr())}
    for a in arguments:
        assert not isinstance(a, torch.Tensor) or a.is_contiguous(), name
    getattr(library, name)(*(convert[type(a)](a) for a in arguments))


class RMSNorm(torch.autograd.Function):
    """float32 (..., n) -> bfloat16"""

    @staticmethod
    def forward(ctx, x, weight, eps):
        n = x.shape[-1]
        rows = x.numel() // n
        scale = torch.empty(rows)
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        call("rmsnorm_forward", rows, n, x, weight.detach(), eps, scale, out)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        n, threads = x.shape[-1], torch.get_num_threads()
        grad_x, grad_weight = torch.empty_like(x), torch.zeros(threads, n)
        call("rmsnorm_backward", scale.numel(), n, threads, x, weight, scale, grad.contiguous(), grad_x, grad_weight)
        return grad_x, grad_weight.sum(0), None


class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        call("swiglu_forward", gate.numel(), gate, up, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        call("swiglu_backward", gate.numel(), gate, up, grad.contiguous(), grad_gate, grad_up)
        return grad_gate, grad_up


class Residual(torch.autograd.Function):
    """x + h * keep: x float32 (rows, length, n), keep float32 (rows, n)"""

    @staticmethod
    def forward(ctx, x, h, keep):
        ctx.save_for_backward(keep)
        out = torch.empty_like(x)
        call("residual_forward", *x.shape, x, h.contiguous(), keep, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        (keep,) = ctx.saved_tensors
        grad = grad.contiguous()
        grad_h = torch.empty(grad.shape, dtype=torch.bfloat16)
        call("residual_backward", *grad.shape, grad, keep, grad_h)
        return grad, grad_h, None


class Rope(torch.autograd.Function):
    """x (rows, length, heads, size); cos, sin float32 (length, size / 2)"""

    @staticmethod
    def turn(x, cos, sin, way):
        rows, length, heads, size = x.shape
        out = torch.empty_like(x)
        call("rope", rows, length, heads, size // 2, x, cos, sin, way, out)
        return out

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return Rope.turn(x.contiguous(), cos, sin, 1.0)

    @staticmethod
    def backward(ctx, grad):
        return Rope.turn(grad.contiguous(), *ctx.saved_tensors, -1.0), None, None


class Softmax(torch.autograd.Function):
    """Causal, of scores * scale; scores (heads, length, past + length) are overwritten."""

    @staticmethod
    def forward(ctx, scores, scale):
        heads, length, width = scores.shape
        call("softmax_forward", heads, length, width - length, scale, scores)
        ctx.mark_dirty(scores)
        ctx.save_for_backward(scores)
        ctx.scale = scale
        return scores

    @staticmethod
    def backward(ctx, grad):
        (p,) = ctx.saved_tensors
        grad = grad.contiguous()
        call("softmax_backward", p.shape[0] * p.shape[1], p.shape[2], ctx.scale, p, grad)
        return grad, None


class CrossEntropy(torch.autograd.Function):
    """-> the weighted mean over rows, the loss of each. The logits are overwritten with their gradient, so nothing else may
    use them."""

    @staticmethod
    def forward(ctx, logits, target, weight):
        loss, share = torch.empty(len(target)), weight / weight.sum()
        call("cross_entropy", *logits.shape, logits, target, share, loss)
        ctx.gradient = logits
        ctx.mark_non_differentiable(loss)
        return loss @ share, loss

    @staticmethod
    def backward(ctx, grad, _):
        return ctx.gradient, None, None  # the mean is what backward() starts from: grad is 1


class FusedQwen2(Qwen2):
    """The model in training: bfloat16 products, fused everything else, a float32 residual stream."""

    def __init__(self, config, parameters):
        super().__init__(config, parameters, torch.bfloat16)

    def norm(self, x, weight):
        return RMSNorm.apply(x.contiguous(), weight, self.config.eps)

    def rope(self, x, start):
        end = start + x.shape[1]
        return Rope.apply(x, self.cos[start:end], self.sin[start:end])

    def softmax(self, scores, scale):
        return Softmax.apply(scores, scale)

    def swiglu(self, gate, up):
        return SwiGLU.apply(gate, up)

    def residual(self, x, h, keep):
        return Residual.apply(x, h, torch.ones(len(x), x.shape[-1]) if keep is None else keep)

    def loss(self, logits, targets, weight):
        return CrossEntropy.apply(logits, targets, weight)


def orthogonal(batch):
    """Every matrix (rows <= columns) of a batch with its singular values moved near 1: five Newton-Schulz steps with the
    coefficients of Muon (Jordan et al. 2024), in bfloat16."""
    x = (batch / (batch.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16()
    for _ in range(5):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = 3.4445 * x + torch.bmm(-4.7750 * gram + 2.0315 * torch.bmm(gram, gram), x)
    return x.float()


class Optimizer:
    """Muon for the layers' matrices; AdamW, in one pass, for the embedding, norms and biases.

    Muon takes the momentum of a matrix, makes it orthogonal and scales it to the size that AdamW's updates have (an RMS
    of 0.3, near the 0.2 of Liu et al. 2025), so that both use one rate. The clipping of the gradient's norm is AdamW's alone."""

    def __init__(self, parameters, decay, betas=(0.9, 0.98), clip=1.0, muon=True):
        self.parameters, self.decay, self.betas, self.clip = parameters, decay, betas, clip
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
        self.steps = 0
        self.matrices = collections.defaultdict(list)  # by shape, wide
        for name, p in parameters.items():
            if muon and p.dim() == 2 and name != "token_embd.weight":
                self.matrices[min(p.shape), max(p.shape)].append(name)
        self.muon_names = {name for names in self.matrices.values() for name in names}

    @torch.no_grad()
    def step(self, rate):
        self.steps += 1
        b1, b2 = self.betas
        norm = float(torch.stack([p.grad.norm() for p in self.parameters.values()]).norm())
        clip = min(1.0, self.clip / (norm + 1e-6))
        self.step_muon(rate)
        for name, p in self.parameters.items():
            if name in self.muon_names:
                continue
            decay = self.decay if p.dim() == 2 else 0.0
            call("adamw", p.numel(), p.detach(), p.grad.contiguous(), *self.moments[name], clip, float(rate), decay,
                 b1, b2, 1 - b1**self.steps, 1 - b2**self.steps)  # fmt: skip
            p.grad = None

    def step_muon(self, rate, momentum=0.95):
        for shape, names in self.matrices.items():
            wide = []
            for name in names:
                p, m = self.parameters[name], self.moments[name][0]
                m.mul_(momentum).add_(p.grad)
                update = p.grad + momentum * m
                wide.append(update if p.shape[0] <= p.shape[1] else update.t())
                p.grad = None
            for name, update in zip(names, orthogonal(torch.stack(wide))):
                p = self.parameters[name]
                p.mul_(1 - rate * self.decay)
                p.add_(update if p.shape[0] <= p.shape[1] else update.t(), alpha=-rate * 0.3 * shape[1] ** 0.5)
