"""What turns scalars, classes and features of other networks into vectors: of the noise level, and of text tokens."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Positive


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


class ScalarEmbedding(LevelVector):
    """Sinusoids of a scalar, then Linear, SiLU, Linear (DiT's timestep embedder): noise levels, frame rates.

    frequencies: number of features, cosines and sines together, so even. max_period: sets the slowest wave, as `shift`
      says, in units of scaled input.
    scale: the input is multiplied by it first; 1000 takes levels in [0, 1] to the timesteps that DiT was made for.
    shift: the slowest of n = frequencies / 2 waves has the period 2 pi max_period^((n - 1) / (n - shift)). 0 is DiT's;
      with 1 the power is 1 (DDPM's code; diffusers' `downscale_freq_shift`).
    """

    def __init__(self, width: int, *, frequencies: Count, max_period: Positive, scale: float, shift: float) -> None:
        super().__init__()
        if frequencies % 2:
            raise ValueError(f"frequencies={frequencies} is odd; nearest: {frequencies - 1}, {frequencies + 1}")
        self.frequencies = frequencies
        self.max_period = max_period
        self.scale = scale
        self.shift = shift
        self.hidden = nn.Linear(frequencies, width)
        self.out = nn.Linear(width, width)

    def init_own(self, std: float) -> None:
        """Normal weights, as in DiT; called by the network's init part."""
        nn.init.normal_(self.hidden.weight, std=std)
        nn.init.normal_(self.out.weight, std=std)

    def forward(self, value: Tensor) -> Tensor:
        """value (...) -> (..., width). The sinusoids are computed in float32 at least."""
        dtype = self.hidden.weight.dtype
        precise = torch.promote_types(dtype, torch.float32)
        features = sinusoids(value, self.frequencies, self.max_period, self.scale, self.shift, precise)
        return self.out(functional.silu(self.hidden(features.to(dtype))))


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


def sinusoids(
    value: Tensor, frequencies: Count, max_period: Positive, scale: float, shift: float, dtype: torch.dtype
) -> Tensor:
    """value (...) -> cosines, then sines (..., frequencies); the settings are those of `ScalarEmbedding`."""
    half = frequencies // 2
    steps = torch.arange(half, device=value.device, dtype=dtype)
    # Scaled before it is rounded to `dtype`: a float64 level then gives whole timesteps exactly.
    scaled = (scale * value.to(torch.promote_types(value.dtype, dtype))).to(dtype)
    angles = scaled[..., None] * torch.exp(-math.log(max_period) / (half - shift) * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


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
        if x.shape[-1] != self.hidden.in_features:
            raise ValueError(
                f"pooled features are {x.shape[-1]} wide, and this network reads {self.hidden.in_features}: set"
                f" net.vectors.pooled.features={x.shape[-1]}, or leave them out by net/pooled=none"
            )
        return self.out(functional.silu(self.hidden(x)))


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
