"""What diffusers' autoencoders leave to their pipelines: the scale of latents, strides, frames, how they are called.

A family is a class of diffusers. Its methods take an object of it (`model`), which is used as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PARAMETERS = ("latents", "latent")  # of an encoder's output that is no distribution


@dataclass(frozen=True)
class Affine:
    """The network's latents of those of an autoencoder: `(z - mean) * gain`, of unit scale.

    mean, gain: float64, (1, 1 or C, 1 or N frames, 1, 1).
    """

    mean: Tensor
    gain: Tensor

    @classmethod
    def of(cls, mean: Any, std: Any, factor: float = 1.0, channels: int | None = None) -> Affine:
        """`(z - mean) / std * factor`.

        mean, std: a number each, or one for each channel, or for each of `channels` one for each frame.
        """
        means, stds = (torch.as_tensor(each, dtype=torch.float64, device="cpu").flatten() for each in (mean, std))
        gains = factor / stds
        if not (means.isfinite().all() and gains.isfinite().all() and (gains != 0).all()):
            raise ValueError(f"mean, std and scaling_factor={factor} of its latents must be finite and not 0")
        return cls(*(each.reshape(1, channels or len(each), -1, 1, 1) for each in (means, gains)))

    @property
    def num_frames(self) -> int | None:
        """The most frames that it is known of; None: of any number."""
        most = max(self.mean.shape[2], self.gain.shape[2])
        return most if most > 1 else None

    def apply(self, z: Tensor) -> Tensor:
        mean, gain = self._like(z)
        return (z - mean) * gain

    def undo(self, latents: Tensor) -> Tensor:
        mean, gain = self._like(latents)
        return latents / gain + mean

    def _like(self, z: Tensor) -> tuple[Tensor, Tensor]:
        frames = z.shape[2]
        return self.mean[:, :, :frames].to(z), self.gain[:, :, :frames].to(z)


class Family:
    """A class of video autoencoders whose first frame is coded alone and whose latents are scaled by one factor."""

    image = False  # codes frames one by one, (B, channels, height, width)
    causal = True
    group = 1  # latent frames that come together (`Compression`)
    streams = False  # codes a clip a few frames after another by itself, exactly
    alone = False  # takes one clip at a time
    from_zero = False  # pixels are in [0, 1], not in [-1, 1]

    def channels(self, model: Any) -> int:
        return model.config.latent_channels

    def stride(self, model: Any) -> tuple[int, int, int]:
        """(f, h, w), pixels per latent."""
        rows = int(model.spatial_compression_ratio)
        return int(model.temporal_compression_ratio), rows, rows

    def affine(self, model: Any) -> Affine:
        return Affine.of(0.0, 1.0, model.config.scaling_factor)

    def size(self, model: Any) -> int | None:
        """The one height and width that it takes; None: any multiple of the stride."""
        return None

    def whole(self, model: Any) -> None:
        """Switches off what cuts clips by itself, where tiles are cut from outside."""

    def noisy(self, model: Any, noise_scale: float) -> bool:
        """Whether decoding draws noise."""
        return False

    def encode(self, model: Any, pixels: Tensor) -> Tensor:
        """What describes the latents: themselves, or mean and log-variance, in twice the channels."""
        out = model.encode(pixels)
        if hasattr(out, "latent_dist"):
            return out.latent_dist.parameters
        return next(out[name] for name in PARAMETERS if name in out)

    def decode(self, model: Any, latents: Tensor, timestep: float, noise_scale: float) -> Tensor:
        return model.decode(latents).sample


class Image(Family):
    """AutoencoderTiny and AutoencoderDC: a factor, and a shift where there is one."""

    image, causal = True, False

    def stride(self, model: Any) -> tuple[int, int, int]:
        rows = 2 ** (len(model.config.encoder_block_out_channels) - 1)
        return 1, rows, rows

    def affine(self, model: Any) -> Affine:
        return Affine.of(getattr(model.config, "shift_factor", None) or 0.0, 1.0, model.config.scaling_factor)


class KL(Image):
    """AutoencoderKL: Stable Diffusion, DiT and Latte (factor), SD 3 and FLUX (shift too), mean and std where given."""

    def stride(self, model: Any) -> tuple[int, int, int]:
        rows = 2 ** (len(model.config.block_out_channels) - 1)
        return 1, rows, rows

    def affine(self, model: Any) -> Affine:
        config = model.config
        if config.latents_mean is None or config.latents_std is None:
            return super().affine(model)
        return Affine.of(config.latents_mean, config.latents_std, config.scaling_factor)


class RAE(Image):
    """AutoencoderRAE, which scales latents by itself, takes pixels in [0, 1], and decodes pictures of one size."""

    from_zero = True

    def channels(self, model: Any) -> int:
        if not model.config.reshape_to_2d:
            raise ValueError("reshape_to_2d=false makes tokens, not latents with rows and columns")
        return model.config.encoder_hidden_size

    def stride(self, model: Any) -> tuple[int, int, int]:
        return 1, model.decoder_patch_size, model.decoder_patch_size

    def affine(self, model: Any) -> Affine:
        return Affine.of(0.0, 1.0)

    def size(self, model: Any) -> int:
        return model.decoder_image_size


class Wan(Family):
    """AutoencoderKLWan (Wan 2.1 and 2.2, SkyReels-V2, Cosmos Predict2), which codes clips by the latent frame."""

    streams = True

    def channels(self, model: Any) -> int:
        return model.config.z_dim

    def stride(self, model: Any) -> tuple[int, int, int]:
        shrinks = model.config.temperal_downsample
        rows = 2 ** len(shrinks) * (getattr(model.config, "patch_size", None) or 1)
        return 2 ** sum(shrinks), rows, rows

    def affine(self, model: Any) -> Affine:
        return Affine.of(model.config.latents_mean, model.config.latents_std)


class LTX(Family):
    """AutoencoderKLLTXVideo and AutoencoderKLLTX2Video: mean and std are among the weights, and decoders of 0.9.1 and
    later are told how noisy the latents are."""

    def affine(self, model: Any) -> Affine:
        return Affine.of(model.latents_mean, model.latents_std, model.config.scaling_factor)

    def noisy(self, model: Any, noise_scale: float) -> bool:
        injected = model.config.decoder_inject_noise
        return noise_scale > 0 or (any(injected) if isinstance(injected, (list, tuple)) else bool(injected))

    def decode(self, model: Any, latents: Tensor, timestep: float, noise_scale: float) -> Tensor:
        if not model.config.timestep_conditioning:
            return model.decode(latents).sample
        if noise_scale > 0:
            noise = torch.randn(latents.shape[1:], dtype=latents.dtype, device=latents.device)  # the same of each clip
            latents = (1 - noise_scale) * latents + noise_scale * noise
        return model.decode(latents, latents.new_full((len(latents),), timestep)).sample


class CogVideoX(Family):
    """AutoencoderKLCogVideoX, which codes clips by two latent frames; an even number of them would be decoded as if the
    first were as long as the others. Its pipelines use the factor alone, whatever else its config holds."""

    group, streams = 2, True

    def stride(self, model: Any) -> tuple[int, int, int]:
        rows = 2 ** (len(model.config.block_out_channels) - 1)
        return int(model.config.temporal_compression_ratio), rows, rows


class Hunyuan(Family):
    """AutoencoderKLHunyuanVideo, which cuts clips of more than 16 frames."""

    def whole(self, model: Any) -> None:
        model.use_framewise_encoding = model.use_framewise_decoding = False


class Hunyuan15(Hunyuan):
    """AutoencoderKLHunyuanVideo15, whose attention masks fit one clip alone."""

    alone = True


class Mochi(Family):
    """AutoencoderKLMochi: a factor, mean and std."""

    def affine(self, model: Any) -> Affine:
        config = model.config
        if config.latents_mean is None or config.latents_std is None:
            return super().affine(model)
        return Affine.of(config.latents_mean, config.latents_std, config.scaling_factor)


class Allegro(Family):
    """AutoencoderKLAllegro, which codes clips of 4k frames, and in tiles alone.

    Its own tiles (24 x 320 x 320) are taken along an axis that they cover exactly, as they do in Allegro's 88 x 720 x
    1280; any other axis is one tile, where the class would leave the rest of the clip empty.
    """

    causal = False

    def stride(self, model: Any) -> tuple[int, int, int]:
        rows = int(model.spatial_compression_ratio)
        return int(model.config.temporal_compression_ratio), rows, rows

    def whole(self, model: Any) -> None:
        model.kernel = model.stride = (0, 0, 0)  # covers nothing

    def encode(self, model: Any, pixels: Tensor) -> Tensor:
        with covering(model, pixels.shape[2:]):
            return super().encode(model, pixels)

    def decode(self, model: Any, latents: Tensor, timestep: float, noise_scale: float) -> Tensor:
        size = [length * stride for length, stride in zip(latents.shape[2:], self.stride(model), strict=True)]
        with covering(model, size):
            return model.decode(latents).sample.transpose(1, 2)  # frames come in front of channels


class Cosmos(Family):
    """AutoencoderKLCosmos, of Cosmos 1.0: mean and std of each channel and frame."""

    def stride(self, model: Any) -> tuple[int, int, int]:
        rows = int(model.config.spatial_compression_ratio)
        return int(model.config.temporal_compression_ratio), rows, rows

    def affine(self, model: Any) -> Affine:
        config = model.config
        if config.latents_mean is None or config.latents_std is None:
            return Affine.of(0.0, 1.0)
        return Affine.of(config.latents_mean, config.latents_std, channels=config.latent_channels)


@contextmanager
def covering(model: Any, size: Sequence[int]) -> Iterator[None]:
    """AutoencoderKLAllegro with tiles that cover pixels of `size` (frames, height, width), one clip at a time."""
    kept = model.kernel, model.stride
    axes = [
        (kernel, stride) if kernel and length >= kernel and (length - kernel) % stride == 0 else (length, length)
        for kernel, stride, length in zip(*kept, size, strict=True)
    ]
    model.kernel, model.stride = zip(*axes, strict=True)
    model.use_tiling = model.use_slicing = True
    try:
        yield
    finally:
        model.kernel, model.stride = kept


FAMILIES: dict[str, Family] = {
    "AutoencoderDC": Image(),
    "AutoencoderKL": KL(),
    "AutoencoderKLAllegro": Allegro(),
    "AutoencoderKLCogVideoX": CogVideoX(),
    "AutoencoderKLCosmos": Cosmos(),
    "AutoencoderKLHunyuanVideo": Hunyuan(),
    "AutoencoderKLHunyuanVideo15": Hunyuan15(),
    "AutoencoderKLLTX2Video": LTX(),
    "AutoencoderKLLTXVideo": LTX(),
    "AutoencoderKLMochi": Mochi(),
    "AutoencoderKLWan": Wan(),
    "AutoencoderRAE": RAE(),
    "AutoencoderTiny": Image(),
}
