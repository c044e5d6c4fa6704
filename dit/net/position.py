"""Where a token is, in frames, rows and columns. Every kind works on any grid; nothing is cached or stored but weights.

A position adds a table to the tokens (`add`), or gives the rotation that attention applies to queries and keys
(`rotation`). Positions have unit scale from the first step: tokens whose positions start small are told apart too late.
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.embed import Grid
from dit.net.rotary import Pairing, Rotation

AXES = ("f", "h", "w")


class Position(nn.Module):
    """Base of the positions, and itself the absence of one."""

    def add(self, x: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, N, width) of a grid -> tokens with their absolute positions."""
        return x

    def rotation(self, grid: Grid, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation | None:
        """What turns the queries and keys of a grid, on the device and for the dtype of `like`, or None."""
        return None

    def offset(self, grid: Grid, like: Tensor) -> Tensor | None:
        """(1, N, width) that blocks of some templates add to their input, or None."""
        return None


class NoPosition(Position):
    """Tokens do not know where they are."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()


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
        theta: float,
        split: dict[str, float],
        scale: dict[str, float],
        reference: dict[str, int] | None,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"sincos positions need an even width, not {width}; nearest: {width - 1}, {width + 1}")
        self.theta = theta
        self.pairs = split_pairs(width // 2, split, f"sincos positions of width {width}")
        self.scale = scale
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


class Learned(Position):
    """A learned table over a grid, interpolated (trilinear) to other grids.

    grid: tokens along (f, h, w) of the table. std: of its initial values; 1 is unit scale.
    """

    def __init__(self, width: int, head_dim: int, *, grid: list[int], std: float) -> None:
        super().__init__()
        self.std = std
        self.table = nn.Parameter(torch.empty(1, width, *grid))
        self.init_own(std)

    def init_own(self, std: float) -> None:
        """Normal with the table's own std; called by the network's init part, whose std is for embeddings."""
        nn.init.normal_(self.table, std=self.std)

    def add(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, N, width) -> x + table (N, width)."""
        table: Tensor = self.table
        if tuple(table.shape[2:]) != tuple(grid):
            table = functional.interpolate(table, size=grid, mode="trilinear", align_corners=False)
        return x + table.flatten(2).transpose(1, 2)


def split_pairs(pairs: int, split: dict[str, float], what: str) -> dict[str, int]:
    """Shares out `pairs` pairs of channels over the axes of `split`: shares rounded down, the rest to the first axis.

    Raises ValueError when an axis would get none.
    """
    if not split or any(axis not in AXES or share <= 0 for axis, share in split.items()):
        raise ValueError(f"{what}: split={split} must give positive shares to axes among {', '.join(AXES)}")
    total, first = sum(split.values()), next(iter(split))

    def share_out(n: int) -> dict[str, int]:
        shared = {axis: math.floor(n * share / total + 1e-9) for axis, share in split.items()}
        shared[first] += n - sum(shared.values())
        return shared

    if min(share_out(pairs).values()) < 1:
        fitting = next(n for n in itertools.count(pairs + 1) if min(share_out(n).values()) > 0)
        raise ValueError(
            f"{what} has {pairs} pairs of channels, too few for split={split}; nearest size: {2 * fitting}"
        )
    return share_out(pairs)


def frequencies(pairs: int, theta: float, like: Tensor) -> Tensor:
    """theta^(-i / pairs) for i < pairs: (pairs,)."""
    return theta ** -(torch.arange(pairs, device=like.device, dtype=like.dtype) / max(pairs, 1))


def spread(tables: dict[str, Tensor], order: dict[str, int], grid: Grid) -> Tensor:
    """Tables of the axes (length, channels) -> one table of the grid (N, all channels), frame-major.

    With tables (B, length, channels) among them: (B, N, all channels).
    """
    views = {"f": (-1, 1, 1), "h": (1, -1, 1), "w": (1, 1, -1)}
    parts = [tables[axis].unflatten(-2, views[axis]) for axis in order]
    batch = next((part.shape[:-4] for part in parts if part.dim() > 4), ())
    return torch.cat([part.expand(*batch, *grid, -1) for part in parts], dim=-1).flatten(-4, -2)
