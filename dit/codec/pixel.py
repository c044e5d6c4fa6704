"""The codec that is none: latents are pixels, optionally rescaled to unit variance."""

from __future__ import annotations

from torch import Tensor

from dit.codec.base import Codec
from dit.config.limits import Positive


class PixelCodec(Codec):
    """Diffusion straight in pixels: latents are `scale * pixels`, so C = 3 and no axis is shortened.

    Args:
        scale: multiplies pixels in [-1, 1]. Noise schedules assume data of about unit variance (Karras et al. 2022,
            sigma_data; Chen 2023, arXiv 2301.10972, on input scaling); flat scenes have much less.
    """

    channels = 3
    stride = (1, 1, 1)
    causal = False

    def __init__(self, scale: Positive) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale={scale} must be above 0; 1.0 leaves pixels as they are")
        self.scale = scale

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / self.scale).clamp(-1, 1)
