"""Where tokens are along time, height and width, for rotary positions: counted, in seconds, fitted, or divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from dit.net.embed import Grid
from dit.net.position.base import AXES
from dit.net.reads import Reads


class Places(Protocol):
    """Coordinates of the tokens of a grid along each axis, which a rotary position multiplies by its frequencies.

    reads: the keys of cond that they depend on.
    """

    reads: Reads

    def __call__(
        self, grid: Grid, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Grid (f, h, w) -> the coordinates along time, height and width: (length,) each, (B, length) where each sample
        has its own."""
        ...


class Counted:
    """From 0, one after another."""

    reads = Reads()

    def __call__(
        self, grid: Grid, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        return [torch.arange(length, device=device, dtype=dtype) for length in grid]


class Timed(Counted):
    """Frames stand at their time: with cond["fps"] (B,), a frame is base_fps / fps long (Cosmos).

    base_fps: frames a second at which frames are one apart; they are too where cond has no fps (images).
    """

    reads = Reads(optional=("fps",))

    def __init__(self, base_fps: float) -> None:
        self.base_fps = base_fps

    def __call__(
        self, grid: Grid, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        frames, rows, columns = super().__call__(grid, device, dtype, cond)
        if "fps" in cond:
            frames = self.base_fps * (frames / cond["fps"].to(dtype)[:, None])  # (B, length)
        return [frames, rows, columns]


class Divided(Counted):
    """Divided, so that a larger grid keeps the range of a smaller training (position interpolation, arXiv 2306.15595;
    Allegro, arXiv 2410.15458).

    divide: axis -> places along it are divided by this.
    """

    def __init__(self, divide: dict[str, float]) -> None:
        self.divide = divide

    def __call__(
        self, grid: Grid, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        counted = super().__call__(grid, device, dtype, cond)
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
        self, grid: Grid, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
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
