"""Adaptive layer norm through few channels, and the level embedding that it reads (Cosmos, arXiv 2501.03575)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.embed import sinusoids
from dit.net.layers import ZeroLinear
from dit.net.modulation import FINAL_VECTORS, Modulation

BRANCH_VECTORS = 3  # shift, scale and gate


class TwofoldEmbedding(nn.Module):
    """Embeds the noise level in two ways, which stand side by side in one level vector of 4 * width channels:

    - channels [0, width): its sinusoids, normed;
    - channels [width, 4 * width): the same sinusoids through Linear, SiLU, Linear: a shift, a scale and a gate.

    `LowRank` projects the former in each block and adds the latter to what comes out.

    max_period, scale, shift: as `ScalarEmbedding`. norm: of the sinusoids.
    Raises ValueError when level_width is not 4 * width for an even width.
    """

    def __init__(
        self,
        level_width: int,
        *,
        max_period: float,
        scale: float,
        shift: float,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        if level_width % 8:
            raise ValueError(f"level_width={level_width} must be 4 * width for an even width (a multiple of 8)")
        width = level_width // (1 + BRANCH_VECTORS)
        self.max_period, self.scale, self.shift = max_period, scale, shift
        self.norm = norm(width)
        self.hidden = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, BRANCH_VECTORS * width, bias=False)

    def init_own(self, std: float) -> None:
        """Normal weights, as `ScalarEmbedding`; called by the network's init part."""
        nn.init.normal_(self.hidden.weight, std=std)
        nn.init.normal_(self.out.weight, std=std)

    def forward(self, value: Tensor) -> Tensor:
        """value (...) -> (..., 4 * width). The sinusoids are computed in float32 at least."""
        dtype = self.hidden.weight.dtype
        precise = torch.promote_types(dtype, torch.float32)
        width = self.hidden.in_features
        waves = sinusoids(value, width, self.max_period, self.scale, self.shift, precise).to(dtype)
        return torch.cat([self.norm(waves), self.out(functional.silu(self.hidden(waves)))], dim=-1)


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

    def forward(self, level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, G, level_width) -> the same, SiLU on the first `width` channels."""
        return activated(level, self.width)

    def block_head(self, vectors: int) -> nn.Module:
        branches, rest = divmod(vectors, BRANCH_VECTORS)
        if rest:
            raise ValueError(f"low-rank modulation gives three vectors a branch; this block wants {vectors}")
        return LowRankHead(self.width, self.rank, branches, BRANCH_VECTORS)

    def final_head(self) -> nn.Module:
        return FinalLowRank(self.width, self.rank, 1, FINAL_VECTORS)


class LowRankHead(nn.Module):
    """For each branch a Linear down to `rank` channels and one up to its vectors.

    `down` holds those of all branches side by side, so that they are one product.
    """

    def __init__(self, width: int, rank: int, branches: int, vectors: int) -> None:
        super().__init__()
        self.width, self.vectors = width, vectors
        self.down = nn.Linear(width, branches * rank, bias=False)
        self.up = nn.ModuleList(ZeroLinear(rank, vectors * width, bias=False) for _ in range(branches))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, G, width or 4 * width) -> `branches` times `vectors` tensors (B, G, width)."""
        own, shared = x[..., : self.width], x[..., self.width : (1 + self.vectors) * self.width]
        found: list[Tensor] = []
        for up, low in zip(self.up, self.down(own).chunk(len(self.up), dim=-1), strict=True):
            vectors = up(low) if shared.shape[-1] == 0 else up(low) + shared
            found += vectors.chunk(self.vectors, dim=-1)
        return tuple(found)


class FinalLowRank(LowRankHead):
    """As `LowRankHead`, for the final layer: it gets the level vectors themselves, not what `LowRank` made of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Level vectors (B, G, level_width) -> shift and scale, (B, G, width) each."""
        return super().forward(activated(x, self.width))


def activated(level: Tensor, width: int) -> Tensor:
    """(B, G, any) with SiLU on the first `width` channels."""
    return torch.cat([functional.silu(level[..., :width]), level[..., width:]], dim=-1)
