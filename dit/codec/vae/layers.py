"""Layers of a causal video autoencoder: no frame sees a later one, and the first frame is coded alone.

So a picture is a clip of one frame, and a clip can be coded in pieces, a piece at a time, with what it would have in
one (`Stream`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

Stride = tuple[int, int, int]  # (frames, height, width)


@dataclass(eq=False)
class Stream:
    """What causal layers keep between the pieces of a clip.

    first: whether the next piece begins the clip. kept: layer -> the last frames that it has seen.
    """

    first: bool = True
    kept: dict[nn.Module, Tensor] = field(default_factory=dict)


class CausalConv(nn.Module):
    """A convolution of 3x3 places and `kernel` frames: those up to its own.

    In front of a clip its first frame is repeated. With a stride of f frames output 0 is that of frame 0 alone, and
    output k that of frames up to f k, so it gives k + 1 frames of f k + 1. Beside a clip are zeros.

    The kernel is kept as the matrix that it is, from all that it sees to its outputs, and begins as torch's own does:
    optimizers of matrices (Muon) take it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        seen = inputs * kernel * 9
        self.weight = nn.Parameter(torch.empty(outputs, seen).uniform_(-(seen**-0.5), seen**-0.5))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-(seen**-0.5), seen**-0.5))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """(B, inputs, F, H, W) -> (B, outputs, frames, H, W)."""
        if stream is None or stream.first:
            before = x[:, :, :1].expand(-1, -1, self.kernel - 1, -1, -1)
        else:
            before = stream.kept[self]
        x = torch.cat([before, x], dim=2)
        if stream is not None:  # copied, since a view would keep all of x
            stream.kept[self] = x[:, :, x.shape[2] - (self.kernel - self.stride) :].clone()
        weight = self.weight.unflatten(1, (-1, self.kernel, 3, 3))
        return functional.conv3d(x, weight, self.bias, (self.stride, 1, 1), padding=(0, 1, 1))


class RMSNorm(nn.Module):
    """Root mean square of the channels of each place, of one frame, and a factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> the same shape."""
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * self.scale


class Residual(nn.Module):
    """Two convolutions beside their input. They add nothing before the first step of training."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = RMSNorm(channels), CausalConv(channels, channels, kernel)
        self.norm2, self.conv2 = RMSNorm(channels), CausalConv(channels, channels, kernel)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        """(B, C, F, H, W) -> the same shape."""
        inside = self.conv1(functional.silu(self.norm1(x)), stream)
        return x + self.conv2(functional.silu(self.norm2(inside)), stream)


class Shorter(nn.Module):
    """Shortens a clip by `stride`: places of a picture become channels, frames go by a stride of the convolution."""

    def __init__(self, inputs: int, outputs: int, stride: Stride, kernel: int) -> None:
        super().__init__()
        f, self.h, self.w = stride
        self.conv = CausalConv(inputs * self.h * self.w, outputs, kernel, stride=f)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        """(B, inputs, f k + 1, h H, w W) -> (B, outputs, k + 1, H, W); a later piece of a stream has f k frames."""
        return self.conv(folded(x, self.h, self.w), stream)


class Longer(nn.Module):
    """Lengthens a clip by `stride`: channels become frames and places. The first frame remains one."""

    def __init__(self, inputs: int, outputs: int, stride: Stride, kernel: int) -> None:
        super().__init__()
        self.stride = stride
        f, h, w = stride
        self.conv = CausalConv(inputs, outputs * f * h * w, kernel)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        """(B, inputs, k + 1, H, W) -> (B, outputs, f k + 1, h H, w W); a later piece of a stream gives f k frames."""
        f, h, w = self.stride
        x = self.conv(x, stream)  # (B, f c h w, k + 1, H, W)
        x = x.unflatten(1, (f, -1)).movedim(1, 3).flatten(2, 3)  # (B, c h w, f (k + 1), H, W)
        if stream is None or stream.first:
            x = x[:, :, f - 1 :]
        return unfolded(x, h, w)


def folded(x: Tensor, h: int, w: int) -> Tensor:
    """(B, C, F, h H, w W) -> (B, C h w, F, H, W)."""
    x = x.unflatten(4, (-1, w)).unflatten(3, (-1, h))  # (B, C, F, H, h, W, w)
    return x.permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)


def unfolded(x: Tensor, h: int, w: int) -> Tensor:
    """(B, C h w, F, H, W) -> (B, C, F, h H, w W): `folded` undone."""
    x = x.unflatten(1, (-1, h, w)).permute(0, 1, 4, 5, 2, 6, 3)  # (B, C, F, H, h, W, w)
    return x.flatten(5, 6).flatten(3, 4)
