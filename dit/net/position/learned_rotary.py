"""Rotary positions whose frequencies are learned, for each head by itself (Mochi, Genmo 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dit.net.embed import Grid
from dit.net.position.base import Position, half
from dit.net.position.rotary import Pairing, Rotation


class LearnedRoPE3D(Position):
    """The angle of each pair of each head is a learned mixture of time, height and width.

    Frames are counted; rows and columns are measured from the middle of the picture, in units that make it `area`.

    area: of every picture, in tokens (36864 = 192 * 192). std: of the initial frequencies: a random frequency tells
    places apart that are about 1 / std away. pairing: which channels form pairs.

    Raises ValueError when the head size is odd.
    """

    def __init__(self, width: int, head_dim: int, *, area: float, std: float, pairing: Pairing) -> None:
        super().__init__()
        pairs = half(head_dim, "RoPE needs an even head size")
        self.area, self.std, self.pairing = area, std, pairing
        self.frequencies = nn.Parameter(torch.empty(3, width // head_dim, pairs))
        self.init_own(std)

    def init_own(self, std: float) -> None:
        """Normal with a std of their own; called by the network's init part, whose std is for embeddings."""
        nn.init.normal_(self.frequencies, std=self.std)

    def rotation(self, grid: Grid, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """cos and sin (1, N, heads, head_dim), computed in float32 at least."""
        frames, height, width = grid
        precise = torch.promote_types(like.dtype, torch.float32)
        unit = math.sqrt(self.area / (height * width))
        f, h, w = (torch.arange(n, device=like.device, dtype=precise) for n in grid)
        rows, columns = unit * (h - (height - 1) / 2), unit * (w - (width - 1) / 2)
        # Axis by axis, then added up over the grid: (F, 1, 1, ...) + (1, H, 1, ...) + (1, 1, W, ...).
        by_frame, by_row, by_column = self.frequencies.to(precise)  # (heads, head_dim / 2) each
        angles = (
            f[:, None, None, None, None] * by_frame
            + rows[None, :, None, None, None] * by_row
            + columns[None, None, :, None, None] * by_column
        )
        cos, sin = self.pairing.tables(angles.flatten(0, 2))  # (N, heads, head_dim)
        return Rotation(cos[None], sin[None], self.pairing)
