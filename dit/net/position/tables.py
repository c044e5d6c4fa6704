"""Learned positions: a table over the grid, added once, or one of each axis, added in every block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.position.base import Position


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

    def add(self, x: Tensor, coordinates: Coordinates) -> Tensor:
        """x (B, N, width) -> x + table (N, width). Raises ValueError for clips that do not begin at frame 0."""
        if any(coordinates.first):
            raise ValueError(
                f"a learned table is of whole clips, not of one that begins at frame {max(coordinates.first)};"
                " choose net/position=rope3d or sincos"
            )
        if coordinates.grid is not None:
            return x + self.fitted(coordinates.grid)
        fitted = {grid: self.fitted(grid) for grid in dict.fromkeys(coordinates.grids)}
        tables = [fitted[grid] for grid in coordinates.grids]  # (1, tokens of the clip, width) each
        if coordinates.lengths is not None:  # whole clips, one after another
            return x + torch.cat(tables, dim=1)
        clip, *axes = coordinates.rows(x.device).unbind(1)
        starts = torch.tensor([0, *(table.shape[1] for table in tables[:-1])], device=x.device).cumsum(0)
        sizes = torch.tensor(coordinates.grids, device=x.device)[clip]  # (N, 3)
        inside = (axes[0] * sizes[:, 1] + axes[1]) * sizes[:, 2] + axes[2]
        return x + torch.cat(tables, dim=1).index_select(1, starts[clip] + inside)

    def fitted(self, grid: Grid) -> Tensor:
        """The table of a whole grid, (1, N, width)."""
        table: Tensor = self.table
        if tuple(table.shape[2:]) != tuple(grid):
            table = functional.interpolate(table, size=grid, mode="trilinear", align_corners=False)
        return table.flatten(2).transpose(1, 2)


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

    def offset(self, coordinates: Coordinates, like: Tensor) -> Tensor:
        """(1, N, width). Raises ValueError for a clip that reaches over the tables."""
        ends = [(first + f, h, w) for (f, h, w), first in zip(coordinates.grids, coordinates.first, strict=True)]
        for axis, lengths in zip(AXES, zip(*ends, strict=True), strict=True):
            most = len(self.tables[axis])
            if max(lengths) > most:
                raise ValueError(
                    f"{max(lengths)} tokens along {axis}; the learned positions of this network end at {most}"
                )
        numbers = zip(AXES, coordinates.numbers(like.device), strict=True)
        f, h, w = (functional.embedding(own, self.tables[axis]) for axis, own in numbers)
        total = (f + h + w).flatten(0, -2)  # (N, width)
        size = torch.linalg.vector_norm(total, dim=-1, keepdim=True) / math.sqrt(total.shape[-1])
        return (total / (size + self.eps)).to(like.dtype)[None]
