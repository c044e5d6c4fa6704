"""Two streams of different widths, steered by scales and tanh gates alone (Mochi, Genmo 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dit.net.attention import Parts
from dit.net.blocks import Block
from dit.net.context import Context
from dit.net.dual import text_stream_width
from dit.net.kernels.door import Kernel
from dit.net.kernels.masks import KeyPadding
from dit.net.layers import add_gated
from dit.net.layout import Layout, attend
from dit.net.refiner import mean_of_real
from dit.net.sequence import JointSequence, TextLevel, TextTokens
from dit.net.text import Text


class Sandwich(Block):
    """Attention of both streams, then an MLP for each; every branch is normed and scaled in front, normed and gated by
    tanh behind. There are no shifts.

    layout: which tokens attend to one another. attention: finished with (parts, layout, writes_text). text_mlp: of the
    text stream, or null: the stream is read and ends here, as in Mochi's last block.
    """

    def __init__(
        self,
        parts: Parts,
        occurrence: int,
        *,
        layout: Layout,
        attention: Callable[[Parts, Layout, bool], nn.Module],
        text_mlp: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        width, text_width = parts.width, text_stream_width(parts)
        writes_text = text_mlp is not None
        self.attention = attention(parts, layout.at(occurrence), writes_text)
        self.modulation = parts.modulation.block_head(4)
        self.norms = nn.ModuleList(parts.norm(width) for _ in range(4))
        self.mlp = parts.mlp(width)
        self.text_modulation = parts.modulation.text_head(4 if writes_text else 1, text_width)
        self.text_norms = nn.ModuleList(parts.norm(text_width) for _ in range(4 if writes_text else 1))
        self.text_mlp = None if text_mlp is None else text_mlp(text_width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        assert text is not None  # the constructor has seen to it
        scale1, *vectors = context.video_levels.of(self.modulation)  # (B, 1 or F, D) each
        text_scale1, *text_vectors = context.text_levels.of(self.text_modulation)  # (B, 1, text D) each
        video = context.placed(video)
        video_in, text_in = scaled(self.norms[0](video), scale1), scaled(self.text_norms[0](text), text_scale1)
        video_read, text_read = self.attention(video_in, text_in, context)
        video = finish(video, video_read, vectors, self.norms, self.mlp)
        if self.text_mlp is not None:
            text = finish(text, text_read, text_vectors, self.text_norms, self.text_mlp)
        return video, text


def finish(x: Tensor, read: Tensor, vectors: list[Tensor], norms: nn.ModuleList, mlp: nn.Module) -> Tensor:
    """Adds what attention has read, then the MLP. x, read (B, N, D), vectors gate, scale and gate, (B, G, D) each."""
    gate1, scale2, gate2 = vectors
    x = add_gated(x, gate1.tanh(), norms[1](read))
    return add_gated(x, gate2.tanh(), norms[3](mlp(scaled(norms[2](x), scale2))))


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale), for x (B, N, D) and scale (B, G, D), with runs as in `modulate`."""
    return (x.unflatten(1, (scale.shape[1], -1)) * (1 + scale.unsqueeze(2))).flatten(1, 2)


class PooledText(Text):
    """Text tokens as a stream of a width of their own, and one vector of the whole text beside the noise level.

    stream_width: of the stream. pool (text_width, width): makes the vector, which is as wide as the network.
    sequence, level: as in `JointText`.
    """

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        stream_width: int,
        pool: Callable[[int, int], nn.Module],
        sequence: JointSequence,
        level: TextLevel,
    ) -> None:
        super().__init__(text_width, width)
        self.stream_width, self.vector_width = stream_width, width
        self.sequence, self.level = sequence, level
        self.embed = nn.Linear(text_width, stream_width)
        self.pool = pool(text_width, width)

    def forward(self, cond: Mapping[str, Tensor], t: Tensor) -> TextTokens:
        features, mask = self.features(cond), cond.get("text_mask")
        return TextTokens(stream=self.embed(features), mask=mask, vector=self.pool(features, mask))


class AttentionPool(nn.Module):
    """One vector of many tokens: their mean attends to itself and to them. heads, kernel: of the attention.

    Raises ValueError when the heads do not divide the width of the tokens.
    """

    def __init__(self, features: int, width: int, *, heads: int, kernel: Kernel) -> None:
        super().__init__()
        if features % heads:
            raise ValueError(f"text_width={features} is not a multiple of the {heads} heads that pool the text")
        self.heads, self.kernel = heads, kernel
        self.q = nn.Linear(features, features)
        self.kv = nn.Linear(features, 2 * features)
        self.out = nn.Linear(features, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, L, features), mask (B, L) bool, True = real, or None -> (B, width)."""
        mean = mean_of_real(x, mask).unsqueeze(1)
        q = self.q(mean).unflatten(-1, (self.heads, -1))  # (B, 1, heads, head_dim)
        k, v = self.kv(torch.cat([mean, x], dim=1)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        real = None if mask is None else torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        padding = None if real is None else KeyPadding(real, never_empty=True)  # the mean is there
        return self.out(attend(self.kernel, q, k, v, padding).flatten(1))
