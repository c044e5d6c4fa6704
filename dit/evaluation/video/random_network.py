"""A feature network without weights to fetch: convolutions whose weights are computed, the same bytes everywhere.

Distances between its features see noise, blur, colours, textures and motion of small things; they know nothing of what
is shown. They rank checkpoints on one set of clips, and are no substitute for a trained network: a score that was
computed with it says so in its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Natural

MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64 (Steele, Lea and Flood 2014)
STEP = 0x9E3779B97F4A7C15
SCALE = 8  # of the features, so that distances between clips that differ are about 1


class RandomConvolutions(nn.Module):
    """Convolutions with ReLU between them, and of each of their maps two numbers: its mean, and how much it changes
    from frame to frame, or, of a single frame, from place to place. The mean colour is there as well.

    Args:
        channels: maps of each layer; each halves height and width.
        over_time: whether kernels are 3x3x3 and see three frames; else they are 1x3x3, and pictures are looked at.
        seed: another one is another network.
    """

    def __init__(self, *, channels: Sequence[Count], over_time: bool, seed: Natural) -> None:
        super().__init__()
        self.over_time = over_time
        self.layers = nn.ModuleList()
        for number, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
            size = (3 if over_time else 1, 3, 3)
            layer = nn.Conv3d(before, after, size, stride=(1, 2, 2), bias=False)
            layer.weight = nn.Parameter(weights((after, before, *size), seed * 1000 + number), requires_grad=False)
            self.layers.append(layer)

    def forward(self, pixels: Tensor) -> Tensor:
        """Clips (B, 3, F, H, W), or pictures (B, 3, H, W) where it does not look over time -> (B, d)."""
        x = pixels if self.over_time else pixels[:, :, None]
        found = [x.mean(dim=(2, 3, 4))]
        for layer in self.layers:
            time = 1 if self.over_time else 0
            x = functional.relu(layer(functional.pad(x, (1, 1, 1, 1, time, time), mode="replicate")))
            found += [x.mean(dim=(2, 3, 4)), self._change(x)]
        return SCALE * torch.cat(found, dim=1)

    def _change(self, x: Tensor) -> Tensor:
        """The mean absolute difference of neighbours, in time or, of pictures, in both directions of space."""
        if not self.over_time:
            return (x.diff(dim=3).abs().mean(dim=(2, 3, 4)) + x.diff(dim=4).abs().mean(dim=(2, 3, 4))) / 2
        return x.diff(dim=2).abs().sum(dim=2).mean(dim=(2, 3)) / max(1, x.shape[2] - 1)


def weights(shape: tuple[int, ...], seed: int) -> Tensor:
    """Weights of a convolution, float32 `(out, in, ...)`: even numbers around 0, each kernel's sum is 0, so that even
    regions give nothing, and their size keeps that of the features.

    They are whole numbers from SplitMix64 until the last step, which IEEE arithmetic rounds in one way alone. So they
    are the same bytes on every machine; the generators of libraries promise no such thing.
    """
    fan_in = math.prod(shape[1:])
    drawn = _hashed(math.prod(shape), seed).reshape(shape[0], fan_in)  # 24 bits
    centred = drawn * fan_in - drawn.sum(axis=1, keepdims=True)
    scale = math.sqrt(24 / fan_in) / (2**24 * fan_in)  # variance 2 / fan_in (He et al. 2015)
    return torch.from_numpy((centred.astype(np.float64) * scale).astype(np.float32).reshape(shape))


def _hashed(count: int, seed: int) -> NDArray[np.int64]:
    """`count` whole numbers below 2^24."""
    with np.errstate(over="ignore"):
        state = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed * 2**32 % 2**64)) * np.uint64(STEP)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(MIX[0])
        state = (state ^ (state >> np.uint64(27))) * np.uint64(MIX[1])
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(40)).astype(np.int64)
