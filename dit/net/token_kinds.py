"""Tokens of a text, of its glyphs and of an image in one stream (HunyuanVideo 1.5, arXiv 2511.18870)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, NonNegative
from dit.net.layers import LayerNorm
from dit.net.layout import or_all
from dit.net.reads import Reads, union
from dit.net.sequence import NoiseLevels, TextTokens
from dit.net.text import Text

TEXT, GLYPHS, IMAGE = range(3)  # rows of `kinds`


class SeveralKinds(Text):
    """Adds tokens of glyphs and of an image to those of a text, and to each token a learned vector of its kind.

    Glyphs are features of a second text encoder, which reads letter by letter the words to be written in the picture:
    cond["glyphs"] (B, M, any) and cond["glyphs_mask"] (B, M) bool, True = real token (absent: all are). The image is
    cond["image"] (B, K, any), features of a vision encoder. Both may be absent.

    text (text_width, width): the text's own way, whose tokens form a stream. glyphs (width), image (width): features to
    tokens of this width.

    Raises ValueError for a text whose tokens form no stream of this width.
    """

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        text: Callable[[int, int], Text],
        glyphs: Callable[[int], nn.Module],
        image: Callable[[int], nn.Module],
    ) -> None:
        super().__init__(text_width, width)
        self.text = text(text_width, width)
        if self.text.stream_width != width:
            raise ValueError(f"{type(self.text).__name__} makes no stream of width {width}: choose text.text=refined")
        self.glyphs, self.image = glyphs(width), image(width)
        self.kinds = nn.Parameter(torch.zeros(3, width))
        self.stream_width = width
        self.sequence, self.level = self.text.sequence, self.text.level
        self.reads_level = self.text.reads_level
        self.reads = union([self.text], Reads(optional=("text_mask", "glyphs", "glyphs_mask", "image")))

    def init_own(self, std: float) -> None:
        """Normal, as embeddings of classes; called by the network's init part."""
        nn.init.normal_(self.kinds, std=std)

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        text = self.text(cond, levels)
        assert text.stream is not None  # the constructor has seen to it
        mask = cond.get("glyphs_mask")
        parts = [(text.stream + self.kinds[TEXT], text.mask)]  # (B, any, width), (B, any) or None
        if "glyphs" in cond:
            parts.append((self.glyphs(cond["glyphs"]) + self.kinds[GLYPHS], mask))
        if "image" in cond:
            parts.append((self.image(cond["image"]) + self.kinds[IMAGE], None))
        return TextTokens(stream=torch.cat([tokens for tokens, _ in parts], dim=1), mask=joined_masks(parts))


def joined_masks(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """The masks of tokens (B, n, any), where None means that all are real; None when all are of all parts."""
    if all(mask is None for _, mask in parts):
        return None
    return torch.cat([or_all(mask, tokens) for tokens, mask in parts], dim=1)


class GlyphProjection(nn.Module):
    """Features of glyphs to tokens: LayerNorm, then three Linears with GELU between them.

    features: width of what comes in. hidden: between the Linears. eps: of the norm.
    """

    def __init__(self, width: int, *, features: Count, hidden: Count, eps: NonNegative) -> None:
        super().__init__()
        self.norm = LayerNorm(features, eps=eps, affine=True)
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, M, features) -> (B, M, width). Raises ValueError for another width."""
        if x.shape[-1] != self.first.in_features:
            raise ValueError(f"cond['glyphs'] is {x.shape[-1]} wide; this network reads {self.first.in_features}")
        x = functional.gelu(self.first(self.norm(x)))
        return self.out(functional.gelu(self.second(x)))
