"""Rotary positions whose places are not simply counted."""

from __future__ import annotations

import torch
from torch import Tensor

from dit.net.embed import Grid
from dit.net.position import AXES, RoPE3D
from dit.net.rotary import Pairing

UNSCALED = {"f": 1.0, "h": 1.0, "w": 1.0}


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
