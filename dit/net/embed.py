"""What turns scalars, classes and features of other networks into vectors: of the noise level, and of text tokens."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Positive
from dit.net.layers import LayerNorm
from dit.net.patches import nearest
from dit.net.position.base import Compression


class PatchEmbedding(nn.Linear):
    """Patches to tokens. bias: of the projection."""

    def __init__(self, features: int, width: int, *, bias: bool) -> None:
        super().__init__(features, width, bias=bias)


class LevelVector(nn.Module):
    """Base class of what is added to the embedding of the noise level: labels, pooled text, frame rate, guidance scale.

    Built with (level_width); its `forward` embeds one entry of cond, a value a sample.
    """

    def at(self, value: Tensor, t: Tensor) -> Tensor:
        """A value for each sample, levels t (B, 1) or (B, F) -> (B, 1, level_width), or (B, F, level_width)."""
        return self(value).unsqueeze(1)

    def on_latents(self, compression: Compression) -> None:
        """Hears which pixels the latents stand for."""


class Sinusoids(LevelVector):
    """Base of the embeddings of a scalar by its sinusoids, whose layers are `hidden` and `out`.

    frequencies: number of features, cosines and sines together, so even. max_period: sets the slowest wave, as `shift`
      says, in units of scaled input.
    scale: the input is multiplied by it first; 1000 takes levels in [0, 1] to the timesteps that DiT was made for.
    shift: the slowest of n = frequencies / 2 waves has the period 2 pi max_period^((n - 1) / (n - shift)). 0 is DiT's;
      with 1 the power is 1 (DDPM's code; diffusers' `downscale_freq_shift`).
    """

    hidden: nn.Linear
    out: nn.Linear

    def __init__(self, frequencies: Count, max_period: Positive, scale: float, shift: float) -> None:
        super().__init__()
        if frequencies % 2:
            raise ValueError(f"frequencies={frequencies} is odd; nearest: {frequencies - 1}, {frequencies + 1}")
        self.frequencies, self.max_period, self.scale, self.shift = frequencies, max_period, scale, shift

    def init_own(self, std: float) -> None:
        """Normal weights, as in DiT; called by the network's init part."""
        nn.init.normal_(self.hidden.weight, std=std)
        nn.init.normal_(self.out.weight, std=std)

    def sinusoids(self, value: Tensor) -> Tensor:
        """value (...) -> cosines, then sines (..., frequencies), computed in float32 at least."""
        dtype, half = self.hidden.weight.dtype, self.frequencies // 2
        precise = torch.promote_types(dtype, torch.float32)
        steps = torch.arange(half, device=value.device, dtype=precise)
        # Scaled before it is rounded: a float64 level then gives whole timesteps exactly.
        scaled = (self.scale * value.to(torch.promote_types(value.dtype, precise))).to(precise)
        angles = scaled[..., None] * torch.exp(-math.log(self.max_period) / (half - self.shift) * steps)
        return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


