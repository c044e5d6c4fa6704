"""Text that blocks of its own work on, and that blocks of the video then read (Kandinsky 5, arXiv 2511.14993)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from dit.config.limits import Count, NonNegative, Positive
from dit.net.attention import Parts, StreamHeads
from dit.net.blocks import Block, ThreeBranch
from dit.net.context import Context
from dit.net.dual import text_stream_width
from dit.net.embed import LevelVector, check_pooled
from dit.net.kernels.masks import KeyPadding
from dit.net.layers import LayerNorm, add_gated, modulate
from dit.net.layout import attend
from dit.net.position.base import frequencies
from dit.net.position.rotary import Pairing, Rotation
from dit.net.sequence import JointSequence, NoiseLevels, TextLevel, TextTokens
from dit.net.text import JointText


class StreamText(JointText):
    """Text tokens are a stream, which blocks may also read by cross-attention.

    attention: of the blocks that read it, finished with its parts. The other arguments are `JointText`'s.
    """

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        embed: Callable[[int, int], nn.Module],
        sequence: JointSequence,
        level: TextLevel,
        attention: Callable[[Parts], nn.Module],
    ) -> None:
        super().__init__(text_width, width, embed=embed, sequence=sequence, level=level)
        self.attention = attention

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        text = super().forward(cond, levels)
        return replace(text, cross=text.stream)

    def cross_attention(self, parts: Parts) -> nn.Module:
        return self.attention(parts)


class TextBlock(Block):
    """Attention among the text tokens of a clip, then the MLP, modulated by the noise level; the video passes by.

    theta: base of the frequencies of the rotary positions, which count the tokens from 0. pairing: which channels form
    pairs.
    """

    def __init__(self, parts: Parts, occurrence: int, *, theta: Positive, pairing: Pairing) -> None:
        super().__init__()
        width = text_stream_width(parts)
        self.theta, self.pairing, self.kernel = theta, pairing, parts.kernel
        self.modulation = parts.modulation.text_head(6, width)
        self.norm1 = parts.norm(width)
        self.project = StreamHeads(width, parts.heads, parts.head_dim, parts.qk_norm, bias=True)
        self.out = nn.Linear(parts.heads * parts.head_dim, width)
        self.norm2 = parts.norm(width)
        self.mlp = parts.mlp(width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        assert text is not None  # the constructor has seen to it
        shift1, scale1, gate1, shift2, scale2, gate2 = context.text_levels.of(self.modulation)  # (B, 1, D) each
        text = add_gated(text, gate1, self.attend(modulate(self.norm1(text), shift1, scale1), context))
        text = add_gated(text, gate2, self.mlp(modulate(self.norm2(text), shift2, scale2)))
        return video, text

    def attend(self, x: Tensor, context: Context) -> Tensor:
        """x (B, L, D), or the texts of K packed clips (1, K L, D) -> the same; each text attends to itself."""
        texts = x.unflatten(1, (context.coordinates.num_clips, -1)).flatten(0, 1)  # (B K, L, D)
        q, k, v = self.project.heads_of(texts, self.rotation(texts))  # (B K, L, heads, head_dim) each
        mask = None if context.text.mask is None else KeyPadding(context.text.mask.reshape(texts.shape[:2]))
        return self.out(attend(self.kernel, q, k, v, mask).flatten(2)).view(x.shape)

    def rotation(self, x: Tensor) -> Rotation:
        """Of the tokens of one text, for x (any, L, D). Angles are computed in float32 at least."""
        precise = torch.promote_types(x.dtype, torch.float32)
        numbers = torch.arange(x.shape[1], device=x.device, dtype=precise)
        pairs = self.project.head_dim // 2
        angles = numbers.unsqueeze(1) * frequencies(pairs, self.theta, numbers)  # (L, head_dim / 2)
        cos, sin = (table[None, :, None] for table in self.pairing.tables(angles))
        return Rotation(cos, sin, self.pairing)


class StreamReader(ThreeBranch):
    """As `ThreeBranch` for the video alone, whose cross-attention reads the text stream as it is by then.

    layout: which tokens attend to one another.
    """

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        alone = replace(
            context,
            levels=context.video_levels,
            rotation=context.video_rotation,
            text=replace(context.text, cross=text, kept=None),
            num_text=0,
            joint_mask=None,
            masks={},
            grids=[],
        )
        video, _ = super().forward(video, None, alone)
        return video, text


class NormedTokens(nn.Module):
    """Text features to the network's width by a Linear and a LayerNorm. eps: of the norm."""

    def __init__(self, text_width: int, width: int, *, eps: NonNegative) -> None:
        super().__init__()
        self.linear = nn.Linear(text_width, width)
        self.norm = LayerNorm(width, eps=eps, affine=True)

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, text_width) -> (B, L, width)."""
        return self.norm(self.linear(text))


class NormedFeatures(LevelVector):
    """Features of another network, as pooled text, by a Linear and a LayerNorm. features: width of what comes in. eps:
    of the norm.
    """

    def __init__(self, width: int, *, features: Count, eps: NonNegative) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, width)
        self.norm = LayerNorm(width, eps=eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, features) -> (B, width). Raises ValueError for another width."""
        check_pooled(x, self.hidden.in_features)
        return self.norm(self.hidden(x))
