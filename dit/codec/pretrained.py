"""The published autoencoders: any of diffusers' classes, from a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dit.codec.base import Codec, Dtype
from dit.codec.chunks import frame_by_frame, in_chunks, small
from dit.codec.compression import Compression
from dit.codec.families import Affine
from dit.codec.loading import load, naming
from dit.codec.tiling import Tiling
from dit.config.limits import Count, Natural, NonNegative, Positive, Share
from dit.folders import CONFIG, check_fingerprint, located

KEY = "codec.folder"
DRAWN = 0  # seed of what decoders draw


class Pretrained(Codec):
    """An autoencoder of diffusers, used as it is. Image autoencoders code a clip frame by frame.

    Latents are in the units of the published network: scaled, shifted, or by mean and std of each channel, as the
    pipelines of its class do it (`dit/codec/families.py`). It stands still: nothing trains it, checkpoints do not hold
    it, and a run needs the folder for as long as it lives.

    folder: with config.json and safetensors, or `hub:ORG/NAME/PART[@REVISION]`, which the hub's own client has fetched.
    fingerprint: that its files must have, which a run writes into its config; null: any.
    posterior: of an autoencoder that gives a distribution, its mode, or a sample of it. Samples are drawn in training
      alone: validation and sampling take the mode.
    scale: multiplies latents, where a network was trained so (0.5 for Cosmos 1.0, its scheduler's sigma_data).
    dtype: of weights and arithmetic, also under autocast. Pixels and latents outside stay as they are.
    batch: how many clips, of an image autoencoder frames, are coded at once; auto: several where they are small, others
      one at a time; null: all.
    tiling: cuts clips into tiles; null: coded as the class does it.
    decode_timestep, decode_noise_scale: how noisy a decoder that is told so (LTX-Video 0.9.1 and later) takes latents
      to be, and how much noise they get, in [0, 1]. The noise is the same for every clip.
    lead: copies of the first latent frame in front of it, for a network that takes several frames as one token
      (CogVideoX 1.5: 1). They are left out again when latents are decoded.

    Raises ValueError or FileNotFoundError, in one line, for a folder that is none of these.
    """

    def __init__(
        self,
        folder: str | None,
        fingerprint: str | None,
        posterior: Literal["mode", "sample"],
        scale: Positive,
        dtype: Dtype,
        batch: Count | Literal["auto"] | None,
        tiling: Tiling | None,
        decode_timestep: NonNegative,
        decode_noise_scale: Share,
        lead: Natural = 0,  # configs of before do not say
    ) -> None:
        super().__init__()
        if folder is None:
            raise ValueError(f"{KEY} is not given: the folder of an autoencoder of diffusers, such as {KEY}=DIR/vae")
        place = located(folder, KEY)
        model, family = load(place, KEY)
        files = [place / CONFIG, *sorted(place.glob("*.safetensors"))]
        self._identity = check_fingerprint({file.name: file for file in files}, fingerprint, f"{KEY}={folder}")
        self.model: Any = model.requires_grad_(False)
        self.family = family
        is_empty = any(tensor.is_meta for tensor in model.state_dict().values())
        with naming(place / CONFIG):
            self.channels, self.stride = family.channels(model), family.stride(model)
            self.causal, self.group = family.causal, family.group
            self._size = family.size(model)
            self._affine = Affine.of(0.0, 1.0) if is_empty else family.affine(model)
        nn.Module.to(model, getattr(torch, dtype))  # the class's own `to` warns of a dtype
        self.posterior, self.scale, self.batch, self.tiling = posterior, scale, batch, tiling
        self.decode_timestep, self.decode_noise_scale = decode_timestep, decode_noise_scale
        self.lead = lead
        self._split = frame_by_frame if family.image else in_chunks
        if tiling is not None:
            if self._size is not None:
                raise ValueError(f"{self._name} takes pictures of {self._size} alone, in one piece: codec.tiling=null")
            if family.streams and tiling.sizes[0] is not None:
                raise ValueError(f"{self._name} codes few frames at a time by itself: codec.tiling.num_frames=null")
            tiling.spans((1, 1, 1), self._coded)  # raises for tiles that are too small
            family.whole(model)

    def identified(self) -> str:
        """The fingerprint of its files, for the config."""
        return self._identity

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    def train(self, mode: bool = True) -> Self:
        """`training` says whether samples are drawn; the autoencoder itself is always as it was published."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def _coded(self) -> Compression:
        """The compression of the autoencoder itself, which knows no lead."""
        return replace(self.compression, lead=0)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, H, W) of a clip's latents; ValueError with the nearest legal values when the codec cannot take it."""
        for name, size in (("height", height), ("width", width)):
            if self._size not in (None, size):
                raise ValueError(f"{name}={size} is not {self._size}, the only one that {self._name} takes")
        shape = self.compression.latent_shape(num_frames, height, width, self._name)
        if (most := self._affine.num_frames) is not None and shape[0] > most:
            longest, _, _ = self.compression.pixel_shape(most, *shape[1:])
            raise ValueError(f"num_frames={num_frames} is more than {self._name} has mean and std of; most: {longest}")
        return shape

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, num_frames, height, width) in [-1, 1] -> latents (B, C, F, H, W), ValueError for others."""
        return self.latents_of(self.encoder_output(pixels))

    def encoder_output(self, pixels: Tensor) -> Tensor:
        """What the autoencoder says, in its own units: latents or means, or for `posterior=sample` mean and
        log-variance, one behind the other, (B, C or 2 C, F, H, W)."""
        self.latent_shape(*pixels.shape[2:])
        given = ((pixels + 1) / 2 if self.family.from_zero else pixels).to(self.model.dtype)

        def code(tile: Tensor) -> Tensor:
            return self._split(tile, self._at_once(tile.shape[2:]), lambda some: self.family.encode(self.model, some))

        with self._plain(pixels.device):
            found = code(given) if self.tiling is None else self.tiling.encode(given, self._coded, code)
        found = found.to(pixels.dtype)
        # In one order in memory, by which draws are shaped: those of latents out of a cache are the same.
        return (found if self.posterior == "sample" else found[:, : self.channels]).contiguous()

    def latents_of(self, output: Tensor) -> Tensor:
        z = self._affine.apply(self._drawn(output)) * self.scale
        return torch.cat([z[:, :, :1].expand(-1, -1, self.lead, -1, -1), z], 2) if self.lead else z

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F, H, W) -> pixels (B, 3, num_frames, height, width) in [-1, 1], ValueError for others."""
        frames, height, width = latents.shape[2:]
        self.latent_shape(*self.compression.pixel_shape(frames, height, width))
        z = self._affine.undo(latents[:, :, self.lead :] / self.scale).to(self.model.dtype)

        def decode(some: Tensor) -> Tensor:
            with self._reproducible(some.device):
                return self.family.decode(self.model, some, self.decode_timestep, self.decode_noise_scale)

        def code(tile: Tensor) -> Tensor:
            return self._split(tile, self._at_once(self._coded.pixel_shape(*tile.shape[2:])), decode)

        with self._plain(latents.device):
            made = code(z) if self.tiling is None else self.tiling.decode(z, self._coded, code)
        made = made.to(latents.dtype)
        return ((2 * made - 1) if self.family.from_zero else made).clamp(-1, 1)

    def _at_once(self, size: Sequence[int]) -> int | None:
        """size: (num_frames, height, width) of a clip in pixels."""
        if self.family.alone:
            return 1
        return small(math.prod(size[1:] if self.family.image else size)) if self.batch == "auto" else self.batch

    def _drawn(self, found: Tensor) -> Tensor:
        """Latents of what the encoder says: of mean and log-variance the mode, or a sample."""
        if found.shape[1] == self.channels:
            return found
        mean, log_variance = found.chunk(2, dim=1)
        if self.posterior == "mode" or not self.training:
            return mean
        return mean + torch.randn_like(mean) * (0.5 * log_variance.clamp(-30, 20)).exp()

    @contextmanager
    def _plain(self, device: torch.device) -> Iterator[None]:
        """Arithmetic in the autoencoder's own dtype, whatever the network is trained in."""
        with torch.autocast(device.type, enabled=False):
            yield

    @contextmanager
    def _reproducible(self, device: torch.device) -> Iterator[None]:
        """What a decoder draws is the same at every call, and takes nothing from the generators of others."""
        if not self.family.noisy(self.model, self.decode_noise_scale):
            yield
            return
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(DRAWN)
            yield
