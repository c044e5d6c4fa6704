"""A level vector for each block: every block owns its embedder of noise levels and classes (diffusers' DiT).

The vectors of all blocks stand side by side in one level vector of level_width = depth * width, so they are computed
together, once a step, and other embeddings (classes, pooled text) join them as usual, by being added.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.embed import sinusoids
from dit.net.modulation import FINAL_VECTORS, AdaLNZero, Projection
from dit.net.patches import nearest


class PerBlockEmbedding(nn.Module):
    """`ScalarEmbedding` once for each block: shared sinusoids, then Linear, SiLU, Linear with weights of its own.

    blocks: how many; the other arguments are those of `ScalarEmbedding`.
    Raises ValueError when level_width is not a multiple of `blocks`.
    """

    def __init__(
        self, level_width: int, *, blocks: int, frequencies: int, max_period: float, scale: float, shift: float
    ) -> None:
        super().__init__()
        if level_width % blocks:
            near = nearest(level_width, blocks)
            raise ValueError(f"level_width={level_width} is not a multiple of blocks={blocks}; nearest: {near}")
        self.blocks, self.frequencies = blocks, frequencies
        self.max_period, self.scale, self.shift = max_period, scale, shift
        width = level_width // blocks
        self.hidden = nn.Linear(frequencies, level_width)
        self.out_weight = nn.Parameter(torch.empty(level_width, width))  # the blocks' matrices (out, in), stacked
        self.out_bias = nn.Parameter(torch.empty(level_width))

    def init_own(self, std: float) -> None:
        """Normal weights, as in `ScalarEmbedding`; called by the network's init part."""
        nn.init.normal_(self.hidden.weight, std=std)
        nn.init.normal_(self.out_weight, std=std)
        nn.init.zeros_(self.out_bias)

    def forward(self, value: Tensor) -> Tensor:
        """value (B, G) -> (B, G, level_width). The sinusoids are computed in float32 at least."""
        dtype = self.hidden.weight.dtype
        precise = torch.promote_types(dtype, torch.float32)
        features = sinusoids(value, self.frequencies, self.max_period, self.scale, self.shift, precise).to(dtype)
        hidden = functional.silu(self.hidden(features)).unflatten(-1, (self.blocks, -1))  # (B, G, blocks, width)
        out = torch.einsum("...ni,noi->...no", hidden, self.out_weight.unflatten(0, (self.blocks, -1)))
        return out.flatten(-2) + self.out_bias


class PerBlockAdaLNZero(AdaLNZero):
    """`AdaLNZero` where each block reads a level vector of its own; the final layer reads the first block's.

    Raises ValueError for more blocks than level_width / width.
    """

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__(width, level_width)
        self.num_heads = 0

    def block_head(self, vectors: int) -> nn.Module:
        self.num_heads += 1
        if self.num_heads * self.width > self.level_width:
            raise ValueError(
                f"level_width={self.level_width} holds {self.level_width // self.width} vectors of width={self.width},"
                " one for each block, and there are more blocks: set level_width to depth * width (J blocks take two"
                " each), or choose net/modulation=adaln_zero"
            )
        return PartProjection(self.num_heads - 1, self.width, vectors)

    def final_head(self) -> nn.Module:
        return nn.Sequential(nn.SiLU(), PartProjection(0, self.width, FINAL_VECTORS))


class PartProjection(Projection):
    """A `Projection` that reads only `width` channels of what it is given, the index-th such run, counted from 0."""

    def __init__(self, index: int, width: int, vectors: int) -> None:
        super().__init__(width, width, vectors)
        self.width, self.index = width, index

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, G, any) -> `vectors` x (B, G, width)."""
        return super().forward(x.narrow(-1, self.index * self.width, self.width))
