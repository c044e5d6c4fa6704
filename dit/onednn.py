"""Large float32 products of a built network in oneDNN instead of MKL, on CPUs where that is the faster library.

torch multiplies float32 matrices on the CPU with MKL, which does not use the full width of AMD's cores: on an EPYC with
AVX-512, oneDNN, which torch ships as well, takes 0.75 to 0.95 of its time for most large products (docs/benchmarks.md).
`accelerate` is put on a network from outside, as compilation and sharding are. Which products go to oneDNN is a matter
of the machine and of sizes alone, never of a measurement: a resumed run computes the same bits.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Multiply-adds above which the detour through python pays for itself (about 30 microseconds of 0.1 ms).
LARGE = 2**23
# Rows from which on oneDNN is faster for x W^T of any shape. With fewer, rearranging W takes too long.
MANY_ROWS = 640
# Input features from which on W is wide: oneDNN is slow at rearranging it for few rows, MKL at computing its gradient.
WIDE = 2048


def accelerate(net: nn.Module) -> None:
    """Lets every linear layer of a network, adapted ones too, choose the faster library for each product.

    On machines where MKL is no slower this changes nothing. Weights, names and the classes of layers stay as they are.
    """
    if not mkl_is_slow():
        return
    for layer in net.modules():
        if type(layer).forward is nn.Linear.forward:
            layer.forward = MethodType(linear, layer)  # type: ignore[assignment]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer` of x (..., in_features) -> (..., out_features), in oneDNN where that is the faster library."""
    if may_use_onednn(x, layer.weight):
        return Product.apply(x, layer.weight, layer.bias)  # type: ignore[no-any-return]
    return functional.linear(x, layer.weight, layer.bias)


def may_use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer's products may go to oneDNN: plain float32 on a CPU of `mkl_is_slow`, large, not compiled."""
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
        return forward_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])  # (N, out)
        of_x = product(rows, weight.t(), None).view_as(x) if ctx.needs_input_grad[0] else None
        of_weight = gradient_of_weight(rows, x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None
        of_bias = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias


def reads_well(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the faster library for x W^T, with W (out, in) as layers keep it."""
    out_features, in_features = weight.shape
    return x.numel() // in_features >= MANY_ROWS or in_features <= min(out_features, WIDE - 1)


def forward_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, by the faster library."""
    return product(x, weight, bias) if reads_well(x, weight) else functional.linear(x, weight, bias)


def gradient_of_weight(grad: Tensor, x: Tensor) -> Tensor:
    """grad (N, out), x (N, in) -> grad^T x (out, in), by the faster library."""
    out_features, in_features = grad.shape[1], x.shape[1]
    if in_features > out_features or in_features >= WIDE:
        return product(grad.t(), x.t(), None)
    return grad.t() @ x


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in), weight (out, in) in any strides -> (..., out), by oneDNN; no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
