"""Cosmos: diffusers' CosmosTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import net_config
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example, sample
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "mlp_ratio": 2.7,
    "text_embed_dim": 12,
    "adaln_lora_dim": 6,
    "max_size": [6, 12, 14],
}
SIZE = (4, 6, 10)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "text to world": {},
    "video to world": {"in_channels": 5, "rope_scale": [2.0, 2.0, 2.0]},
    "predict2": {"in_channels": 5, "extra_pos_embed_type": None, "rope_scale": [20 / 24, 3.0, 3.0]},
    "no padding mask, patch over time, more out": {
        "concat_padding_mask": False,
        "patch_size": [2, 1, 2],
        "out_channels": 5,
    },
    "predict2.5": {
        "extra_pos_embed_type": None,
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": 20,
        "encoder_hidden_states_channels": 12,
    },
    "image beside the text": {"img_context_dim_in": 9, "img_context_dim_out": 32},
}
VARIANTS["no padding mask, patch over time, more out"]["max_size"] = [12, 6, 14]
VARIANTS["predict2"]["max_size"] = VARIANTS["predict2.5"]["max_size"] = [128, 240, 240]


def model_of(variant: str) -> torch.nn.Module:
    return build(diffusers.CosmosTransformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(model: torch.nn.Module, timestep: str = "sample") -> dict[str, Any]:
    given = example(model, SIZE, text_tokens=7)
    if timestep == "frame":
        given["timestep"] = torch.rand(2, 1, SIZE[0], 1, 1, generator=torch.manual_seed(4), dtype=torch.float64)
    return given


@pytest.mark.parametrize("timestep", ["sample", "frame"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str, timestep: str) -> None:
    model = model_of(variant)
    if timestep == "frame" and model.config["patch_size"][0] > 1:
        pytest.skip("the reference takes a timestep a frame only where a token is of one frame")
    assert_equal(model, arguments(model, timestep))


def test_equals_diffusers_for_pictures() -> None:
    """Without fps the reference counts frames; without a mask all text is read."""
    model = model_of("text to world")
    given = arguments(model)
    timed = sample(model, given)
    del given["fps"], given["attention_mask"]
    assert relative(sample(model, given), timed) > 1e-3
    assert_equal(model, given)


def test_each_sample_may_have_a_frame_rate_of_its_own() -> None:
    model = model_of("text to world")
    given = arguments(model)
    net = from_diffusers(model)
    both = call_like_diffusers(net, **{**given, "fps": torch.tensor([12.0, 30.0])})
    assert relative(both[1], call_like_diffusers(net, **given)[1]) < 1e-12
    assert relative(both[0], call_like_diffusers(net, **{**given, "fps": 12})[0]) < 1e-12
    assert relative(both[0], call_like_diffusers(net, **given)[0]) > 1e-3


def test_without_a_padding_mask_nothing_is_padding() -> None:
    model = model_of("video to world")
    given = arguments(model)
    given["padding_mask"] = torch.zeros_like(given["padding_mask"])
    net = from_diffusers(model)
    filled = call_like_diffusers(net, **given)
    assert torch.equal(call_like_diffusers(net, **{**given, "padding_mask": None}), filled)
    given["padding_mask"] += 1
    assert relative(call_like_diffusers(net, **given), filled) > 1e-3


@pytest.mark.parametrize("variant", ["video to world", "predict2.5", "image beside the text"])
def test_every_weight_matters(variant: str) -> None:
    model = model_of(variant)
    assert_notices(model, arguments(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    model = build(diffusers.CosmosTransformer3DModel, {**TINY, **VARIANTS[variant], "mlp_ratio": 2.6875})
    assert_round_trip(model, tmp_path)


@pytest.mark.parametrize(
    "setting, said",
    [
        ({"controlnet_block_every_n": 7}, "controlnet_block_every_n=7"),
        ({"extra_pos_embed_type": "sincos"}, "extra_pos_embed_type=sincos"),
        ({"use_crossattn_projection": True, "text_embed_dim": 12}, "encoder_hidden_states_channels=1024 must be"),
        ({"img_context_dim_in": 9}, "img_context_dim_out=2048 must be the width 4096"),
    ],
)
def test_what_cannot_be_is_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        net_config({"_class_name": "CosmosTransformer3DModel", **setting})
    assert "\n" not in str(error.value)


def test_arguments_that_cannot_be_are_refused() -> None:
    model = model_of("text to world")
    net = from_diffusers(model)
    given = arguments(model)
    with pytest.raises(ValueError, match="block_controlnet_hidden_states is not an argument"):
        call_like_diffusers(net, **given, block_controlnet_hidden_states=[given["hidden_states"]])
    with pytest.raises(ValueError, match="attention_mask is torch.float64; it must be bool"):
        call_like_diffusers(net, **{**given, "attention_mask": given["attention_mask"].double()})
    with pytest.raises(ValueError, match="14 tokens along f; the learned positions of this network end at 6"):
        call_like_diffusers(net, **{**given, "hidden_states": torch.zeros(2, 4, 14, 6, 10, dtype=torch.float64)})
