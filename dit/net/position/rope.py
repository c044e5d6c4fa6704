"""Rotary positions along time, height and width (RoFormer, arXiv 2104.09864, on three axes), fixed and learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dit.config.limits import Count, Positive
from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.position.base import Position, each_axis, frequencies, half, split_pairs
from dit.net.position.coordinates import RotaryCoordinates
from dit.net.position.rotary import Pairing, Rotation


class RoPE3D(Position):
    """3D rotary positions: the pairs of a head are shared out over time, height and width.

    theta: base of the frequencies.
    split: axis -> share of the pairs, in the order of the channels; each axis gets its share rounded down and the first
      axis the rest, so {f: 1, h: 1, w: 1} is Wan's split and {f: 16, h: 56, w: 56} HunyuanVideo's.
    scale: axis -> how many times longer than in training the axis is; theta is raised so that the slowest frequency
      keeps its range ("NTK-aware" scaling, as in Cosmos).
    reference: axis -> tokens along it in training, or null; a longer axis is scaled by its excess.
    pairing: which channels form pairs. coordinates: what the angles are multiples of.

    Raises ValueError when the head size is odd or has too few pairs for the axes.
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
        pairing: Pairing,
        coordinates: RotaryCoordinates,
    ) -> None:
        super().__init__()
        self.theta = theta
        self.pairs = split_pairs(
            half(head_dim, "RoPE needs an even head size"), split, f"RoPE with head size {head_dim}"
        )
        self.scale = each_axis(scale)
        self.reference = reference
        self.pairing, self.coordinates = pairing, coordinates
        self.reads = coordinates.reads

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """Angles are computed in float32 at least, axis by axis, and only then spread over the tokens."""
        angles = {}
        for i, (axis, numbers) in enumerate(zip(AXES, self.coordinates(coordinates, like, cond), strict=True)):
            theta = coordinates.by_clip(partial(self.base, i), numbers)
            angles[axis] = numbers.unsqueeze(-1) * frequencies(self.pairs.get(axis, 0), theta, numbers)
        joined = coordinates.spread([angles[axis] for axis in self.pairs])
        tables = self.pairing.tables(joined)  # (N, head_dim) or (B, N, head_dim)
        cos, sin = (table.reshape(-1, *table.shape[-2:]).unsqueeze(2) for table in tables)
        return Rotation(cos, sin, self.pairing)

    def base(self, i: int, grid: Grid) -> float:
        """Base of the frequencies on the i-th axis of a grid.

        theta * s^(d / (d - 2)) rotates the slowest of d / 2 pairs s times slower and leaves the fastest.
        """
        axis, length = AXES[i], grid[i]
        pairs = self.pairs.get(axis, 0)
        stretch = self.scale[axis] * (max(1.0, length / self.reference[axis]) if self.reference else 1.0)
        return self.theta * stretch ** (pairs / (pairs - 1)) if pairs > 1 else self.theta


class LearnedRoPE3D(Position):
    """The angle of each pair of each head is a learned mixture of time, height and width (Mochi, Genmo 2024).

    Frames are counted; rows and columns are measured from the middle of the picture, in units that make it `area`.

    area: of every picture, in tokens (36864 = 192 * 192). std: of the initial frequencies: a random frequency tells
    tokens apart that are about 1 / std away. pairing: which channels form pairs.

    Raises ValueError when the head size is odd.
    """

    def __init__(self, width: int, head_dim: int, *, area: float, std: float, pairing: Pairing) -> None:
        super().__init__()
        pairs = half(head_dim, "RoPE needs an even head size")
        self.area, self.std, self.pairing = area, std, pairing
        self.frequencies = nn.Parameter(torch.empty(3, width // head_dim, pairs))
        self.init_own(std)

    def init_own(self, std: float) -> None:
        """Normal with a std of their own; called by the network's init part, whose std is for embeddings."""
        nn.init.normal_(self.frequencies, std=self.std)

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """cos and sin (1, N, heads, head_dim), computed in float32 at least."""
        f, h, w = coordinates.axes(like)
        unit = coordinates.by_clip(lambda grid: math.sqrt(self.area / (grid[1] * grid[2])), f)
        rows = unit * (h - coordinates.by_clip(lambda grid: (grid[1] - 1) / 2, h))
        columns = unit * (w - coordinates.by_clip(lambda grid: (grid[2] - 1) / 2, w))
        by_frame, by_row, by_column = self.frequencies.to(f.dtype)  # (heads, head_dim / 2) each
        # Axis by axis, then added up over the tokens.
        angles = f[..., None, None] * by_frame + rows[..., None, None] * by_row + columns[..., None, None] * by_column
        cos, sin = self.pairing.tables(angles.flatten(0, -3))  # (N, heads, head_dim)
        return Rotation(cos[None], sin[None], self.pairing)
