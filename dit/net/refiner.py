"""Text that is refined before it meets the video (HunyuanVideo, arXiv 2412.03603, section 4.2)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Natural
from dit.net.attention import NoQKNorm
from dit.net.dual import StreamHeads
from dit.net.embed import FeatureEmbedding
from dit.net.kernels.door import Kernel
from dit.net.kernels.masks import KeyPadding
from dit.net.layers import add_gated
from dit.net.layout import attend
from dit.net.modulation import Projection
from dit.net.sequence import JointSequence, TextLevel, TextTokens
from dit.net.text import Text


class RefinedText(Text):
    """Text tokens attend to one another in a few blocks of their own, then form a stream of the video's width.

    The features come from a causal language model; here each token also sees those behind it. The blocks are gated by
    a vector of the noise level and of the mean of the features. A text of padding alone is no text: its mean is zero,
    and the video attends to itself. Published weights have never seen that: their empty prompt, as classifier-free
    guidance needs it, has the real tokens that end the encoder's template.

    depth, heads: of the refiner's blocks. norm (dim), mlp (width): their parts, which may be others than the network's.
    noise (width): embedding of the noise level. kernel: attention. sequence, level: as in `JointText`; `level` also
    says which frame's noise the refiner is told.
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
        super().__init__(text_width, width)
        self.stream_width = width
        self.sequence, self.level = sequence, level
        self.embed = nn.Linear(text_width, width)
        self.noise = noise(width)
        self.mean = FeatureEmbedding(width, features=text_width)
        self.blocks = nn.ModuleList(RefinerBlock(width, heads, norm, mlp, kernel) for _ in range(depth))

    def forward(self, cond: Mapping[str, Tensor], t: Tensor) -> TextTokens:
        features, mask = self.features(cond), cond.get("text_mask")
        vector = self.level(self.noise(t)) + self.mean(mean_of_real(features, mask)).unsqueeze(1)  # (B, 1, D)
        vector = functional.silu(vector)
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
        q, k, v = self.project(self.norm1(x))  # (B, L, heads, head_dim) each
        x = add_gated(x, gate1, self.out(attend(self.kernel, q, k, v, padding).flatten(2)))
        return add_gated(x, gate2, self.mlp(self.norm2(x)))


def mean_of_real(features: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, D) -> (B, D): the mean over the tokens that are real; zero for a text that has none."""
    if mask is None:
        return features.mean(dim=1)
    weights = mask.to(features.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,bld->bd", weights, features)
