"""Mochi: diffusers' MochiTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import net_config
from dit.interop.presets import build_empty, compose
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 3,
    "pooled_projection_dim": 20,
    "in_channels": 4,
    "text_embed_dim": 24,
    "time_embed_dim": 8,
}
SIZE = (4, 6, 10)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "wide text, other outputs, no patch": {"pooled_projection_dim": 40, "out_channels": 5, "patch_size": 1},
    "one block": {"num_layers": 1},
}


def model_of(variant: str) -> torch.nn.Module:
    return build(diffusers.MochiTransformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(model: torch.nn.Module) -> dict[str, Any]:
    return example(model, SIZE, text_tokens=7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = model_of(variant)
    given = arguments(model)
    assert given["encoder_attention_mask"].sum(1).tolist() == [7, 5]
    assert_equal(model, given)


def test_padding_is_not_read() -> None:
    model = model_of("usual")
    given = arguments(model)
    net = from_diffusers(model)
    right = call_like_diffusers(net, **given)
    text = given["encoder_hidden_states"].clone()
    text[1, 5:] = 9.0
    assert relative(call_like_diffusers(net, **{**given, "encoder_hidden_states": text}), right) < 1e-12
    text[1, 4] = 9.0
    assert relative(call_like_diffusers(net, **{**given, "encoder_hidden_states": text}), right) > 1e-3


def test_a_level_for_each_frame() -> None:
    """The reference has none: equal levels change nothing, and another one changes something."""
    model = model_of("usual")
    given = arguments(model)
    net = from_diffusers(model)
    right = call_like_diffusers(net, **given)
    each = given["timestep"][:, None].repeat(1, SIZE[0])
    assert relative(call_like_diffusers(net, **{**given, "timestep": each}), right) < 1e-12
    each[0, 2] += 100
    assert relative(call_like_diffusers(net, **{**given, "timestep": each}), right) > 1e-3


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["net/templates=standard", "net.pattern=F"], "text tokens are 48 wide, those of the video 96"),
        (["net.level_width=192"], "level_width=192 must be 96"),
    ],
)
def test_widths_that_do_not_fit(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=f"net cannot be built: {said}"):
        build_empty(compose("mochi_tiny", overrides))


def test_every_weight_matters() -> None:
    model = model_of("usual")
    # Nobody reads what the text asks in the last block.
    assert_notices(model, arguments(model), skip=("blocks.2.attention.text.norm_q",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(model_of(variant), tmp_path)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="activation_fn=gelu is not supported; swiglu is"):
        net_config({"_class_name": "MochiTransformer3DModel", "activation_fn": "gelu"})
    model = model_of("usual")
    given = arguments(model)
    given["encoder_attention_mask"] = given["encoder_attention_mask"].flip(1)
    with pytest.raises(ValueError, match="must hold the real tokens first"):
        call_like_diffusers(from_diffusers(model), **given)
