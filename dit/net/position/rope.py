"""Rotary positions along time, height and width (RoFormer, arXiv 2104.09864, on three axes)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from dit.config.limits import Count, Positive
from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.position.base import Position, each_axis, frequencies, half, split_pairs
from dit.net.position.places import Places
from dit.net.position.rotary import Pairing, Rotation


class RoPE3D(Position):
    """3D rotary positions: the pairs of a head are shared out over time, height and width.

    theta: base of the frequencies.
    split: axis -> share of the pairs, in the order of the channels; each axis gets its share rounded down and the first
      axis the rest, so {f: 1, h: 1, w: 1} is Wan's split and {f: 16, h: 56, w: 56} HunyuanVideo's.
    scale: axis -> how many times longer than in training the axis is; theta is raised so that the slowest frequency
      keeps its range ("NTK-aware" scaling, as in Cosmos).
    reference: axis -> tokens along it in training, or null; a longer axis is scaled by its excess.
    pairing: which channels form pairs. places: where the tokens are along each axis.

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
        places: Places,
    ) -> None:
        super().__init__()
        self.theta = theta
        self.pairs = split_pairs(
            half(head_dim, "RoPE needs an even head size"), split, f"RoPE with head size {head_dim}"
        )
        self.scale = each_axis(scale)
        self.reference = reference
        self.pairing, self.places = pairing, places
        self.reads = places.reads

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """Angles are computed in float32 at least, axis by axis, and only then spread over the tokens."""
        axes = self.places(coordinates, like.device, torch.promote_types(like.dtype, torch.float32), cond)
        angles = {}
        for i, (axis, places) in enumerate(zip(AXES, axes, strict=True)):
            theta = coordinates.by_clip(partial(self.base, i), places)
            angles[axis] = places.unsqueeze(-1) * frequencies(self.pairs.get(axis, 0), theta, places)
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
