"""LTX-Video: diffusers' LTXVideoTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import net_config
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 4,
    "out_channels": 5,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "num_layers": 2,
    "caption_channels": 12,
}
SIZE = (4, 6, 10)  # latents: frames, height, width
HOW = ("sample", "frame", "coordinates", "numbers", "rates", "all text", "no text")
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "width that six divides": {"num_attention_heads": 3, "cross_attention_dim": 48},
    "no biases": {"attention_bias": False, "attention_out_bias": False},
    "affine norms, exact GELU": {"norm_elementwise_affine": True, "norm_eps": 1e-3, "activation_fn": "gelu"},
    "patch": {"in_channels": 24, "out_channels": 16, "patch_size": 2, "patch_size_t": 2},
}


def reference(variant: str) -> torch.nn.Module:
    return build(diffusers.LTXVideoTransformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(model: torch.nn.Module, how: str = "sample") -> dict[str, Any]:
    given = example(model, SIZE, text_tokens=7)
    frames, places = given["num_frames"], given["height"] * given["width"]
    generator = torch.manual_seed(4)
    if how == "frame":
        levels = 1000 * torch.rand(2, frames, generator=generator, dtype=torch.float64)
        given["timestep"] = levels.repeat_interleave(places, dim=1)
    if how == "coordinates":
        given["video_coords"] = 50 * torch.rand(2, 3, frames * places, generator=generator, dtype=torch.float64)
    if how == "numbers":
        given["rope_interpolation_scale"] = None
    if how == "rates":
        rates = torch.tensor([8 / 25, 8 / 30], dtype=torch.float64).view(2, 1, 1, 1, 1)
        given["rope_interpolation_scale"] = (rates, 32, 16)
    if how == "all text":
        given["encoder_attention_mask"] = None
    if how == "no text":  # of one sample
        given["encoder_attention_mask"][1] = False
    return given


CASES = [
    *((variant, how) for variant in ("as published", "patch") for how in HOW),
    *((variant, "frame") for variant in VARIANTS if variant not in ("as published", "patch")),
]


@pytest.mark.parametrize("variant, how", CASES)
def test_equals_diffusers(variant: str, how: str) -> None:
    model = reference(variant)
    assert_equal(model, arguments(model, how))


def test_every_weight_matters() -> None:
    model = reference("affine norms, exact GELU")
    assert_notices(model, arguments(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(reference(variant), tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_frames": None}, "num_frames=None, height=6 and width=10 must be the grid of the 240 tokens"),
        ({"height": 5}, "height=5 and width=10 must be the grid of the 240 tokens"),
        ({"encoder_attention_mask": torch.ones(2, 1, 7)}, r"encoder_attention_mask has shape \(2, 1, 7\)"),
        ({"encoder_attention_mask": torch.full((2, 7), 0.5)}, "must hold 1 for real tokens and 0 for padding"),
        ({"timestep": torch.arange(480.0).view(2, 240)}, "differ within a frame"),
        ({"rope_interpolation_scale": (torch.ones(2), 32, 32)}, r"a part of shape \(2,\)"),
        ({"video_coords": torch.ones(2, 3, 7)}, r"cond\['coordinates'\] has shape \(2, 3, 7\)"),
    ],
)
def test_arguments_that_cannot_be(change: dict[str, Any], message: str) -> None:
    model = reference("as published")
    net = from_diffusers(model)
    with pytest.raises(ValueError, match=message):
        call_like_diffusers(net, **{**arguments(model), **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cross_attention_dim": 16}, "cross_attention_dim=16 must be the width 32"),
        ({"activation_fn": "geglu"}, "activation_fn=geglu is not supported"),
        ({"qk_norm": "rms_norm"}, "qk_norm=rms_norm is not supported"),
        ({"patch_size": 2}, "in_channels=4 and out_channels=5 must be multiples of 4"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net_config({"_class_name": "LTXVideoTransformer3DModel", **TINY, **change})
