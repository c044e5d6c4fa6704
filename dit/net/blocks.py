"""Block templates: how the parts follow one another. The pattern string of the backbone names them by letter.

A block takes the video tokens (B, N, width), the text stream (B, L, width) or None, and the context, and returns both.
It adds to the video first what `Context.placed` does: positions that go into every block.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dit.net.attention import Parts
from dit.net.context import Context
from dit.net.layers import add_gated, modulate
from dit.net.layout import Layout
from dit.net.position.base import Position


class Block(nn.Module):
    """Base of the templates. Built with (parts, occurrence): the block is the occurrence-th of its letter, from 0."""

    @abstractmethod
    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        """video (B, N, width), text (B, L, width) or None -> the same."""


class Serial(Block):
    """Attention, then cross-attention if there is text to read, then the MLP (DiT; PixArt-alpha and Wan with text).

    layout: which tokens attend to one another.
    reads_text: whether it has cross-attention where the network has (Latte's temporal blocks have not).
    position: added to the tokens in front of the first block of its letter (Latte's temporal positions), or null.
    mlp_norm: the norm in front of the MLP, or null: as the block's other one.
    """

    def __init__(
        self,
        parts: Parts,
        occurrence: int,
        *,
        layout: Layout,
        reads_text: bool,
        position: Callable[[int, int], Position] | None,
        mlp_norm: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        self.position = position(parts.width, parts.head_dim) if position is not None and occurrence == 0 else None
        self.modulation = parts.modulation.block_head(6)
        self.norm1 = parts.norm(parts.width)
        self.attention = parts.attention(parts, layout.at(occurrence))
        self.cross_attention = parts.cross_attention(parts) if reads_text else None
        self.norm2 = (mlp_norm or parts.norm)(parts.width)
        self.mlp = parts.mlp(parts.width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        shift1, scale1, gate1, shift2, scale2, gate2 = context.levels.of(self.modulation)  # (B, G, D) each
        if self.position is not None:
            add = add_to_pack if context.levels.packed else add_position
            video = add(self.position, video, context)
        x = context.sequence.join(context.placed(video), text)  # (B, N + L, D)
        x = add_gated(x, gate1, self.attention(modulate(self.norm1(x), shift1, scale1), context))
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, context)
        x = add_gated(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))
        return context.sequence.split(x, context.num_text)


def add_position(position: Position, video: Tensor, context: Context) -> Tensor:
    """Video tokens (B, N, width) with a block's own positions."""
    return position.add(video, context.coordinates)


add_to_pack = torch.compiler.disable(add_position)  # of packed clips: a graph would be of one set of clips alone


class ThreeBranch(Block):
    """Attention, cross-attention and MLP alike: a norm with shift and scale in front, a gate behind (Cosmos).

    Without text to read it has two branches.
    layout: which tokens attend to one another.
    """

    def __init__(self, parts: Parts, occurrence: int, *, layout: Layout) -> None:
        super().__init__()
        self.attention = parts.attention(parts, layout.at(occurrence))
        self.cross_attention = parts.cross_attention(parts)
        self.mlp = parts.mlp(parts.width)
        branches = 2 if self.cross_attention is None else 3
        self.modulation = parts.modulation.block_head(3 * branches)
        self.norms = nn.ModuleList(parts.norm(parts.width) for _ in range(branches))

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        vectors = context.levels.of(self.modulation)  # (B, G, D) each
        x = context.sequence.join(context.placed(video), text)  # (B, N + L, D)
        shift, scale, gate = vectors[:3]
        x = add_gated(x, gate, self.attention(modulate(self.norms[0](x), shift, scale), context))
        if self.cross_attention is not None:
            shift, scale, gate = vectors[3:6]
            x = add_gated(x, gate, self.cross_attention(modulate(self.norms[1](x), shift, scale), context))
        shift, scale, gate = vectors[-3:]
        x = add_gated(x, gate, self.mlp(modulate(self.norms[-1](x), shift, scale)))
        return context.sequence.split(x, context.num_text)


class Parallel(Block):
    """Attention and MLP side by side on one norm (GPT-J, ViT-22B, arXiv 2302.05442), after any cross-attention.

    layout: which tokens attend to one another.
    """

    def __init__(self, parts: Parts, occurrence: int, *, layout: Layout) -> None:
        super().__init__()
        self.modulation = parts.modulation.block_head(3)
        self.cross_attention = parts.cross_attention(parts)
        self.norm = parts.norm(parts.width)
        self.attention = parts.attention(parts, layout.at(occurrence))
        self.mlp = parts.mlp(parts.width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        shift, scale, gate = context.levels.of(self.modulation)  # (B, G, D) each
        x = context.sequence.join(context.placed(video), text)  # (B, N + L, D)
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, context)
        h = modulate(self.norm(x), shift, scale)
        x = add_gated(x, gate, self.attention(h, context) + self.mlp(h))
        return context.sequence.split(x, context.num_text)