class ScalarEmbedding(Sinusoids):
    """Sinusoids of a scalar, then Linear, SiLU, Linear (DiT's timestep embedder): noise levels, frame rates.

    The arguments are those of `Sinusoids`.
    """

    def __init__(self, width: int, *, frequencies: Count, max_period: Positive, scale: float, shift: float) -> None:
        super().__init__(frequencies, max_period, scale, shift)
        self.hidden = nn.Linear(frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        """value (...) -> (..., width)."""
        return self.out(functional.silu(self.hidden(self.sinusoids(value))))


class LevelFromNoise(ScalarEmbedding):
    """`ScalarEmbedding` of 1 - t, for weights whose time runs from noise at 0 to data at 1 (SiT, arXiv 2401.08740)."""

    def forward(self, value: Tensor) -> Tensor:
        """t (...) in [0, 1], 0 is clean -> (..., width)."""
        return super().forward(1 - value)


class NoisyFramesScalar(ScalarEmbedding):
    """As `ScalarEmbedding`, but left out for frames at noise level 0: those are given, so there is nothing to guide in
    them (the guidance scale in HunyuanVideo's image-to-video). The arguments are `ScalarEmbedding`'s.
    """

    def at(self, value: Tensor, t: Tensor) -> Tensor:
        vector = super().at(value, t)
        return vector * (t > 0).unsqueeze(-1).to(vector.dtype)


class TwofoldEmbedding(Sinusoids):
    """Embeds the noise level in two ways, which stand side by side in one level vector of 4 * width channels (Cosmos,
    arXiv 2501.03575):

    - channels [0, width): its sinusoids, normed;
    - channels [width, 4 * width): the same sinusoids through Linear, SiLU, Linear: a shift, a scale and a gate.

    `modulation.LowRank` projects the former in each block and adds the latter to what comes out.

    max_period, scale, shift: as in `Sinusoids`. norm: of the sinusoids.
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
        if level_width % 8:
            raise ValueError(f"level_width={level_width} must be 4 * width for an even width (a multiple of 8)")
        width = level_width // 4
        super().__init__(width, max_period, scale, shift)
        self.norm = norm(width)
        self.hidden = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, 3 * width, bias=False)

    def forward(self, value: Tensor) -> Tensor:
        """value (...) -> (..., 4 * width)."""
        waves = self.sinusoids(value)
        return torch.cat([self.norm(waves), self.out(functional.silu(self.hidden(waves)))], dim=-1)


class PerBlockEmbedding(Sinusoids):
    """`ScalarEmbedding` once for each block: shared sinusoids, then Linear, SiLU, Linear with weights of its own
    (diffusers' DiT). The vectors of all blocks stand side by side in one level vector of level_width = depth * width:
    they are computed together, once a step, and other embeddings (classes, pooled text) are added to them.

    blocks: how many; the other arguments are those of `Sinusoids`.
    Raises ValueError when level_width is not a multiple of `blocks`.
    """

    def __init__(
        self, level_width: int, *, blocks: int, frequencies: int, max_period: float, scale: float, shift: float
    ) -> None:
        super().__init__(frequencies, max_period, scale, shift)
        if level_width % blocks:
            near = nearest(level_width, blocks)
            raise ValueError(f"level_width={level_width} is not a multiple of blocks={blocks}; nearest: {near}")
        self.blocks = blocks
        self.hidden = nn.Linear(frequencies, level_width)
        # The blocks' matrices (out, in), stacked.
        self.out_weight = nn.Parameter(torch.empty(level_width, level_width // blocks))
        self.out_bias = nn.Parameter(torch.empty(level_width))

    def init_own(self, std: float) -> None:
        """Normal weights, as in `ScalarEmbedding`; called by the network's init part."""
        nn.init.normal_(self.hidden.weight, std=std)
        nn.init.normal_(self.out_weight, std=std)
        nn.init.zeros_(self.out_bias)

    def forward(self, value: Tensor) -> Tensor:
        """value (B, G) -> (B, G, level_width)."""
        hidden = functional.silu(self.hidden(self.sinusoids(value))).unflatten(-1, (self.blocks, -1))
        out = torch.einsum("...ni,noi->...no", hidden, self.out_weight.unflatten(0, (self.blocks, -1)))
        return out.flatten(-2) + self.out_bias


class ClassEmbedding(LevelVector):
    """A vector for each class and one, the last, for "no class"."""

    def __init__(self, width: int, *, num_classes: Count) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)

    def init_own(self, std: float) -> None:
        """Normal, as in DiT; called by the network's init part."""
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, label: Tensor) -> Tensor:
        """label (B,) int64, `num_classes` is "no class" -> (B, width)."""
        return self.table(label)


class FeatureEmbedding(LevelVector):
    """Features of another network through Linear, SiLU, Linear: pooled text as in HunyuanVideo and SD3.

    features: width of what comes in.
    """

    def __init__(self, width: int, *, features: Count) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, width)
        self.out = nn.Linear(width, width)

    def init_own(self, std: float) -> None:
        """Normal weights, as for the other embeddings; called by the network's init part."""
        nn.init.normal_(self.hidden.weight, std=std)
        nn.init.normal_(self.out.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, features) -> (B, width). Raises ValueError for another width."""
        check_pooled(x, self.hidden.in_features)
        return self.out(functional.silu(self.hidden(x)))


def check_pooled(x: Tensor, features: int) -> None:
    """Raises ValueError for features (B, any) of another width than `features`."""
    if x.shape[-1] != features:
        raise ValueError(
            f"pooled features are {x.shape[-1]} wide, and this network reads {features}: set"
            f" net.vectors.pooled.features={x.shape[-1]}, or leave them out by net/pooled=none"
        )


class TokenProjection(nn.Module):
    """Text features to the network's width: Linear, GELU (tanh), Linear (the captions of PixArt-alpha, Wan, LTX)."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(text_width, width)
        self.out = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, text_width) -> (B, L, width)."""
        return self.out(functional.gelu(self.hidden(text), approximate="tanh"))


class GELUProjection(nn.Module):
    """Features of another network through Linear and GELU (Cosmos 2.5). features: width of what comes in."""

    def __init__(self, width: int, *, features: Count) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., features) -> (..., width)."""
        return functional.gelu(self.linear(x))


class ImageTokens(nn.Module):
    """Features of an image encoder (CLIP) to tokens: LayerNorm, Linear, GELU, Linear, LayerNorm (Wan's `img_emb`).

    features: width of what comes in. eps: of the norms.
    positions: null for one image a sample; or the tokens of two images together (first and last frame), each of which
      then has a learned position.
    """

    def __init__(self, width: int, *, features: int, positions: int | None, eps: float) -> None:
        super().__init__()
        self.features = features
        self.table = None if positions is None else nn.Parameter(torch.zeros(1, positions, features))
        self.norm_in = LayerNorm(features, eps=eps, affine=True)
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, width)
        self.norm_out = LayerNorm(width, eps=eps, affine=True)

    def init_own(self, std: float) -> None:
        """Positions start at zero; called by the network's init part."""
        if self.table is not None:
            nn.init.zeros_(self.table)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, M, features) -> (B, M, width). With positions M is that of both images; in the form of diffusers'
        class, (2 B, M / 2, features), the two of a sample come one after another."""
        if self.table is not None:
            image = image.reshape(-1, *self.table.shape[1:]) + self.table
        return self.norm_out(self.out(functional.gelu(self.hidden(self.norm_in(image)))))
