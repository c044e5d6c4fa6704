"""Text and video in one sequence with shared weights, told apart by their modulation (CogVideoX, arXiv 2408.06072)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dit.net.attention import Parts
from dit.net.blocks import Block
from dit.net.context import Context
from dit.net.layers import add_gated, modulate
from dit.net.layout import Layout
from dit.net.reads import Reads
from dit.net.sequence import TextTokens
from dit.net.text import JointText


class Joint(Block):
    """Attention, then the MLP, over text and video; shift, scale and gate of each are its own (section 2.2,
    "expert adaptive LayerNorm"). layout: which tokens attend to one another.

    Raises ValueError when the network has no text tokens in its sequence.
    """

    def __init__(self, parts: Parts, occurrence: int, *, layout: Layout) -> None:
        super().__init__()
        self.modulation = parts.modulation.block_head(6)
        self.text_modulation = parts.modulation.block_head(6)
        self.norm1 = parts.norm(parts.width)
        self.attention = parts.attention(parts, layout.at(occurrence))
        self.norm2 = parts.norm(parts.width)
        self.mlp = parts.mlp(parts.width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        if text is None:
            raise ValueError("blocks J need text tokens in the sequence: choose net/text=joint, or net.pattern=F")
        vectors = context.video_levels.of(self.modulation)  # 6 x (B, G, D)
        text_vectors = context.text_levels.of(self.text_modulation)  # 6 x (B, 1, D)
        attend = partial(self.attention, context=context)
        video, text = branch(attend, self.norm1, context.placed(video), text, vectors[:3], text_vectors[:3], context)
        return branch(self.mlp, self.norm2, video, text, vectors[3:], text_vectors[3:], context)


def branch(
    layer: Callable[[Tensor], Tensor],
    norm: nn.Module,
    video: Tensor,
    text: Tensor,
    vectors: tuple[Tensor, ...],
    text_vectors: tuple[Tensor, ...],
    context: Context,
) -> tuple[Tensor, Tensor]:
    """x + gate * layer(norm(x) * (1 + scale) + shift) for video (B, N, D) and text (B, L, D), by one call of the layer.

    vectors, text_vectors: shift, scale and gate of each.
    """
    shift, scale, gate = vectors
    text_shift, text_scale, text_gate = text_vectors
    x = context.sequence.join(modulate(norm(video), shift, scale), modulate(norm(text), text_shift, text_scale))
    change, text_change = context.sequence.split(layer(x), context.num_text)
    assert text_change is not None  # there are text tokens
    return add_gated(video, gate, change), add_gated(text, text_gate, text_change)


class WholeText(JointText):
    """As `JointText`, but padding is read like text: cond["text_mask"] is not used. CogVideoX was trained so, on texts
    padded to one length. The arguments are `JointText`'s.
    """

    reads = Reads(("text",))

    def forward(self, cond: Mapping[str, Tensor], t: Tensor) -> TextTokens:
        return TextTokens(stream=self.embed(self.features(cond)))


class TokenLinear(nn.Linear):
    """Text features to the network's width by one Linear. length: tokens that a text must have, or null: any number."""

    def __init__(self, text_width: int, width: int, *, length: int | None) -> None:
        super().__init__(text_width, width)
        self.length = length

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, text_width) -> (B, L, width)."""
        if self.length is not None and text.shape[1] != self.length:
            raise ValueError(
                f"cond['text'] has {text.shape[1]} tokens; this network reads texts of {self.length}: pad them to that"
            )
        return super().forward(text)


class PlacedTokens(TokenLinear):
    """As `TokenLinear`, with a learned position for each token (CogVideoX-5B image-to-video). length: of the texts."""

    def __init__(self, text_width: int, width: int, *, length: int) -> None:
        super().__init__(text_width, width, length=length)
        self.table = nn.Parameter(torch.zeros(1, length, width))

    def init_own(self, std: float) -> None:
        """Positions of text start at zero; called by the network's init part."""
        nn.init.zeros_(self.table)

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, text_width) -> (B, L, width)."""
        return super().forward(text) + self.table
