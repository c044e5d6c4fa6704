"""Rotary positions whose frequencies are learned, for each head by itself (Mochi, Genmo 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dit.net.coordinates import Coordinates
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

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """cos and sin (1, N, heads, head_dim), computed in float32 at least."""
        precise = torch.promote_types(like.dtype, torch.float32)
        f, h, w = coordinates.axes(like.device, precise)
        unit = coordinates.by_clip(lambda grid: math.sqrt(self.area / (grid[1] * grid[2])), f)
        rows = unit * (h - coordinates.by_clip(lambda grid: (grid[1] - 1) / 2, h))
        columns = unit * (w - coordinates.by_clip(lambda grid: (grid[2] - 1) / 2, w))
        by_frame, by_row, by_column = self.frequencies.to(precise)  # (heads, head_dim / 2) each
        # Axis by axis, then added up over the tokens.
        angles = f[..., None, None] * by_frame + rows[..., None, None] * by_row + columns[..., None, None] * by_column
        cos, sin = self.pairing.tables(angles.flatten(0, -3))  # (N, heads, head_dim)
        return Rotation(cos[None], sin[None], self.pairing)
