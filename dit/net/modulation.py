"""How the noise level (and what is added to it) steers a block: adaptive layer norm.

A modulation is owned by the backbone. It turns the level vectors into what all blocks read, once a step, and makes the
head that each block owns: the head gives the block its shifts, scales and gates, each (B, G, width).
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.layers import ZeroLinear
from dit.net.reads import Reads, required

BLOCK_VECTORS = 6  # of adaLN-single: shift, scale and gate, for attention and for the MLP
BRANCH_VECTORS = 3  # shift, scale and gate
FINAL_VECTORS = 2  # shift and scale


class Modulation(nn.Module):
    """Base of the modulations, built with (width, level_width). reads: the keys of cond that `forward` reads."""

    reads = Reads()
    width: int

    @abstractmethod
    def forward(self, vectors: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Level vectors (B, G, level_width) and cond -> what the heads of all blocks read (B, G, any)."""

    @abstractmethod
    def block_head(self, count: int) -> nn.Module:
        """A module from the output of `forward` to a tuple of `count` tensors (B, G, width)."""

    def text_head(self, count: int, width: int) -> nn.Module:
        """As `block_head`, for a text stream of its own `width`.

        Raises ValueError for another width than the blocks', unless the modulation can.
        """
        if width != self.width:
            raise ValueError(f"{type(self).__name__} steers width {self.width}, not a text stream of width {width}")
        return self.block_head(count)

    @abstractmethod
    def final_head(self) -> nn.Module:
        """A module from the level vectors (B, G, level_width) to shift and scale of the final layer."""


class AdaLNZero(Modulation):
    """A projection in each block, zero at first (DiT, arXiv 2212.09748, section 3.2)."""

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__()
        self.width, self.level_width = width, level_width

    def forward(self, vectors: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, level_width) -> the same."""
        return functional.silu(vectors)

    def block_head(self, count: int) -> nn.Module:
        return Projection(self.level_width, self.width, count)

    def text_head(self, count: int, width: int) -> nn.Module:
        return Projection(self.level_width, width, count)

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

    def forward(self, vectors: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, width) -> (B, G, 6 * width)."""
        return self.shared(functional.silu(vectors))

    def block_head(self, count: int) -> nn.Module:
        if count > BLOCK_VECTORS:
            raise ValueError(
                f"adaLN-single gives a block {BLOCK_VECTORS} vectors, and this one needs {count}; choose"
                " net/modulation=adaln_zero or other blocks"
            )
        return Table(self.width, count)

    def final_head(self) -> nn.Module:
        return FinalTable(self.width, FINAL_VECTORS)


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

    def forward(self, vectors: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, width) -> (B, G, 6 * width)."""
        rate = self.out(functional.silu(self.hidden(self.table(self.classes(required(cond, "fps"))))))  # (B, 6 * width)
        return super().forward(vectors, cond) + rate.unsqueeze(1)

    def classes(self, fps: Tensor) -> Tensor:
        """Frames a second (B,) -> classes (B,) int64, the last for any other rate."""
        fps = fps.round()
        classes = torch.full_like(fps, len(self.rates), dtype=torch.int64)
        for index, rate in enumerate(self.rates):
            classes = classes.masked_fill(fps == rate, index)
        return classes


class PerBlockAdaLNZero(AdaLNZero):
    """`AdaLNZero` where each block reads a level vector of its own; the final layer reads the first block's.

    Raises ValueError for more blocks than level_width / width.
    """

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__(width, level_width)
        self.num_heads = 0

    def block_head(self, count: int) -> nn.Module:
        self.num_heads += 1
        if self.num_heads * self.width > self.level_width:
            raise ValueError(
                f"level_width={self.level_width} holds {self.level_width // self.width} vectors of width={self.width},"
                " one for each block, and there are more blocks: set level_width to depth * width (J blocks take two"
                " each), or choose net/modulation=adaln_zero"
            )
        return PartProjection(self.num_heads - 1, self.width, count)

    def final_head(self) -> nn.Module:
        return nn.Sequential(nn.SiLU(), PartProjection(0, self.width, FINAL_VECTORS))


class LowRank(Modulation):
    """Shift, scale and gate of each branch (attention, cross-attention, MLP) of each block by two Linears, width to
    rank to 3 * width, of which the second starts at zero. rank: channels between the two.

    With level_width = 4 * width the level vector also brings a shift, a scale and a gate of its own, which are added in
    every branch (`TwofoldEmbedding` makes them). With level_width = width it brings none.

    Raises ValueError for another level_width, and for a block that wants no multiple of three vectors.
    """

    def __init__(self, width: int, level_width: int, *, rank: int) -> None:
        super().__init__()
        if level_width not in (width, (1 + BRANCH_VECTORS) * width):
            raise ValueError(
                f"low-rank modulation needs level_width={width} or {4 * width} (4 * width), not {level_width}"
            )
        self.width, self.rank = width, rank

    def forward(self, vectors: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, level_width) -> the same, SiLU on the first `width` channels."""
        return activated(vectors, self.width)

    def block_head(self, count: int) -> nn.Module:
        branches, rest = divmod(count, BRANCH_VECTORS)
        if rest:
            raise ValueError(f"low-rank modulation gives three vectors a branch; this block wants {count}")
        return LowRankHead(self.width, self.rank, branches, BRANCH_VECTORS)

    def final_head(self) -> nn.Module:
        return FinalLowRank(self.width, self.rank, 1, FINAL_VECTORS)


