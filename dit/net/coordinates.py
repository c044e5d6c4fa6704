"""Where each token of a sequence is: its clip, and its frame, row and column there.

Positions, layouts and masks are functions of these numbers alone, so the network need not know how a sequence came to
be. One whole clip is the usual case: its coordinates are the axes of a grid, which broadcast, and nothing is gathered.
Any other sequence has a table with a row for each token: several clips packed one after another, the part of a clip
that one rank holds, the tokens that are left when some were dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dit.net.patches import Grid

AXES = ("f", "h", "w")
VIEWS = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))  # of an axis in a grid


# Not frozen, though nothing changes it: of a frozen dataclass torch.compile guards all fields, whether they are used or
# not, and a block would be compiled for each number of packed clips.
@dataclass(eq=False)
class Coordinates:
    """The coordinates of N video tokens, of K clips.

    grids: tokens along (f, h, w) of each whole clip, also where the sequence holds a part of it. first: number of each
    clip's first frame of tokens, where a stream goes on. table: (N, 4) int64, clip, frame, row and column of each
    token; None: all tokens of one clip, frame by frame. lengths: tokens of each clip where clips stand whole one after
    another; None: they do not.

    With K > 1 the sequence is one row, (1, N, width), and what belongs to a clip (noise levels, text, ...) has K rows.
    With one clip it has as many rows as the sequence, which are all alike.

    "Axes" below are three tensors that broadcast to the shape of the tokens: (F, 1, 1), (1, H, 1) and (1, 1, W) in a
    grid, (N,) each by a table.
    """

    grids: tuple[Grid, ...]
    first: tuple[int, ...]
    table: Tensor | None
    lengths: tuple[int, ...] | None

    @classmethod
    def of_clip(cls, grid: Grid, first: int = 0) -> Coordinates:
        """All tokens of one clip, whose first frame of tokens has the number `first`."""
        return cls((grid,), (first,), None, (math.prod(grid),))

    @classmethod
    def packed(cls, grids: Sequence[Grid], device: torch.device | str, first: Sequence[int] = ()) -> Coordinates:
        """Several whole clips one after another. first: of each clip; absent, all begin at 0."""
        starts, lengths = tuple(first) or (0,) * len(grids), tuple(math.prod(grid) for grid in grids)
        ends = tuple(accumulate(lengths))
        # Few numbers of each clip go to the device, and the table is made there: it would wait for a copy as long.
        known = [(*grid[1:], start, end) for grid, start, end in zip(grids, starts, (0, *ends[:-1]), strict=True)]
        number = torch.arange(ends[-1], device=device)
        clip = torch.bucketize(number, on(device, ends), right=True)
        height, width, start, begin = on(device, known)[clip].unbind(1)
        inside = number - begin
        frame, place = start + inside // (height * width), inside % (height * width)
        return cls(tuple(grids), starts, torch.stack([clip, frame, place // width, place % width], 1), lengths)

    def part(self, index: Tensor | slice, device: torch.device | str) -> Coordinates:
        """Those of some of the tokens, in the order of `index`."""
        return replace(self, table=self.rows(device)[index], lengths=None)

    @property
    def grid(self) -> Grid | None:
        """Of one clip with all of its tokens; None for any other sequence."""
        return self.grids[0] if self.table is None else None

    @property
    def frames(self) -> tuple[int, ...] | None:
        """Frames of tokens of each of several packed clips; None: there is one clip."""
        return tuple(grid[0] for grid in self.grids) if self.num_clips > 1 else None

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grids[0]) if self.table is None else len(self.table)

    @property
    def num_clips(self) -> int:
        return len(self.grids)

    def rows(self, device: torch.device | str) -> Tensor:
        """The table, (N, 4) int64, of a grid too."""
        if self.table is not None:
            return self.table
        f, h, w = torch.broadcast_tensors(*self.numbers(device))
        return torch.stack([torch.zeros_like(f), f, h, w], dim=-1).flatten(0, 2)

    def numbers(self, device: torch.device | str) -> list[Tensor]:
        """Numbers of frame, row and column: three axes, int64."""
        if self.table is not None:
            return list(self.table[:, 1:].unbind(1))
        starts = zip((self.first[0], 0, 0), self.grids[0], VIEWS, strict=True)
        return [torch.arange(start, start + length, device=device).view(view) for start, length, view in starts]

    def axes(self, like: Tensor) -> list[Tensor]:
        """The same on the device and in the dtype of `like`, but in float32 at least: large angles must be exact."""
        precise = torch.promote_types(like.dtype, torch.float32)
        return [numbers.to(precise) for numbers in self.numbers(like.device)]

    def by_clip(self, value: Callable[[Grid], float], like: Tensor) -> float | Tensor:
        """A number that follows from the grid of each token's clip: one for all, or (N,) on the device of `like`."""
        values = [value(grid) for grid in self.grids]
        if self.table is None or len(values) == 1:
            return values[0]
        return on(like.device, values, like.dtype)[self.table[:, 0]]

    def of_clips(self, value: Tensor) -> Tensor:
        """A number for each clip, (K or B,) -> (B, 1, 1, 1), (B, 1) or (1, N), which broadcasts with the axes."""
        if self.table is None:
            return value.view(-1, 1, 1, 1)
        return value[:, None] if self.num_clips == 1 else value[self.table[:, 0]][None]

    def spread(self, axes: Sequence[Tensor]) -> Tensor:
        """Axes with channels behind, side by side for each token: (N, all channels), or (B, N, all channels)."""
        tokens = self.grids[0] if self.table is None else (len(self.table),)
        batch = next((axis.shape[: -1 - len(tokens)] for axis in axes if axis.dim() > 1 + len(tokens)), ())
        return torch.cat([axis.expand(*batch, *tokens, -1) for axis in axes], dim=-1).flatten(-1 - len(tokens), -2)

    def of_tokens(self, like: Tensor) -> Tensor:
        """Numbers of frame, row and column of each token, (N, 3), in a dtype as those of `axes`."""
        return self.spread([axis.unsqueeze(-1) for axis in self.axes(like)])

    def run_of_token(self, vectors: int, device: torch.device, others: int = 0) -> Tensor:
        """(N,) int64: which level vector a token takes, of those of all clips one after another.

        vectors: of each clip, 1 or one for each of its frames. others: in front of them, for each clip.
        """
        clip, frame, _, _ = self.rows(device).unbind(1)
        run = clip * (others + vectors) + others
        if vectors == 1:
            return run
        return run + frame - (on(device, self.first)[clip] if any(self.first) else 0)


def on(device: torch.device | str, numbers: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of few numbers on the device, for which the host does not wait, as it would in `torch.tensor(...,
    device=...)`."""
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)
