"""The codec that a run of `experiment=vae_world` becomes (`codec=vae codec.ckpt=RUN`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from dit.codec.base import Codec, Dtype
from dit.codec.chunks import in_chunks
from dit.codec.tiling import Tiling
from dit.codec.vae.layers import Stream
from dit.codec.vae.loading import load
from dit.codec.vae.network import drawn
from dit.config.limits import Count

KEY = "codec.ckpt"


class VAE(Codec):
    """A trained `Autoencoder`. Its latents have mean 0 and standard deviation 1 in each channel, as training saw them.

    It stands still: nothing trains it, checkpoints of a run on its latents do not hold it but name it, and such a run
    needs the autoencoder's for as long as it lives.

    ckpt: a run directory (its last checkpoint) or a checkpoint file.
    weights: `ema` (what the previews of that run showed), `raw`, or the name of an EMA profile.
    fingerprint: that its weights must have, which a run writes into its config; null: any.
    posterior: of the distribution that the encoder gives, its mode (the mean), or a sample of it. Samples are drawn in
      training alone: validation and sampling take the mode.
    batch: clips that are coded at once; null: all.
    frames: latent frames that are coded at once. The next ones go on from what the convolutions keep, so it changes
      nothing but the memory; null: all.
    tiling: cuts clips into tiles; null: whole clips.
    dtype: of weights and arithmetic, also under autocast. Pixels and latents outside stay as they are.

    Raises FileNotFoundError or ValueError, in one line, for a ckpt that is none of an autoencoder, or of another one.
    """

    causal = True

    def __init__(
        self,
        ckpt: str | None,
        weights: str,
        fingerprint: str | None,
        posterior: Literal["mode", "sample"],
        batch: Count | None,
        frames: Count | None,
        tiling: Tiling | None,
        dtype: Dtype = "float32",  # configs of before do not say
    ) -> None:
        super().__init__()
        if ckpt is None:
            raise ValueError(f"{KEY} is not given: the run of an autoencoder (experiment=vae_world), {KEY}=runs/NAME")
        self.net, self._identity = load(ckpt, weights)
        if fingerprint not in (None, self._identity):
            raise ValueError(
                f"{KEY}={ckpt} is not what this was trained with: its weights have the fingerprint {self._identity},"
                f" needed {fingerprint}; where that run has gone on, an earlier checkpoint of it may be the one"
            )
        self.channels, self.stride = self.net.latent_channels, self.net.stride
        self.posterior, self.batch, self.frames, self.tiling = posterior, batch, frames, tiling
        self.dtype = getattr(torch, dtype)
        for part in (self.net.encoder, self.net.decoder):  # not the moments: latents are in the dtype of the pixels
            part.to(self.dtype)
        if tiling is not None:
            if tiling.sizes[0] is not None:
                raise ValueError(
                    "this autoencoder codes few frames at a time by itself, exactly: codec.frames=8, and"
                    " codec.tiling.num_frames=null"
                )
            tiling.spans((1, 1, 1), self.compression)  # raises for tiles that are too small

    def identified(self) -> str:
        """The fingerprint of its weights, for the config."""
        return self._identity

    def train(self, mode: bool = True) -> Self:
        """`training` says whether samples are drawn; the network itself is always in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, num_frames, height, width) in [-1, 1] -> latents (B, C, F, H, W), ValueError for others."""
        return self.latents_of(self.encoder_output(pixels))

    def encoder_output(self, pixels: Tensor) -> Tensor:
        """Means, or for `posterior=sample` mean and log-variance, one behind the other, (B, C or 2 C, F, H, W)."""
        self.latent_shape(*pixels.shape[2:])
        with torch.autocast(pixels.device.type, enabled=False):
            given, code = pixels.to(self.dtype), self._encoded
            found = code(given) if self.tiling is None else self.tiling.encode(given, self.compression, code)
        found = found.to(pixels.dtype)
        # In one order in memory, by which draws are shaped: those of latents out of a cache are the same.
        return (found if self.posterior == "sample" else found[:, : self.channels]).contiguous()

    def latents_of(self, output: Tensor) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            z = mean = output[:, : self.channels]
            if self.posterior == "sample" and self.training:
                z = drawn(mean, output[:, self.channels :])
            return self.net.moments.to_unit(z)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F, H, W) -> pixels (B, 3, num_frames, height, width) in [-1, 1]."""
        with torch.autocast(latents.device.type, enabled=False):
            z, code = self.net.moments.from_unit(latents).to(self.dtype), self._decoded
            made = code(z) if self.tiling is None else self.tiling.decode(z, self.compression, code)
            return made.to(latents.dtype).clamp(-1, 1)

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Mean and log-variance, one behind the other, (B, 2 C, F, H, W)."""
        first = self.compression.first_frame

        def code(clips: Tensor, begin: int, end: int, stream: Stream | None) -> Tensor:
            return torch.cat(self.net.encode(clips[:, :, first(begin) : first(end)], stream), dim=1)

        latents = self.compression.latent_of(pixels.shape[2] - 1) + 1
        return in_chunks(pixels, self.batch, lambda clips: self._in_pieces(latents, partial(code, clips)))

    def _decoded(self, latents: Tensor) -> Tensor:
        def code(clips: Tensor, begin: int, end: int, stream: Stream | None) -> Tensor:
            return self.net.decode(clips[:, :, begin:end], stream)

        frames = latents.shape[2]
        return in_chunks(latents, self.batch, lambda clips: self._in_pieces(frames, partial(code, clips)))

    def _in_pieces(self, latents: int, code: Callable[[int, int, Stream | None], Tensor]) -> Tensor:
        """What `code` says of so many latent frames, `frames` of them at a time."""
        size = self.frames or latents
        stream = Stream() if size < latents else None
        return torch.cat([code(begin, min(begin + size, latents), stream) for begin in range(0, latents, size)], dim=2)
