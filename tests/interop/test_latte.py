"""Latte: diffusers' LatteTransformer3DModel as our network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import adopted, net_config
from dit.interop.presets import compose
from tests.interop.equality import (
    assert_equal,
    assert_notices,
    assert_round_trip,
    build,
    example,
    sample,
)
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "cross_attention_dim": 24,
    "attention_bias": True,
    "sample_size": 8,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 10,
    "video_length": 5,
}
SIZE = (5, 6, 12)  # latents: frames, height, width; neither height nor width is the sample_size
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled positions": {"sample_size": 128, "patch_size": 1, "in_channels": 6},
    "scale and a cut-off row": {"sample_size": 128, "patch_size": 3},
    "no bias, norms with weights": {"attention_bias": False, "norm_elementwise_affine": True, "norm_eps": 1e-2},
    "geglu": {"activation_fn": "geglu", "num_layers": 1},
}


def model(variant: str = "plain") -> nn.Module:
    return build(diffusers.LatteTransformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(made: nn.Module, mask: str = "padding", frames: int = SIZE[0]) -> dict[str, Any]:
    """mask: padding, one row for each frame; or none."""
    given = example(made, SIZE, text_tokens=7)
    rows = given.pop("encoder_attention_mask")[:: SIZE[0]]
    assert rows.sum(dim=1).tolist() == [7, 5]
    given["hidden_states"] = given["hidden_states"][:, :, :frames].clone()
    return given if mask == "none" else {**given, "encoder_attention_mask": rows.repeat_interleave(frames, dim=0)}


@pytest.mark.parametrize("mask", ["none", "padding"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str, mask: str) -> None:
    made = model(variant)
    assert_equal(made, arguments(made, mask))


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (16, 10)])
def test_positions_fill_the_range_of_training_on_any_grid(size: tuple[int, int]) -> None:
    """The size of training, one that is smaller along one axis, one that is larger along both."""
    made = model()
    given = arguments(made)
    given["hidden_states"] = torch.randn(2, 3, 5, *size, generator=torch.manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        assert relative(call_like_diffusers(from_diffusers(made), **given), sample(made, given)) < 1e-9


def test_a_single_frame_gets_no_position() -> None:
    made = model()
    assert_equal(made, arguments(made, frames=1))


def test_every_weight_matters() -> None:
    made = model("no bias, norms with weights")
    assert_notices(made, arguments(made))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(model(variant), tmp_path)


def test_masks() -> None:
    """The class takes a row for each frame. Its docstring's (B, L) it takes for one frame only; here it serves all."""
    made = model()
    given = arguments(made)
    net = from_diffusers(made)
    rows = given["encoder_attention_mask"][::5]
    with torch.no_grad():
        wanted = sample(made, given)
        assert relative(call_like_diffusers(net, **{**given, "encoder_attention_mask": rows}), wanted) < 1e-9
        with pytest.raises(RuntimeError):
            sample(made, {**given, "encoder_attention_mask": rows})
        single = {**arguments(made, frames=1), "encoder_attention_mask": rows}
        assert relative(call_like_diffusers(net, **single), sample(made, single)) < 1e-9
    for mask, words in (
        (given["encoder_attention_mask"].double(), "must be bool, True = real token, with 10 rows"),
        (rows[:1], r"torch.bool of shape \(1, 7\); it must be bool"),
        (given["encoder_attention_mask"].roll(1, dims=0), "differs between the frames of a sample"),
    ):
        with pytest.raises(ValueError, match=words):
            call_like_diffusers(net, **{**given, "encoder_attention_mask": mask})


def test_calls_that_the_network_cannot_take_are_refused() -> None:
    made = model()
    given, net = arguments(made), from_diffusers(made)
    with torch.no_grad():
        named = call_like_diffusers(net, **given, enable_temporal_attentions=True)
        assert torch.equal(named, call_like_diffusers(net, **given))
    with pytest.raises(ValueError, match="enable_temporal_attentions=False is not supported"):
        call_like_diffusers(net, **given, enable_temporal_attentions=False)
    with pytest.raises(ValueError, match="4 frames: LatteTransformer3DModel takes 1 or 5 of them"):
        call_like_diffusers(net, **{**given, "hidden_states": given["hidden_states"][:, :, :4]})


@pytest.mark.parametrize(
    "setting, value, words",
    [
        ("norm_type", "layer_norm", "norm_type=layer_norm is not supported"),
        ("cross_attention_dim", None, "cross_attention_dim=None is not supported; it must be 24"),
        ("caption_channels", None, "caption_channels=null: diffusers builds no LatteTransformer3DModel without it"),
        ("dropout", 0.5, "dropout=0.5 is not supported"),
        ("activation_fn", "geglu-approximate", "activation_fn=geglu-approximate is not supported"),
    ],
)
def test_what_cannot_be_ours_is_refused(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        net_config({"_class_name": "LatteTransformer3DModel", **TINY, setting: value})


def test_the_authors_name_of_the_class() -> None:
    published = json.loads((Path(__file__).parent / "published/latte_xl_2.json").read_text())
    older = {"_class_name": "LatteT2V", "attention_type": "default", "norm_num_groups": 32, "upcast_attention": False}
    assert net_config(adopted({**published, **older})) == compose("latte_xl_2")
    with pytest.raises(ValueError, match="not known here: double_self_attention=True"):
        net_config(adopted({**published, **older, "double_self_attention": True}))
