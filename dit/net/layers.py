"""Norms and MLPs: the parts of a block that see one token at a time."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, NonNegative, Positive


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis (arXiv 1607.06450). affine: learn a scale and a shift."""

    def __init__(self, dim: int, *, eps: NonNegative, affine: bool) -> None:
        super().__init__(dim, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) -> the same in the dtype of x, as autocast does on the CPU; on a GPU it would go to float32 and
        back, which are more bytes than the norm's own. Sums are in float32 in any case."""
        if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        weight, bias = (None if own is None else own.to(x.dtype) for own in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) over the last axis (arXiv 1910.07467). affine: learn a scale."""

    def __init__(self, dim: int, *, eps: NonNegative, affine: bool) -> None:
        super().__init__(dim, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) -> the same in the dtype of x: torch fuses equal dtypes only; under autocast they differ."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return functional.rms_norm(x, self.normalized_shape, weight, self.eps)


class TwoNorms(nn.Module):
    """One norm, then another (CogVideoX, in front of its output). first, second: the norms."""

    def __init__(self, dim: int, *, first: Callable[[int], nn.Module], second: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = first(dim), second(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) -> the same."""
        return self.second(self.first(x))


def hidden_width(width: int, ratio: float) -> int:
    """ratio * width, rounded. Raises ValueError where nothing is left."""
    hidden = round(width * ratio)
    if hidden < 1:
        raise ValueError(f"mlp.ratio={ratio:g} leaves no hidden channel of width={width}; usual: 4")
    return hidden


class GELUMLP(nn.Module):
    """width -> ratio * width -> GELU -> width.

    ratio: hidden width over width. approximate: torch's own word for the GELU, `tanh` (DiT) or `none` (exact).
    bias: of both projections.
    """

    def __init__(self, width: int, *, ratio: Positive, approximate: Literal["none", "tanh"], bias: bool) -> None:
        super().__init__()
        hidden = hidden_width(width, ratio)
        self.approximate = approximate
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        return self.down(functional.gelu(self.up(x), approximate=self.approximate))


class SiLUMLP(nn.Module):
    """width -> ratio * width -> SiLU -> width (HunyuanVideo's text). ratio, bias: as in `GELUMLP`."""

    def __init__(self, width: int, *, ratio: Positive, bias: bool) -> None:
        super().__init__()
        hidden = hidden_width(width, ratio)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        return self.down(functional.silu(self.up(x)))


class SwiGLU(nn.Module):
    """width -> silu(gate) * value -> width (arXiv 2002.05202).

    ratio: hidden width over width; 8/3 has as many weights as a GELU MLP of ratio 4.
    multiple_of: the hidden width is rounded up to it (fast matmuls want multiples of 64 or so).
    bias: of both projections.
    """

    def __init__(self, width: int, *, ratio: Positive, multiple_of: Count, bias: bool) -> None:
        super().__init__()
        hidden = -(-hidden_width(width, ratio) // multiple_of) * multiple_of
        self.gate_and_value = nn.Linear(width, 2 * hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * value)


class GEGLU(SwiGLU):
    """As `SwiGLU`, with gelu(gate) * value (arXiv 2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.down(functional.gelu(gate) * value)


class ZeroLinear(nn.Linear):
    """A Linear that starts at zero, so that its branch adds nothing at first (arXiv 2212.09748, section 3.2)."""

    def init_own(self, std: float) -> None:
        """Called by the network's init part. std is for embeddings and not used here."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift, for x (B, N, D) and shift, scale (B, G, D).

    The N tokens are G equal runs, one after another, and each run has a vector of its own: G = 1 is one vector a
    sample, G = F one a frame, G = N one a token. Nothing is expanded in memory.
    """
    runs = x.unflatten(1, (shift.shape[1], -1))  # (B, G, N / G, D)
    return torch.addcmul(shift.unsqueeze(2), runs, 1 + scale.unsqueeze(2)).flatten(1, 2)


def add_gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate * branch, for x and branch (B, N, D) and gate (B, G, D), with runs as in `modulate`."""
    groups = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, groups), gate.unsqueeze(2), branch.unflatten(1, groups)).flatten(1, 2)
