"""The network of a video autoencoder: clips to the mean and variance of latents, and latents to clips.

A variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114) of causal convolutions, as those of latent video
models are (Yu et al. 2023, MAGVIT-v2, arXiv 2310.05737; the first frame alone, so that it learns of pictures too).
`dit/recipes/autoencoding.py` trains it, and `dit/codec/vae/codec.py` is the codec that its run becomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call
from torch.nn import functional

from dit.codec.compression import Compression
from dit.codec.vae.layers import CausalConv, Longer, Residual, RMSNorm, Shorter, Stream, Stride
from dit.config.limits import Count, Natural

LEAST_SHARE = 0.01  # of a batch in the moments of latents: they are those of the last few hundred batches
FIRST_LOG_VARIANCE = -4.0  # of latents before training; at 0 their noise would be all that the decoder sees
LOG_VARIANCE = (-30.0, 20.0)  # where it is held


class Coded(NamedTuple):
    """A clip through the network and back.

    Attributes:
        pixels: the reconstruction (B, 3, num_frames, height, width), not held within [-1, 1].
        mean, log_variance: of the latents, (B, C, F, H, W) each.
        features: what the last layer of the decoder made the pixels of, for `Autoencoder.last_gradient`.
    """

    pixels: Tensor
    mean: Tensor
    log_variance: Tensor
    features: Tensor


class Reads(NamedTuple):
    """Keys of `cond` that a network is told; an autoencoder is told nothing."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


class Autoencoder(nn.Module):
    """Encoder and decoder of `len(widths)` stages each. In training it draws latents, otherwise it takes their mean.

    latent_channels: C. widths: channels of the stages, from pixels to latents. strides: (frames, height, width) by
    which each stage shortens its input; together they are the stride of the codec.
    encoder_blocks, decoder_blocks: residual blocks of each stage, in the same order.
    kernel: frames that a convolution sees, its own and those before; at least the largest stride in time.

    `in_channels`, `out_channels`, `patch`, `num_classes`, `reads`, `num_tokens` and `on_latents` are what a run asks of
    any network that it trains (`dit.net.backbone.Backbone`). Its input are pixels, and its tokens are latents.

    Raises ValueError for lists of different lengths, and for a kernel that is too short.
    """

    in_channels = out_channels = 3
    patch = (1, 1, 1)
    num_classes = None
    reads = Reads()

    def __init__(
        self,
        latent_channels: Count,
        widths: list[Count],
        strides: list[tuple[Count, Count, Count]],
        encoder_blocks: list[Natural],
        decoder_blocks: list[Natural],
        kernel: Count,
    ) -> None:
        super().__init__()
        counts = {"strides": len(strides), "encoder_blocks": len(encoder_blocks), "decoder_blocks": len(decoder_blocks)}
        for name, count in counts.items():
            if not widths or count != len(widths):
                raise ValueError(f"net.{name} has {count} entries, and net.widths {len(widths)}: one for each stage")
        slowest = max(f for f, _, _ in strides)
        if kernel < slowest:
            raise ValueError(f"net.kernel={kernel} is less than the stride of {slowest} frames; nearest: {slowest}")
        self.latent_channels = latent_channels
        self.stride: Stride = (prod(s[0] for s in strides), prod(s[1] for s in strides), prod(s[2] for s in strides))
        self.encoder = Encoder(latent_channels, widths, strides, encoder_blocks, kernel)
        self.decoder = Decoder(latent_channels, widths, strides, decoder_blocks, kernel)
        self.moments = Moments(latent_channels)

    @property
    def compression(self) -> Compression:
        """Which pixels each latent stands for."""
        return Compression(self.stride, causal=True)

    def on_latents(self, compression: Compression) -> Autoencoder:
        return self

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        """Latents of a clip. Raises ValueError, with the nearest legal values, for one that it cannot take."""
        return prod(self.compression.latent_shape(frames, height, width, "this autoencoder"))

    def encode(self, pixels: Tensor, stream: Stream | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, f k + 1, height, width) in [-1, 1] -> mean and log-variance of latents (B, C, k + 1, H, W).

        stream: for the pieces of a clip, one after another: the first has f k + 1 frames, later ones f k.
        """
        mean, log_variance = self.encoder(pixels, stream).chunk(2, dim=1)
        if stream is not None:
            stream.first = False
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """Latents (B, C, k + 1, H, W) -> pixels (B, 3, f k + 1, height, width); `stream` as for `encode`."""
        pixels: Tensor = self.decoder(latents, stream)[0]
        if stream is not None:
            stream.first = False
        return pixels

    def forward(self, pixels: Tensor, t: Tensor | None = None, cond: Mapping[str, Tensor] | None = None) -> Coded:
        """A clip (B, 3, f k + 1, height, width) through the latents. t and cond, of networks that denoise, are not
        looked at."""
        mean, log_variance = self.encode(pixels)
        latents = mean
        if self.training:
            latents = drawn(mean, log_variance)
            self.moments.observe(latents)
        made, features = self.decoder(latents, None)
        return Coded(made, mean, log_variance, features)

    def last_gradient(self, features: Tensor, of_pixels: Tensor) -> Tensor:
        """Gradient of the weight of the decoder's last layer, where that of the pixels is `of_pixels`.

        The layer is linear, so no value of its weight is needed, nor anything before its input `features`.
        """
        last = self.decoder.last
        weight = torch.zeros(last.conv.weight.shape, dtype=features.dtype, device=features.device, requires_grad=True)
        bias = torch.zeros(len(weight), dtype=features.dtype, device=features.device)
        with torch.enable_grad():
            made = functional_call(last, {"conv.weight": weight, "conv.bias": bias}, (features.detach(), None))
        return torch.autograd.grad(made, weight, of_pixels.to(made.dtype))[0]


class Stage(nn.Module):
    """Layers one after another."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, stream)
        return x


