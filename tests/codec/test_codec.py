"""The codec interface and the codec that is none."""

import pytest
import torch
from torch import Tensor

from dit.codec.base import Codec
from dit.codec.pixel import PixelCodec


class Causal(Codec):
    channels, stride, causal = 16, (4, 8, 8), True

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_pixels_come_back(scale: float) -> None:
    codec = PixelCodec(scale=scale)
    pixels = torch.rand(2, 3, 5, 6, 7) * 2 - 1
    latents = codec.encode(pixels)
    assert torch.equal(latents, pixels * scale)
    torch.testing.assert_close(codec.decode(latents), pixels)
    assert codec.decode(latents * 9).abs().max() <= 1, "what leaves the range is clamped"
    assert codec.latent_shape(5, 6, 7) == (5, 6, 7)


def test_legal_shapes_and_the_nearest_ones() -> None:
    codec = Causal()
    assert codec.latent_shape(33, 64, 96) == (9, 8, 12)
    assert codec.latent_shape(1, 8, 8) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"num_frames=30 is not 4k\+1 for Causal; nearest: 29, 33"):
        codec.latent_shape(30, 64, 64)
    with pytest.raises(ValueError, match=r"height=60 is not 8k .*nearest: 56, 64"):
        codec.latent_shape(33, 60, 64)
    with pytest.raises(ValueError, match=r"width=3 is not 8k .*nearest: 8$"):
        codec.latent_shape(33, 64, 3)
    with pytest.raises(ValueError, match="num_frames=0"):
        PixelCodec(scale=1.0).latent_shape(0, 8, 8)


def test_scale_must_be_positive() -> None:
    with pytest.raises(ValueError, match="scale=0"):
        PixelCodec(scale=0)