class Projection(nn.Module):
    """A zero-initialised Linear whose output is cut into `count` tensors."""

    def __init__(self, level_width: int, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = ZeroLinear(level_width, count * width)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, G, level_width) -> `count` x (B, G, width)."""
        return self.linear(x).chunk(self.count, dim=-1)


class Table(nn.Module):
    """A learned table (count, width), added to the projection that all blocks share."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(count, width))

    def init_own(self, std: float) -> None:
        """Zero, as every gate; called by the network's init part."""
        nn.init.zeros_(self.table)

    def forward(self, shared: Tensor) -> tuple[Tensor, ...]:
        """(B, G, 6 * width) -> `count` x (B, G, width)."""
        count, width = self.table.shape
        return (shared[..., : count * width] + self.table.flatten()).chunk(count, dim=-1)


class FinalTable(Table):
    """Shift and scale of the final layer: a table added to the level vector itself (PixArt-alpha's code, Wan)."""

    def forward(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """(B, G, width) -> shift and scale, (B, G, width) each."""
        return tuple(vectors + row for row in self.table)


class PartProjection(Projection):
    """A `Projection` that reads only `width` channels of what it is given, the index-th such run, counted from 0."""

    def __init__(self, index: int, width: int, count: int) -> None:
        super().__init__(width, width, count)
        self.width, self.index = width, index

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, G, any) -> `count` x (B, G, width)."""
        return super().forward(x.narrow(-1, self.index * self.width, self.width))


class LowRankHead(nn.Module):
    """For each branch a Linear down to `rank` channels and one up to its vectors.

    `down` holds those of all branches side by side, so that they are one product.
    """

    def __init__(self, width: int, rank: int, branches: int, count: int) -> None:
        super().__init__()
        self.width, self.count = width, count
        self.down = nn.Linear(width, branches * rank, bias=False)
        self.up = nn.ModuleList(ZeroLinear(rank, count * width, bias=False) for _ in range(branches))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, G, width or 4 * width) -> `branches` times `count` tensors (B, G, width)."""
        own, shared = x[..., : self.width], x[..., self.width : (1 + self.count) * self.width]
        found: list[Tensor] = []
        for up, low in zip(self.up, self.down(own).chunk(len(self.up), dim=-1), strict=True):
            both = up(low) if shared.shape[-1] == 0 else up(low) + shared
            found += both.chunk(self.count, dim=-1)
        return tuple(found)


class FinalLowRank(LowRankHead):
    """As `LowRankHead`, for the final layer: it gets the level vectors themselves, not what `LowRank` made of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Level vectors (B, G, level_width) -> shift and scale, (B, G, width) each."""
        return super().forward(activated(x, self.width))


def activated(vectors: Tensor, width: int) -> Tensor:
    """(B, G, any) with SiLU on the first `width` channels."""
    return torch.cat([functional.silu(vectors[..., :width]), vectors[..., width:]], dim=-1)