class Encoder(nn.Module):
    """Pixels (B, 3, f k + 1, height, width) -> (B, 2 C, k + 1, H, W)."""

    def __init__(
        self, channels: int, widths: Sequence[int], strides: Sequence[Any], blocks: Sequence[int], kernel: int
    ) -> None:
        super().__init__()
        inputs = pairwise([3, *widths])
        self.stages = nn.ModuleList(
            Stage([Shorter(*ends, stride, kernel), *(Residual(ends[1], kernel) for _ in range(count))])
            for ends, stride, count in zip(inputs, strides, blocks, strict=True)
        )
        self.norm, self.last = RMSNorm(widths[-1]), CausalConv(widths[-1], 2 * channels, kernel)
        nn.init.constant_(self.last.bias[channels:], FIRST_LOG_VARIANCE)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        for stage in self.stages:
            x = stage(x, stream)
        return self.last(functional.silu(self.norm(x)), stream)


class Decoder(nn.Module):
    """Latents (B, C, k + 1, H, W) -> pixels (B, 3, f k + 1, height, width), and what the last layer made them of."""

    def __init__(
        self, channels: int, widths: Sequence[int], strides: Sequence[Any], blocks: Sequence[int], kernel: int
    ) -> None:
        super().__init__()
        self.first = CausalConv(channels, widths[-1], kernel)
        self.stages = nn.ModuleList(
            Stage(
                [Residual(widths[i], kernel) for _ in range(blocks[i])]
                + ([Longer(widths[i], widths[i - 1], strides[i], kernel)] if i else [])
            )
            for i in reversed(range(len(widths)))
        )
        self.norm, self.last = RMSNorm(widths[0]), Longer(widths[0], 3, strides[0], kernel)

    def forward(self, z: Tensor, stream: Stream | None) -> tuple[Tensor, Tensor]:
        x = self.first(z, stream)
        for stage in self.stages:
            x = stage(x, stream)
        x = functional.silu(self.norm(x))
        return self.last(x, stream), x


class Moments(nn.Module):
    """Mean and standard deviation of each channel of the latents, as training has seen them lately."""

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("square", torch.ones(channels))

    @torch.no_grad()
    def observe(self, latents: Tensor) -> None:
        """Takes in a batch (B, C, F, H, W), with those of all ranks."""
        z = latents.detach().to(self.mean.dtype)
        seen = torch.stack([z.mean((0, 2, 3, 4)), z.square().mean((0, 2, 3, 4))])
        if distributed.is_available() and distributed.is_initialized() and not seen.is_meta:
            distributed.all_reduce(seen)
            seen /= distributed.get_world_size()
        self.count += 1
        share = (1 / self.count).clamp(min=LEAST_SHARE)
        self.mean.lerp_(seen[0], share)
        self.square.lerp_(seen[1], share)

    @property
    def std(self) -> Tensor:
        """(C,), above 0."""
        return (self.square - self.mean.square()).clamp(min=1e-8).sqrt()

    def to_unit(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F, H, W) of the network -> of mean 0 and standard deviation 1."""
        return (latents - _column(self.mean)) / _column(self.std)

    def from_unit(self, latents: Tensor) -> Tensor:
        """`to_unit` undone."""
        return latents * _column(self.std) + _column(self.mean)


def drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Latents of this mean and log-variance, drawn from torch's own generator."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
