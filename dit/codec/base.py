"""What every codec promises: pixels to latents and back, and which clip shapes it can take."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """Maps pixels `(B, 3, num_frames, height, width)` in [-1, 1] to latents `(B, C, F, H, W)` of unit scale, and back.

    Attributes:
        channels: C, the latent channels.
        stride: (f, h, w), pixels per latent along each axis.
        causal: the first frame is coded alone, so legal lengths are `f k + 1` instead of `f k`.
    """

    channels: int
    stride: tuple[int, int, int]
    causal: bool

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor: ...

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, H, W) of a clip's latents; ValueError with the nearest legal values when the codec cannot take it."""
        lone = 1 if self.causal else 0
        for name, size, stride, offset in (
            ("num_frames", num_frames, self.stride[0], lone),
            ("height", height, self.stride[1], 0),
            ("width", width, self.stride[2], 0),
        ):
            if size < 1 or (size - offset) % stride:
                rule = f"{stride}k+1" if offset else f"{stride}k"
                below = (size - offset) // stride * stride + offset
                legal = [n for n in (below, below + stride) if n >= 1]
                nearest = ", ".join(map(str, legal))
                raise ValueError(f"{name}={size} is not {rule} for {type(self).__name__}; nearest: {nearest}")
        return (num_frames - lone) // self.stride[0] + lone, height // self.stride[1], width // self.stride[2]
