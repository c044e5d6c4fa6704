"""Tiles: a clip that is coded in parts is the clip that is coded whole, as far as the codec is local."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dit.codec.compression import Compression
from dit.codec.tiling import Tiling

CAUSAL = Compression((4, 2, 2), causal=True)
RULES = [CAUSAL, Compression((4, 2, 2), causal=False), Compression((1, 2, 2), causal=False)]
SIZES = [(None, 10, None), (None, None, 8), (9, None, None), (8, 12, 8), (4, 2, 2), (99, 99, 99)]


def encode(rule: Compression, tile: Tensor, looks_aside: int = 0) -> Tensor:
    """Means over what a latent stands for, and over neighbours in the picture; in time nothing but its own frames."""
    kernel = 2 * looks_aside + 1
    x = functional.avg_pool3d(tile, (1, kernel, kernel), 1, (0, looks_aside, looks_aside))
    if rule.causal:
        x = torch.cat([x[:, :, :1].expand(-1, -1, rule.lacking, -1, -1), x], dim=2)
    return functional.avg_pool3d(x, rule.stride)


def decode(rule: Compression, latents: Tensor, looks_aside: int = 0) -> Tensor:
    x, kernel = latents, 2 * looks_aside + 1
    for axis, stride in zip((2, 3, 4), rule.stride, strict=True):
        x = x.repeat_interleave(stride, axis)
    return functional.avg_pool3d(x[:, :, rule.lacking :], (1, kernel, kernel), 1, (0, looks_aside, looks_aside))


def clip(rule: Compression, frames: int = 5, height: int = 12, width: int = 9) -> tuple[Tensor, Tensor]:
    """Random pixels and latents."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 3, frames, height, width, generator=generator)
    return torch.randn(2, 3, *rule.pixel_shape(frames, height, width), generator=generator), latents


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_codec_that_looks_at_each_latent_alone(
    rule: Compression, sizes: tuple[int | None, int | None, int | None], overlap: float
) -> None:
    """Every pixel comes once, from the right place, whatever the tiles."""
    tiling = Tiling(*sizes, overlap=overlap)
    pixels, latents = clip(rule)
    torch.testing.assert_close(tiling.encode(pixels, rule, lambda x: encode(rule, x)), encode(rule, pixels))
    torch.testing.assert_close(tiling.decode(latents, rule, lambda x: decode(rule, x)), decode(rule, latents))


def test_an_overlap_softens_what_a_codec_sees_less_of_at_an_edge() -> None:
    pixels, latents = clip(CAUSAL, frames=2, height=40, width=40)

    def worst(overlap: float) -> tuple[float, float]:
        tiling = Tiling(None, 32, 32, overlap)
        made = tiling.decode(latents, CAUSAL, lambda x: decode(CAUSAL, x, looks_aside=1))
        coded = tiling.encode(pixels, CAUSAL, lambda x: encode(CAUSAL, x, looks_aside=1))
        inside = (made - decode(CAUSAL, latents, looks_aside=1)).abs()
        return inside.max().item(), (coded - encode(CAUSAL, pixels, looks_aside=1)).abs().max().item()

    for hard, soft in zip(worst(0.0), worst(0.5), strict=True):
        assert 0 < soft < 0.2 * hard


def test_no_tile_is_larger_than_asked_for() -> None:
    seen: list[tuple[int, ...]] = []

    def code(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return decode(CAUSAL, x)

    Tiling(8, 10, None, 0.25).decode(clip(CAUSAL)[1], CAUSAL, code)
    assert {shape[1:] for shape in seen} == {(5, 9)}
    assert max(shape[0] for shape in seen) == 3, "two latent frames, and one in front of them"
    assert len(seen) == 4 * 3


@pytest.mark.parametrize(
    "settings, said",
    [
        ((None, None, None, 0.25), "this tiling cuts no axis"),
        ((None, 8, None, 0.6), "overlap=0.6 must be at most 0.5"),
    ],
)
def test_tilings_that_are_none(settings: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tiling(*settings)


def test_a_tile_must_hold_a_latent() -> None:
    with pytest.raises(ValueError, match=r"tiling.num_frames=3 is less than the 4 of a latent; nearest: 4"):
        Tiling(3, None, None, 0.0).decode(clip(CAUSAL)[1], CAUSAL, lambda x: x)
