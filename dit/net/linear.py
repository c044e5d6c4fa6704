"""The linear layer of every part, and the matrix product behind it on CPUs.

torch multiplies float32 matrices on the CPU with MKL, which does not use the full width of AMD's cores: on an EPYC with
AVX-512, oneDNN, which torch ships as well, takes about 0.8 of its time for x W^T and for the gradient of x
(docs/benchmarks.md). So on such machines large products of that kind go to oneDNN. Which products do is a matter of the
machine and of sizes alone, never of a measurement: a resumed run computes the same bits.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Multiply-adds above which the detour through python pays for itself (about 30 microseconds of 0.1 ms).
LARGE = 2**23
# Output features from which on oneDNN is faster for the gradient of a weight that has more inputs than outputs.
WIDE = 1024


class Linear(nn.Linear):
    """x W^T + b, in oneDNN where that is the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        if in_onednn(x, self.weight):
            return Product.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]
        return functional.linear(x, self.weight, self.bias)


def linear_gelu(layer: nn.Module, x: Tensor, approximate: str) -> Tensor:
    """gelu(layer(x)), in one pass over the result where oneDNN multiplies and no gradient is wanted."""
    if type(layer) is Linear and not torch.is_grad_enabled() and in_onednn(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], approximate)
    return functional.gelu(layer(x), approximate=approximate)


def in_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product goes to oneDNN: plain float32 on a CPU of `mkl_is_slow`, large, and not being compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.numel() * weight.shape[0] >= LARGE
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and mkl_is_slow()
    )


@functools.cache
def mkl_is_slow() -> bool:
    """Whether this is an AMD CPU with AVX-512, on which torch would multiply with MKL."""
    facts = Path("/proc/cpuinfo")
    if not facts.is_file() or not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        return False
    text = facts.read_text()
    return "AuthenticAMD" in text and torch.backends.cpu.get_cpu_capability() == "AVX512"


class Product(torch.autograd.Function):
    """x W^T + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])  # (N, out)
        of_x = product(rows, weight.t(), None).view_as(x) if ctx.needs_input_grad[0] else None
        of_weight = gradient_of_weight(rows, x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None
        of_bias = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias


def gradient_of_weight(grad: Tensor, x: Tensor) -> Tensor:
    """grad (N, out), x (N, in) -> grad^T x (out, in), by whichever library is faster for such sizes."""
    out_features, in_features = grad.shape[1], x.shape[1]
    if out_features < WIDE or in_features <= out_features:
        return grad.t() @ x
    return product(grad.t(), x.t(), None)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in), weight (out, in) in any strides -> (..., out), by oneDNN; no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
