"""Learned positions: a table over the grid, added once, or one of each axis, added in every block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.embed import Grid
from dit.net.position.base import AXES, Position


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
