"""How the noise level (and what is added to it) steers a block: adaptive layer norm.

A modulation is owned by the backbone. It turns the level vectors into what all blocks read, once a step, and makes the
head that each block owns: the head gives the block its vectors (shift, scale, gate, ...), each (B, G, width).
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.layers import ZeroLinear
from dit.net.reads import Reads

BLOCK_VECTORS = 6  # of adaLN-single: shift, scale and gate, for attention and for the MLP
FINAL_VECTORS = 2  # shift and scale


class Modulation(nn.Module):
    """Base of the modulations, built with (width, level_width). reads: the keys of cond that `forward` reads."""

    reads = Reads()
    width: int

    @abstractmethod
    def forward(self, level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Level vectors (B, G, level_width) and cond -> what the heads of all blocks read (B, G, any)."""

    @abstractmethod
    def block_head(self, vectors: int) -> nn.Module:
        """A module from the output of `forward` to a tuple of `vectors` tensors (B, G, width)."""

    def text_head(self, vectors: int, width: int) -> nn.Module:
        """As `block_head`, for a text stream of its own `width`.

        Raises ValueError for another width than the blocks', unless the modulation can.
        """
        if width != self.width:
            raise ValueError(f"{type(self).__name__} steers width {self.width}, not a text stream of width {width}")
        return self.block_head(vectors)

    @abstractmethod
    def final_head(self) -> nn.Module:
        """A module from the level vectors (B, G, level_width) to shift and scale of the final layer."""


class AdaLNZero(Modulation):
    """A projection in each block, zero at first (DiT, arXiv 2212.09748, section 3.2)."""

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__()
        self.width, self.level_width = width, level_width

    def forward(self, level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, level_width) -> the same."""
        return functional.silu(level)

    def block_head(self, vectors: int) -> nn.Module:
        return Projection(self.level_width, self.width, vectors)

    def text_head(self, vectors: int, width: int) -> nn.Module:
        return Projection(self.level_width, width, vectors)

    def final_head(self) -> nn.Module:
        return nn.Sequential(nn.SiLU(), Projection(self.level_width, self.width, FINAL_VECTORS))


class AdaLNSingle(Modulation):
    """One projection for all blocks and a table in each (PixArt-alpha, arXiv 2310.00426, section 2.3; Wan, LTX, Latte).

    Projection and tables start at zero, so that every block starts as the identity. A block that needs fewer than six
    vectors takes the first ones.

    Raises ValueError when level_width is not the width, since the final layer's table is added to the level vector
    itself, and for a block that needs more than six vectors.
    """

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__()
        if level_width != width:
            raise ValueError(f"adaLN-single needs level_width={width}, the width of the blocks, not {level_width}")
        self.width = width
        self.shared = ZeroLinear(width, BLOCK_VECTORS * width)

    def forward(self, level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, width) -> (B, G, 6 * width)."""
        return self.shared(functional.silu(level))

    def block_head(self, vectors: int) -> nn.Module:
        if vectors > BLOCK_VECTORS:
            raise ValueError(
                f"adaLN-single gives a block {BLOCK_VECTORS} vectors, and this one needs {vectors}; choose"
                " net/modulation=adaln_zero or other blocks"
            )
        return Table(self.width, vectors)

    def final_head(self) -> nn.Module:
        return FinalTable(self.width)


class Projection(nn.Module):
    """A zero-initialised Linear whose output is cut into vectors."""

    def __init__(self, level_width: int, width: int, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.linear = ZeroLinear(level_width, vectors * width)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, G, level_width) -> `vectors` x (B, G, width)."""
        return self.linear(x).chunk(self.vectors, dim=-1)


class Table(nn.Module):
    """A learned table (vectors, width), added to the projection that all blocks share."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vectors, width))

    def init_own(self, std: float) -> None:
        """Zero, as every gate; called by the network's init part."""
        nn.init.zeros_(self.table)

    def forward(self, shared: Tensor) -> tuple[Tensor, ...]:
        """(B, G, 6 * width) -> `vectors` x (B, G, width)."""
        vectors, width = self.table.shape
        return (shared[..., : vectors * width] + self.table.flatten()).chunk(vectors, dim=-1)


class FinalTable(nn.Module):
    """Shift and scale of the final layer as a table, added to the level vector itself (PixArt-alpha's code, Wan)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(FINAL_VECTORS, width))

    def init_own(self, std: float) -> None:
        """Zero; called by the network's init part."""
        nn.init.zeros_(self.table)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, width) -> shift and scale, (B, G, width) each."""
        return level + self.table[0], level + self.table[1]
