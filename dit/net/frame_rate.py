"""The frame rate of a video, told to the blocks through the projection that they share, not through the level."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.layers import ZeroLinear
from dit.net.modulation import BLOCK_VECTORS, AdaLNSingle
from dit.net.reads import Reads
from dit.net.text import required


class AdaLNSingleFPS(AdaLNSingle):
    """adaLN-single whose shared projection is moved by the video's frame rate; the final layer is not told
    (SkyReels-V2, arXiv 2504.13074).

    rates: frame rates with a vector of their own; cond["fps"], rounded to whole frames a second, is one of them or
    falls in one more class for all others.
    """

    reads = Reads(("fps",))

    def __init__(self, width: int, level_width: int, *, rates: list[int]) -> None:
        super().__init__(width, level_width)
        self.rates = rates
        self.table = nn.Embedding(len(rates) + 1, width)
        self.hidden = nn.Linear(width, width)
        self.out = ZeroLinear(width, BLOCK_VECTORS * width)

    def init_own(self, std: float) -> None:
        """Normal, as the other embeddings; called by the network's init part."""
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, width) -> (B, G, 6 * width)."""
        rate = self.out(functional.silu(self.hidden(self.table(self.classes(required(cond, "fps"))))))  # (B, 6 * width)
        return super().forward(level, cond) + rate.unsqueeze(1)

    def classes(self, fps: Tensor) -> Tensor:
        """Frames a second (B,) -> classes (B,) int64, the last for any other rate."""
        fps = fps.round()
        classes = torch.full_like(fps, len(self.rates), dtype=torch.int64)
        for index, rate in enumerate(self.rates):
            classes = classes.masked_fill(fps == rate, index)
        return classes
