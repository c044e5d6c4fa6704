"""Rotary positions along time, height and width: counted, in seconds, fitted to a picture, or divided."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dit.net.embed import Grid
from dit.net.position.base import AXES, Position, frequencies, split_pairs, spread
from dit.net.position.rotary import Pairing, Rotation


class RoPE3D(Position):
    """3D rotary positions: the pairs of a head are shared out over time, height and width.

    theta: base of the frequencies.
    split: axis -> share of the pairs, in the order of the channels; each axis gets its share rounded down and the first
      axis the rest, so {f: 1, h: 1, w: 1} is Wan's split and {f: 16, h: 56, w: 56} HunyuanVideo's.
    scale: axis -> how many times longer than in training the axis is; theta is raised so that the slowest frequency
      keeps its range ("NTK-aware" scaling, as in Cosmos).
    reference: axis -> tokens along it in training, or null; a longer axis is scaled by its excess.
    pairing: which channels form pairs.

    Raises ValueError when the head size is odd or has too few pairs for the axes.
    """

    def __init__(
        self,
        width: int,
        head_dim: int,
        *,
        theta: float,
        split: dict[str, float],
        scale: dict[str, float],
        reference: dict[str, int] | None,
        pairing: Pairing,
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"RoPE needs an even head size, not {head_dim}; nearest: {head_dim - 1}, {head_dim + 1}")
        self.theta = theta
        self.pairs = split_pairs(head_dim // 2, split, f"RoPE with head size {head_dim}")
        self.scale = scale
        self.reference = reference
        self.pairing = pairing

    def rotation(self, grid: Grid, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """Angles are computed in float32 at least, axis by axis, and only then spread over the grid."""
        return self.rotation_at(self.places(grid, like.device, torch.promote_types(like.dtype, torch.float32)), grid)

    def rotation_at(self, axes: list[Tensor], grid: Grid) -> Rotation:
        """The rotation of a grid whose tokens stand at these places along (f, h, w), (length,) or (B, length) each."""
        angles = {}
        for axis, length, places in zip(AXES, grid, axes, strict=True):
            pairs = self.pairs.get(axis, 0)
            stretch = self.scale[axis] * (max(1.0, length / self.reference[axis]) if self.reference else 1.0)
            # theta' = theta * s^(d / (d - 2)) turns the slowest of d / 2 pairs s times slower and leaves the fastest.
            theta = self.theta * stretch ** (pairs / (pairs - 1)) if pairs > 1 else self.theta
            angles[axis] = places[..., None] * frequencies(pairs, theta, places)  # (length, pairs)
        tables = self.pairing.tables(spread(angles, self.pairs, grid))  # (N, head_dim) or (B, N, head_dim)
        cos, sin = (table.reshape(-1, *table.shape[-2:]).unsqueeze(2) for table in tables)
        return Rotation(cos, sin, self.pairing)

    def places(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Where the tokens of a grid are along (f, h, w), (length,) each: here they are counted from 0."""
        return [torch.arange(length, device=device, dtype=dtype) for length in grid]


UNSCALED = {"f": 1.0, "h": 1.0, "w": 1.0}


class TimedRoPE3D(RoPE3D):
    """`RoPE3D` whose frames stand at their time: with cond["fps"], a frame is base_fps / fps long (Cosmos).

    base_fps: frames a second at which frames are one apart; they are too where cond has no fps (images). The other
    arguments are `RoPE3D`'s.
    """

    def __init__(
        self,
        width: int,
        head_dim: int,
        *,
        theta: float,
        split: dict[str, float],
        scale: dict[str, float],
        reference: dict[str, int] | None,
        pairing: Pairing,
        base_fps: float,
    ) -> None:
        super().__init__(width, head_dim, theta=theta, split=split, scale=scale, reference=reference, pairing=pairing)
        self.base_fps = base_fps

    def rotation(self, grid: Grid, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """With fps (B,) in cond the rotation of each sample is its own."""
        if "fps" not in cond:
            return super().rotation(grid, like, cond)
        frames, rows, columns = self.places(grid, like.device, torch.promote_types(like.dtype, torch.float32))
        seconds = frames / cond["fps"].to(frames.dtype)[:, None]  # (B, length)
        return self.rotation_at([self.base_fps * seconds, rows, columns], grid)


class FittedRoPE3D(RoPE3D):
    """RoPE in the coordinates of the training's picture: a picture of another size or shape is scaled until it just
    fits into that and put in its middle; frames are counted (CogVideoX, arXiv 2408.06072; HunyuanDiT before it).

    theta, split, pairing: as in `RoPE3D`. picture: tokens of the training's picture along (h, w).
    """

    def __init__(
        self,
        width: int,
        head_dim: int,
        *,
        theta: float,
        split: dict[str, float],
        picture: list[int],
        pairing: Pairing,
    ) -> None:
        super().__init__(width, head_dim, theta=theta, split=split, scale=UNSCALED, reference=None, pairing=pairing)
        self.picture = picture

    def places(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Rows and columns may lie between those of the training."""
        f, h, w = grid
        height, width = self.picture
        if h / w > height / width:  # fits by its height
            rows, columns = height, round(height / h * w)
        else:
            rows, columns = round(width / w * h), width
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        # n rows stand evenly from the top to (top + rows) (n - 1) / n; only for top = 0 is that rows / n apart.
        return [
            torch.arange(f, device=device, dtype=dtype),
            torch.linspace(top, (top + rows) * (h - 1) / h, h, device=device, dtype=dtype),
            torch.linspace(left, (left + columns) * (w - 1) / w, w, device=device, dtype=dtype),
        ]


class InterpolatedRoPE3D(RoPE3D):
    """RoPE whose places are divided, so that a larger grid keeps the range of a smaller training (position
    interpolation, arXiv 2306.15595; Allegro, arXiv 2410.15458).

    theta, split, pairing: as in `RoPE3D`. divide: axis -> places along it are divided by this.
    """

    def __init__(
        self,
        width: int,
        head_dim: int,
        *,
        theta: float,
        split: dict[str, float],
        divide: dict[str, float],
        pairing: Pairing,
    ) -> None:
        super().__init__(width, head_dim, theta=theta, split=split, scale=UNSCALED, reference=None, pairing=pairing)
        self.divide = divide

    def places(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        counted = super().places(grid, device, dtype)
        return [places / self.divide[axis] for axis, places in zip(AXES, counted, strict=True)]
