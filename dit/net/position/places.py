"""Where tokens are along time, height and width, for rotary positions: counted, in seconds, fitted, or divided."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.reads import Reads


class Places(Protocol):
    """Coordinates of the tokens of a grid along each axis, which a rotary position multiplies by its frequencies.

    reads: the keys of cond that they depend on.
    """

    reads: Reads

    def __call__(
        self, coordinates: Coordinates, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Three axes (`Coordinates`), with a batch in front where each sample has places of its own."""
        ...


class Counted:
    """From 0, one after another."""

    reads = Reads()

    def __call__(
        self, coordinates: Coordinates, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        return coordinates.axes(device, dtype)


class Timed(Counted):
    """Frames stand at their time: with cond["fps"] (B,), a frame is base_fps / fps long (Cosmos).

    base_fps: frames a second at which frames are one apart; they are too where cond has no fps (images).
    """

    reads = Reads(optional=("fps",))

    def __init__(self, base_fps: float) -> None:
        self.base_fps = base_fps

    def __call__(
        self, coordinates: Coordinates, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        frames, rows, columns = super().__call__(coordinates, device, dtype, cond)
        if "fps" in cond:
            frames = self.base_fps * (frames / coordinates.of_clips(cond["fps"].to(dtype)))
        return [frames, rows, columns]


class Divided(Counted):
    """Divided, so that a larger grid keeps the range of a smaller training (position interpolation, arXiv 2306.15595;
    Allegro, arXiv 2410.15458).

    divide: axis -> places along it are divided by this.
    """

    def __init__(self, divide: dict[str, float]) -> None:
        self.divide = divide

    def __call__(
        self, coordinates: Coordinates, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        counted = super().__call__(coordinates, device, dtype, cond)
        return [places / self.divide[axis] for axis, places in zip(AXES, counted, strict=True)]


class Fitted:
    """In the coordinates of the training's picture: a picture of another size or shape is scaled until it just fits
    into that and put in its middle; frames are counted (CogVideoX, arXiv 2408.06072; HunyuanDiT before it).

    picture: tokens of the training's picture along (h, w).
    """

    reads = Reads()

    def __init__(self, picture: list[int]) -> None:
        self.picture = picture

    def __call__(
        self, coordinates: Coordinates, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Rows and columns may lie between those of the training."""
        frames, *axes = coordinates.axes(device, dtype)
        placed = [frames]
        for i, numbers in enumerate(axes):
            first = coordinates.by_clip(partial(self.first, i), numbers)
            step = coordinates.by_clip(partial(self.step, i), numbers)
            placed.append(first + step * numbers)
        return placed

    def first(self, i: int, grid: Grid) -> float:
        """Where the first row (i=0) or column (1) stands."""
        return round((self.picture[i] - self.extent(i, grid)) / 2)

    def step(self, i: int, grid: Grid) -> float:
        """From one row or column to the next.

        n of them stand evenly from the first to (first + extent) (n - 1) / n; only for first = 0 is that extent / n.
        """
        n, first = grid[1 + i], self.first(i, grid)
        return ((first + self.extent(i, grid)) * (n - 1) / n - first) / max(n - 1, 1)

    def extent(self, i: int, grid: Grid) -> int:
        """Rows or columns of the training's picture that this one fills."""
        _, h, w = grid
        height, width = self.picture
        if h / w > height / width:  # fits by its height
            return (height, round(height / h * w))[i]
        return (round(width / w * h), width)[i]
