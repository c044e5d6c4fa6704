"""Text that is changed before it meets the video: refined (HunyuanVideo, arXiv 2412.03603, section 4.2), or pooled into
a vector beside its tokens (Mochi, Genmo 2024)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Natural
from dit.net.attention import NoQKNorm, StreamHeads
from dit.net.embed import FeatureEmbedding
from dit.net.kernels.base import Kernel
from dit.net.kernels.masks import KeyPadding
from dit.net.layers import add_gated
from dit.net.layout import attend
from dit.net.modulation import Projection
from dit.net.sequence import JointSequence, NoiseLevels, TextLevel, TextTokens, one_of_frames
from dit.net.text import JointText


class RefinedText(JointText):
    """Text tokens attend to one another in a few blocks of their own, then form a stream of the video's width.

    The features come from a causal language model; here each token also sees those behind it. The blocks are gated by
    a vector of the noise level and of the mean of the features. A text of padding alone is no text: its mean is zero,
    and the video attends to itself. Published weights have never seen that: their empty prompt, as classifier-free
    guidance needs it, has the real tokens that end the encoder's template.

    depth, heads: of the refiner's blocks. norm (dim), mlp (width): their parts, which may be others than the network's.
    noise (width): embedding of the noise level. kernel: attention. sequence, level: as in `JointText`; `level` also
    says of which frame of tokens the refiner is told the noise.
    """

    reads_level = True

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        depth: Natural,
        heads: Count,
        norm: Callable[[int], nn.Module],
        mlp: Callable[[int], nn.Module],
        noise: Callable[[int], nn.Module],
        kernel: Kernel,
        sequence: JointSequence,
        level: TextLevel,
    ) -> None:
        super().__init__(text_width, width, embed=nn.Linear, sequence=sequence, level=level)
        self.noise = noise(width)
        self.mean = FeatureEmbedding(width, features=text_width)
        self.blocks = nn.ModuleList(RefinerBlock(width, heads, norm, mlp, kernel) for _ in range(depth))

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        features, mask = self.features(cond), cond.get("text_mask")
        noise = levels.of_tokens(self.noise(levels.t))  # (B, 1 or F / f, D)
        noise = one_of_frames(noise, self.level, levels.coordinates.frames)  # (B, 1, D)
        vector = functional.silu(noise + self.mean(mean_of_real(features, mask)).unsqueeze(1))
        padding = None if mask is None else KeyPadding(mask)
        x = self.embed(features)  # (B, L, D)
        for block in self.blocks:
            x = block(x, vector, padding)
        return TextTokens(stream=x, mask=mask)


class RefinerBlock(nn.Module):
    """Attention, then an MLP, each normed in front and gated behind; no shift or scale."""

    def __init__(
        self,
        width: int,
        heads: int,
        norm: Callable[[int], nn.Module],
        mlp: Callable[[int], nn.Module],
        kernel: Kernel,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.gates = Projection(width, width, 2)
        self.norm1 = norm(width)
        self.project = StreamHeads(width, heads, width // heads, NoQKNorm, bias=True)
        self.out = nn.Linear(width, width)
        self.norm2 = norm(width)
        self.mlp = mlp(width)

    def forward(self, x: Tensor, vector: Tensor, padding: KeyPadding | None) -> Tensor:
        """x (B, L, width), vector (B, 1, width) -> (B, L, width)."""
        gate1, gate2 = self.gates(vector)  # (B, 1, width) each
        q, k, v = self.project.heads_of(self.norm1(x), None)  # (B, L, heads, head_dim) each
        x = add_gated(x, gate1, self.out(attend(self.kernel, q, k, v, padding).flatten(2)))
        return add_gated(x, gate2, self.mlp(self.norm2(x)))


def mean_of_real(features: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, D) -> (B, D): the mean over the tokens that are real; zero for a text that has none."""
    if mask is None:
        return features.mean(dim=1)
    weights = mask.to(features.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,bld->bd", weights, features)


class PooledText(JointText):
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
        super().__init__(text_width, stream_width, embed=nn.Linear, sequence=sequence, level=level)
        self.vector_width = width
        self.pool = pool(text_width, width)

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
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
