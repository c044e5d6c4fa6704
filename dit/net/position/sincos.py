"""Fixed sinusoids added to the tokens: counted, fitted to a range, or for clips alone."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dit.config.limits import Count, Positive
from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.position.base import Position, each_axis, frequencies, half, split_pairs


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

    def add(self, x: Tensor, coordinates: Coordinates) -> Tensor:
        """x (B, N, width) -> x + table (N, width), computed in float32 at least."""
        return x + self.table(coordinates, x).to(x.dtype)

    def table(self, coordinates: Coordinates, like: Tensor) -> Tensor:
        """(N, width), in float32 at least."""
        waves = {}
        for i, (axis, numbers) in enumerate(zip(AXES, coordinates.axes(like), strict=True)):
            positions = numbers / coordinates.by_clip(partial(self.unit, i), numbers)
            angles = positions.unsqueeze(-1) * frequencies(self.pairs.get(axis, 0), self.theta, positions)
            waves[axis] = torch.cat([angles.sin(), angles.cos()], dim=-1)  # an axis, with 2 * pairs channels
        return coordinates.spread([waves[axis] for axis in self.pairs])

    def unit(self, i: int, grid: Grid) -> float:
        """Tokens from one whole position to the next along the i-th axis of a grid."""
        axis, length = AXES[i], grid[i]
        return self.scale[axis] * max(1.0, length / (self.reference or {}).get(axis, length))


class FittedSinCos(SinCos3D):
    """Positions that fill the range of training on any grid, so that a finer grid has positions between (diffusers'
    PatchEmbed, of its DiT and Latte).

    reference: axis -> tokens along it in training. The i-th token of an axis with n tokens is at i * reference / n; an
    axis that is not named, and null, as in `SinCos3D`. The other arguments are those of `SinCos3D`.
    """

    def unit(self, i: int, grid: Grid) -> float:
        """Tokens from one whole position to the next."""
        axis, length = AXES[i], grid[i]
        return self.scale[axis] * length / (self.reference or {}).get(axis, length)


class ClipSinCos(SinCos3D):
    """Positions for clips alone: a single frame, an image, gets none (diffusers' Latte)."""

    def table(self, coordinates: Coordinates, like: Tensor) -> Tensor:
        """(N, width), zero where the clip has one frame."""
        table = super().table(coordinates, like)
        moves = coordinates.by_clip(lambda grid: float(grid[0] > 1), table)
        return table * (moves.unsqueeze(-1) if isinstance(moves, Tensor) else moves)
