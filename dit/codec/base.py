"""What every codec promises: pixels to latents and back, and which clip shapes it can take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from dit.codec.compression import Compression

Dtype = Literal["float32", "bfloat16", "float16", "float64"]  # of weights and arithmetic


class Codec(nn.Module, ABC):
    """Maps pixels `(B, 3, num_frames, height, width)` in [-1, 1] to latents `(B, C, F, H, W)` of unit scale, and back.

    Attributes:
        channels: C, the latent channels.
        stride: (f, h, w), pixels per latent along each axis.
        causal: the first frame is coded alone, so legal lengths are `f k + 1` instead of `f k`.
        group: latent frames, beside such a first one, come in groups of so many: `f group k + 1`.
        lead: copies of the first latent frame in front of it, which `decode` leaves out.
    """

    channels: int
    stride: tuple[int, int, int]
    causal: bool
    group: int = 1
    lead: int = 0

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor: ...

    def encoder_output(self, pixels: Tensor) -> Tensor:
        """The part of `encode` that takes the time and draws nothing: what a latent cache keeps of clips, (B, any, F,
        H, W). A codec that draws latents gives the distribution, and draws in `latents_of`."""
        return self.encode(pixels)

    def latents_of(self, output: Tensor) -> Tensor:
        """The rest of `encode`: `latents_of(encoder_output(pixels))` is the same to the last bit, draws included."""
        return output

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor: ...

    @property
    def compression(self) -> Compression:
        """Which pixels each latent stands for."""
        return Compression(self.stride, self.causal, self.group, self.lead)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, H, W) of a clip's latents; ValueError with the nearest legal values when the codec cannot take it."""
        return self.compression.latent_shape(num_frames, height, width, type(self).__name__)
