"""Allegro: diffusers' AllegroTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import net_config
from tests.interop import equality
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip
from tests.interop.reference import exact

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 5,
    "num_layers": 2,
    "cross_attention_dim": 24,
    "caption_channels": 10,
}
SIZE = (4, 6, 10)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "other scales": {"interpolation_scale_t": 1.0, "interpolation_scale_h": 1.25, "interpolation_scale_w": 3.0},
    "other parts": {"attention_bias": False, "activation_fn": "gelu", "norm_eps": 1e-3, "patch_size": 1},
}


def build(variant: str) -> torch.nn.Module:
    return equality.build(diffusers.AllegroTransformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(model: torch.nn.Module) -> dict[str, Any]:
    with exact():  # the rotary embedding too
        return equality.example(model, SIZE, text_tokens=7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = build(variant)
    assert_equal(model, arguments(model))


def test_equals_diffusers_without_a_mask_and_with_the_pipelines_text() -> None:
    """The pipeline gives text (B, 1, L, channels); a mask of the video that keeps everything says nothing."""
    model = build("as published")
    given = arguments(model)
    del given["encoder_attention_mask"]
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, None]
    given["attention_mask"] = torch.ones(2, *SIZE, dtype=torch.long)
    assert_equal(model, given)


def test_every_weight_matters() -> None:
    model = build("as published")
    assert_notices(model, arguments(model))


def test_a_text_without_real_tokens() -> None:
    """The class lowers all its scores alike, so it attends to all of them."""
    model = build("as published")
    given = arguments(model)
    given["encoder_attention_mask"][1] = False
    assert_equal(model, given)


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(build(variant), tmp_path)


def test_refuses_arguments_that_it_would_ignore() -> None:
    model = build("as published")
    given, net = arguments(model), from_diffusers(model)
    holes = torch.ones(2, *SIZE)
    holes[0, -1] = 0
    tables, (t, h, w) = given["image_rotary_emb"]
    for change, says in (
        ({"attention_mask": holes}, "attention_mask is not supported"),
        ({"encoder_attention_mask": torch.zeros(2, 1, 7)}, "must be"),
        ({"encoder_attention_mask": torch.full((2, 7), 0.5)}, "nothing but 1, a real token, and 0"),
        ({"timestep": None}, "timestep=None must be a tensor"),
        ({"image_rotary_emb": None}, "image_rotary_emb is missing"),
        ({"image_rotary_emb": (tables, (t, h.flip(1), w))}, "is not that of this network"),
    ):
        with pytest.raises(ValueError, match=says):
            call_like_diffusers(net, **{**given, **change})


@pytest.mark.parametrize(
    "setting, says",
    [
        ({"activation_fn": "geglu"}, "activation_fn=geglu"),
        ({"norm_elementwise_affine": True}, "never uses"),
        ({"patch_size_t": 2}, "patch_size_t=2"),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"cross_attention_dim": 8}, "must be the width 24"),
        ({"num_attention_heads": 3, "attention_head_dim": 8}, "multiple of 6"),
        ({"interpolation_scale_h": None}, "interpolation_scale_h=null"),
    ],
)
def test_refuses_settings_that_no_part_can_be(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        net_config({"_class_name": "AllegroTransformer3DModel", **TINY, **setting})
