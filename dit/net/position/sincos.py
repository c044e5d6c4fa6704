"""Fixed sinusoids added to the tokens: counted, fitted to a range, or for clips alone."""

from __future__ import annotations

import torch
from torch import Tensor

from dit.config.limits import Count, Positive
from dit.net.embed import Grid
from dit.net.position.base import AXES, Position, each_axis, frequencies, half, split_pairs, spread


class SinCos3D(Position):
    """Fixed sinusoids of time, height and width on channels of their own, added to the tokens (MAE, DiT, CogVideoX).

    theta: base of the frequencies.
    split: axis -> share of the channels, in their order, as in `RoPE3D`; an axis that is not named has none
      ({w: 1, h: 1} is DiT's table for images).
    scale: axis -> positions are divided by it.
    reference: axis -> tokens along it in training, or null; a longer axis that it names is squeezed into that range.

    Raises ValueError when the width is odd or has too few channels for the axes.
    """

    def __init__(
        self,
        width: int,
        head_dim: int,
        *,
        theta: Positive,
        split: dict[str, float],
        scale: dict[str, Positive],
        reference: dict[str, Count] | None,
    ) -> None:
        super().__init__()
        self.theta = theta
        self.pairs = split_pairs(
            half(width, "sincos positions need an even width"), split, f"sincos positions of width {width}"
        )
        self.scale = each_axis(scale)
        self.reference = reference

    def add(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, N, width) -> x + table (N, width), computed in float32 at least."""
        precise = torch.promote_types(x.dtype, torch.float32)
        waves = {}
        for axis, length in zip(AXES, grid, strict=True):
            places = torch.arange(length, device=x.device, dtype=precise) / self.unit(axis, length)
            angles = places[:, None] * frequencies(self.pairs.get(axis, 0), self.theta, places)
            waves[axis] = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (length, 2 * pairs)
        return x + spread(waves, self.pairs, grid).to(x.dtype)

    def unit(self, axis: str, length: int) -> float:
        """Tokens from one whole position to the next along an axis of `length` tokens."""
        return self.scale[axis] * max(1.0, length / (self.reference or {}).get(axis, length))


class FittedSinCos(SinCos3D):
    """Positions that fill the range of training on any grid, so that a finer grid has positions between (diffusers'
    PatchEmbed, of its DiT and Latte).

    reference: axis -> tokens along it in training. A token of an axis with n tokens is at place * reference / n; an
    axis that is not named, and null, as in `SinCos3D`. The other arguments are those of `SinCos3D`.
    """

    def unit(self, axis: str, length: int) -> float:
        """Tokens from one whole position to the next."""
        return self.scale[axis] * length / (self.reference or {}).get(axis, length)


class ClipSinCos(SinCos3D):
    """Positions for clips alone: a single frame, an image, gets none (diffusers' Latte)."""

    def add(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, N, width) -> x + table (N, width), or x itself where the grid has one frame."""
        return x if grid[0] == 1 else super().add(x, grid)
