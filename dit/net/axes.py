"""Positions of several kinds at once: rotation by real time, learned tables of each axis in every block (Cosmos)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dit.net.embed import Grid
from dit.net.position import AXES, Position, RoPE3D
from dit.net.rotary import Pairing, Rotation


class Several(Position):
    """Positions of several kinds together: what they add is added up; at most one of them turns.

    parts: name -> position.
    """

    def __init__(self, width: int, head_dim: int, *, parts: dict[str, Callable[[int, int], Position]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: part(width, head_dim) for name, part in parts.items()})

    def add(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, N, width) -> the same with all that is added."""
        for part in self._parts():
            x = part.add(x, grid)
        return x

    def rotation(self, grid: Grid, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation | None:
        """That of the part that has one. Raises ValueError when two have."""
        found = [turn for part in self._parts() if (turn := part.rotation(grid, like, cond)) is not None]
        if len(found) > 1:
            raise ValueError(f"position.parts={list(self.parts)} holds {len(found)} rotations; one is the most")
        return found[0] if found else None

    def offset(self, grid: Grid, like: Tensor) -> Tensor | None:
        """(1, N, width), the sum, or None."""
        found = [offset for part in self._parts() if (offset := part.offset(grid, like)) is not None]
        return sum(found[1:], start=found[0]) if found else None

    def _parts(self) -> list[Position]:
        return list(self.parts.values())  # type: ignore[arg-type]


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


class AxisTables(Position):
    """A learned table of each axis, added up, divided by the RMS of the sum, and added to the tokens in every block.

    grid: tokens along (f, h, w) of the tables, the most that there can be. eps: added to the RMS.
    """

    def __init__(self, width: int, head_dim: int, *, grid: list[int], eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.tables = nn.ParameterDict(
            {axis: nn.Parameter(torch.empty(length, width)) for axis, length in zip(AXES, grid, strict=True)}
        )
        self.init_own(1.0)

    def init_own(self, std: float) -> None:
        """Normal of unit std: only the direction counts; called by the network's init part."""
        for table in self.tables.values():
            nn.init.normal_(table)

    def offset(self, grid: Grid, like: Tensor) -> Tensor:
        """(1, N, width). Raises ValueError for a grid that is larger than the tables."""
        for axis, length in zip(AXES, grid, strict=True):
            most = len(self.tables[axis])
            if length > most:
                raise ValueError(f"{length} tokens along {axis}; the learned positions of this network end at {most}")
        f, h, w = (self.tables[axis][:length] for axis, length in zip(AXES, grid, strict=True))
        total = (f[:, None, None] + h[:, None] + w).flatten(0, 2)  # (N, width)
        size = torch.linalg.vector_norm(total, dim=-1, keepdim=True) / math.sqrt(total.shape[-1])
        return (total / (size + self.eps)).to(like.dtype)[None]
